"""Reports: what was done, as data, as text and as JSON."""
