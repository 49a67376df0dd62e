"""Errors of a model against its float model: compared values, their parts, decisions; no choices here."""
