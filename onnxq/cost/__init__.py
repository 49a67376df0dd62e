"""The cost model of kernels and the placement that follows from it; nothing here knows of accuracy."""
