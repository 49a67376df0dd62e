"""Readers and preprocessing that turn files into model inputs; nothing here knows of quantization."""
