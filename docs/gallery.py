"""Make the reports of the gallery on the site: `make docs` runs this, and the repository does not keep them.

    python docs/gallery.py FOLDER

Each report is that of a command on a sample model. The commands of the gallery's page are these.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMAND = re.compile(r"^\$ (onnxq .*)$", re.MULTILINE)
GATE_FAILED = 1
"""Exit code of a command whose report is complete all the same."""
REPORT = re.compile(r"--report (\S+\.html)")


def commands(page: str) -> list[str]:
    """Return the commands of the gallery's page."""
    return COMMAND.findall(page)


def make(folder: Path, wanted: list[str]) -> list[Path]:
    """Run commands beside the sample models; move their reports to `folder`, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in ("sample_models", "calib_data"):
            (work / name).symlink_to(HERE.parent / name)
        for command in wanted:
            arguments = command.split()[1:]
            done = subprocess.run([sys.executable, "-m", "onnxq", *arguments], cwd=work, check=False)
            if done.returncode not in (0, GATE_FAILED):  # the numbers are those of this machine
                raise SystemExit(f"{command}: exit code {done.returncode}")
            for name in REPORT.findall(command):
                made.append(Path(shutil.move(work / name, folder / name)))
    return made


def main() -> None:
    page = (HERE / "gallery.md").read_text(encoding="utf-8")
    for path in make(Path(sys.argv[1]), commands(page)):
        print(path)


if __name__ == "__main__":
    main()
