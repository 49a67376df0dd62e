"""Calibration: one pass over the samples, one mergeable sketch a tensor, every method from the sketch."""
