"""Evaluation of written files against the float model; nothing here changes a model."""
