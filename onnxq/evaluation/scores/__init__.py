"""Scores: what a task counts. One file a kind; `kinds.py` names them all."""
