"""Comparison of a quantized model with its float model: values to read, their parts, and their errors."""
