"""The measurement of the runtime's kernels on this machine, and the target file that follows from it."""
