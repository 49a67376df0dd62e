"""nudenet: the parts of bodies in photographs, found with a low threshold, and where."""

import json
import sys
from pathlib import Path

from nudenet import NudeDetector

detector, found = NudeDetector(), []
for path in sorted((Path(sys.argv[1]) / "photographs").glob("*.png")):
    boxes = [each for each in detector.detect(str(path)) if each["score"] > 0.3]
    found.append(sorted((each["class"], *(round(edge / 16) for edge in each["box"])) for each in boxes))
print(json.dumps(found))
