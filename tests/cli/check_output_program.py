"""Check that a file can be written: `check_output_program.py OUTPUT MODEL` prints the error, if there is one."""

import sys
from pathlib import Path

from onnxq.errors import OutputError
from onnxq.graph.files import check_output

output, model = map(Path, sys.argv[1:])
try:
    check_output(output, model, force=False)
except OutputError as error:
    print(error)
