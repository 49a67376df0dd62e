"""Evaluation of written files against the float model: accuracy, errors by layer, latency, gates; changes no file."""
