"""Run the command line up to the moment when weights are on disk, print their folder, and wait to be ended."""

import sys
import time

import onnxq.modes.static
import onnxq.runtime.weights_on_disk
from onnxq.cli.commands import main


def find_variants(inputs, *_):
    """Stand for the next stage of the quantization."""
    print("working", inputs.store.folder, flush=True)
    time.sleep(60)


onnxq.modes.static.find_variants = find_variants
onnxq.runtime.weights_on_disk.DISK_THRESHOLD = 1 << 18
main(sys.argv[1:])
