"""Quantization modes, from the inputs to the model to write; formats and techniques are in lower folders."""
