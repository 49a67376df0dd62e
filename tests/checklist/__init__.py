"""Models with the peculiarities of real models, one or more for each line of a checklist."""
