"""One-class anomaly detection, and why it fails when normal hides several classes."""
