"""Accuracy techniques, one file each."""
