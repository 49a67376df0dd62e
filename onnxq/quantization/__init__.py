"""Scales, zero points and stored integers of a plan; nothing here edits a graph."""
