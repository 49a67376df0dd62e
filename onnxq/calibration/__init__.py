"""Calibration: one pass over the samples, one mergeable sketch per tensor, every method from the sketch."""
