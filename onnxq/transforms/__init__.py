"""Graph rewrites that need calibration statistics, and the registry of techniques; no pure arithmetic."""
