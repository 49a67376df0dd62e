"""`python -m onnxq`."""

from onnxq.cli.commands import main

main(prog_name="onnxq")
