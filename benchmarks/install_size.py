"""Size of the wheel, of an environment with onnxq and each extra, and the CPU time of `onnxq --help`.

    python benchmarks/install_size.py [FOLDER]

Each extra is installed into a folder of its own with the versions of constraints.txt. Needs a package index.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("", "images", "audio", "text", "tables", "report", "plots", "cluster", "all")
STARTS = 15


def install(wheel: Path, extra: str, folder: Path) -> None:
    """Install the wheel with an extra into a folder."""
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", "--target", folder, what], check=True)


def megabytes(folder: Path) -> float:
    """Return the size of all files, MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def start_seconds(folder: Path) -> float:
    """Return the median CPU time of `onnxq --help`, s; the first start compiles the modules."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    times = []
    for _ in range(STARTS + 1):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "onnxq", "--help"],
            env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        after = os.times()
        times.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    return statistics.median(times[1:])


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "-w", work, ROOT], check=True)
        (wheel,) = work.glob("onnxq-*.whl")
        print(f"wheel: {wheel.stat().st_size / 1e6:.2f} MB")
        base = 0.0
        for extra in EXTRAS:
            folder = work / (extra or "base")
            install(wheel, extra, folder)
            total = megabytes(folder)
            base = base or total
            print(
                f"{extra or '(base)'}: {total:.0f} MB, {total - base:.0f} MB more than the base", flush=True
            )
        print(f"onnxq --help: {start_seconds(work / 'base'):.2f} s of CPU time")


if __name__ == "__main__":
    main()
