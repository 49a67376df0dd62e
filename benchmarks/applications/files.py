"""magika: the type of each file."""

import json
import sys
from pathlib import Path

from magika import Magika

magika = Magika()
print(
    json.dumps([magika.identify_path(path).output.label for path in sorted(Path(sys.argv[1]).rglob("*.*"))])
)
