"""Normalization passes, one file each, that do not change the outputs; nothing here depends on data."""
