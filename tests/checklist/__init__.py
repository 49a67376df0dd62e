"""Models with what users bring, one or more for each line of the checklist."""
