"""The cost model of kernels and the placement by it; nothing here knows of accuracy."""
