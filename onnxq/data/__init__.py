"""Readers and preprocessing of samples: files become model inputs, one sample at a time."""
