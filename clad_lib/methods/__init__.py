"""Every anomaly score that is not CLAD's own, one module a family."""
