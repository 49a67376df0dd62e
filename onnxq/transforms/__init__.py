"""Graph rewrites that need calibration statistics: SmoothQuant and cross-layer equalization."""
