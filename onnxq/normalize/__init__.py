"""Passes that bring any model into one form without changing its outputs, one file each."""
