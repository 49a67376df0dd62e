"""`python -m onnxq`."""

from onnxq.cli import main

main(prog_name="onnxq")
