"""Accuracy techniques, one file each: pure NumPy, arrays in and arrays out; no graphs here."""
