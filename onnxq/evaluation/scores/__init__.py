"""Task metrics, one file for each kind; `kinds.py` registers them; nothing here runs a model."""
