"""clad: one-class anomaly detection when normal hides several classes."""
