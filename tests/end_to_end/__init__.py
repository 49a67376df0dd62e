"""Whole commands on files, and benchmarks and recipes around them."""
