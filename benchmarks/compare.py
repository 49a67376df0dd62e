"""Hold two records of corpus.py against one another: what got better, what got worse.

    python benchmarks/compare.py OLD.json NEW.json

Exits with 1 where something got worse by more than the machine's noise, or than a metric may move.
"""

import json
import sys
from pathlib import Path
from typing import Any

NOISE = {
    "score": (0.003, +1), "sqnr_db": (0.5, +1), "agree": (0.005, +1), "size_ratio": (0.005, -1),
    "speedup": (0.06, +1), "x_static": (0.08, +1), "x_dynamic": (0.08, +1), "R": (0.25, -1), "peak_mb": (0.15, -1),
}  # fmt: skip
"""What may change without meaning anything, and which way is better; shares of the old value for speeds, R and memory."""
RELATIVE = frozenset({"speedup", "x_static", "x_dynamic", "R", "peak_mb"})


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, float, float, bool]]:
    """(key, before, after, better) of what changed by more than noise."""
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
    old, new = (json.loads(Path(path).read_text()) for path in sys.argv[1:3])
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
