"""Check that a file can be written: `check_output_program.py OUTPUT MODEL` prints the error, if there is one."""

import os
import sys
from pathlib import Path

from onnxq.errors import OutputError
from onnxq.graph.files import check_output

output, model = map(Path, sys.argv[1:])
if os.geteuid() == 0:  # root can write everywhere; another user might not be able to read the interpreter
    os.setgroups([])
    os.seteuid(65534)
try:
    check_output(output, model, force=False)
except OutputError as error:
    print(error)
