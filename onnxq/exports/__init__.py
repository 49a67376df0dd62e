"""Folders that exporters write: several models with their settings, quantized together; no numerics."""
