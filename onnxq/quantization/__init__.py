"""Scales, zero points and stored integers of a plan: weights and activation parameters."""
