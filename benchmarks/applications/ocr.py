"""rapidocr-onnxruntime: the lines of text in pictures of pages; three models."""

import json
import logging
import sys
from pathlib import Path

from rapidocr_onnxruntime import RapidOCR

logging.disable(logging.CRITICAL)
reader, found = RapidOCR(), []
for path in sorted((Path(sys.argv[1]) / "pages").glob("*.png")):
    found += [text for _box, text, _score in reader(str(path))[0] or ()]
print(json.dumps(found))
