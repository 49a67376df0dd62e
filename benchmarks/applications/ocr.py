"""rapidocr: the lines of text in pictures of pages; three models."""

import json
import logging
import sys
from pathlib import Path

from rapidocr import RapidOCR

logging.disable(logging.CRITICAL)
reader, found = RapidOCR(), []
for path in sorted((Path(sys.argv[1]) / "pages").glob("*.png")):
    found += [str(text) for text in reader(str(path)).txts or ()]
print(json.dumps(found))
