"""Evaluation of quantized files against the float model: accuracy, layer errors, latency, gates."""
