"""The command line: parse options, call one function of the package, print the report.

No module here imports NumPy or ONNX at its top, so that help appears at once.
"""
