"""Output formats and rewrites of the written file, one file each; no node is chosen here."""
