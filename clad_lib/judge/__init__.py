"""Arrays in, numbers out: metrics, intervals, tests and guarantees."""
