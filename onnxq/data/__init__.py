"""Samples: folders of files become feeds, one at a time."""
