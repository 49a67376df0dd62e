"""The accuracy search: it compares candidates and chooses a recipe; no output file is written here."""
