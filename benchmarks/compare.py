"""Compare two records of corpus.py and list the changes.

    python benchmarks/compare.py OLD.json NEW.json

The script prints each value that moved by more than the noise of its measurement, as better or WORSE, and
each case that fails now. It exits with 1 where anything got worse.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

BETTER_UP, BETTER_DOWN = +1, -1
NOISE = {
    "score": (0.003, BETTER_UP),
    "sqnr_db": (0.5, BETTER_UP),
    "agree": (0.005, BETTER_UP),
    "size_ratio": (0.005, BETTER_DOWN),
    "speedup": (0.06, BETTER_UP),
    "x_static": (0.08, BETTER_UP),
    "x_dynamic": (0.08, BETTER_UP),
    "R": (0.25, BETTER_DOWN),
    "peak_mb": (0.15, BETTER_DOWN),
}
"""By key of a record: the largest change that is noise, and the direction that is better."""
RELATIVE = frozenset({"speedup", "x_static", "x_dynamic", "R", "peak_mb"})
"""Keys whose noise is a share of the old value."""


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, float, float, bool]]:
    """Return (key, before, after, better) of each value of a case that changed by more than noise."""
    found = []
    for key, (noise, direction) in NOISE.items():
        before, after = old.get(key), new.get(key)
        if before is None or after is None:
            continue
        moved = direction * (after - before) / (before if key in RELATIVE else 1.0)
        if abs(moved) > noise:
            found.append((key, before, after, moved > 0))
    return found


def main() -> None:
    """Print the changes, case by case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    old, new = (json.loads(path.read_text()) for path in (args.old, args.new))
    if old["machine"] != new["machine"] or old["older_cpu"] != new["older_cpu"]:
        print(f"another machine: {old['machine']['cpu']} and {new['machine']['cpu']}; speeds may not compare")
    before = {case["case"]: case for case in old["cases"]}
    worse = 0
    for case in new["cases"]:
        name = case["case"]
        if name not in before:
            print(f"{name}: new")
            continue
        if "error" in case and "error" not in before[name]:
            worse += 1
            print(f"{name}: fails now: {case['error']}")
            continue
        for key, a, b, better in changes(before[name], case):
            worse += not better
            print(f"{name}: {key} {a:g} -> {b:g} {'better' if better else 'WORSE'}")
    print(f"{worse} got worse" if worse else "nothing got worse")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
