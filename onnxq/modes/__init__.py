"""Quantization without calibrated ranges: one file a mode; `pipeline.MODES` names them all."""
