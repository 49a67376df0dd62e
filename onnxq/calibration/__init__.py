"""Calibration: sketches and moments from one pass, and the calibration methods; no plan is made here."""
