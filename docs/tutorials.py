"""Run the tutorials: save their files, run their commands, and put what these print into the pages.

A page is run as it is read. A block of code with a title, such as ```python title="app.py"```, is saved in
the current folder. In a `console` block, lines after "$ " are commands of one shell. The lines under it are
what it prints; a line "..." stands for lines left out. A command without such lines prints nothing there.
Commands that install packages are not run: the environment has them.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLS = re.compile(r"pip3? install|pip3? wheel|uv |uvx |pipx |git clone")
"""Commands for an environment, which is there already."""
LEFT_OUT = "..."


@dataclass(frozen=True)
class Step:
    """A command with the lines that the page shows, or a file to save.

    start, end  place of the lines, or of the file's text, in the page
    """

    command: str
    name: str
    text: str
    start: int
    end: int


def steps(page: str) -> list[Step]:
    """Return the steps of a page in order."""
    found = []
    for block in BLOCK.finditer(page):
        kind, name, text = block.groups()
        if name:
            found.append(Step("", name, text, block.start(3), block.end(3)))
        elif kind == "console":
            found += _commands(text, block.start(3))
    return found


def _commands(text: str, offset: int) -> list[Step]:
    """Return the commands of a block, each with the lines under it."""
    parts = [match.start() for match in re.finditer(r"^\$ ", text, re.MULTILINE)]
    found = []
    for start, end in zip(parts, [*parts[1:], len(text)], strict=True):
        line, _, shown = text[start:end].partition("\n")
        begin = start + len(line) + 1
        found.append(Step(line[2:], "", shown, offset + begin, offset + end))
    return found


def run(page: str, folder: Path, *, seconds: float = 3600) -> dict[int, str]:
    """Run the steps of a page in a folder of links to the repository's models and data.

    Args:
        page: its text.
        folder: an empty folder.
        seconds: longest time.

    Returns: what each command that shows something printed, by the place of its step.

    Raises:
        RuntimeError: a command failed.
    """
    for name in ("sample_models", "calib_data", "benchmarks", "docs"):
        (folder / name).symlink_to(HERE.parent / name)
    printed = folder / ".printed"
    printed.mkdir()
    numbered = [(i, step) for i, step in enumerate(steps(page)) if not INSTALLS.match(step.command)]
    script = ["set -eo pipefail", "trap 'test $? = 0 || echo \"failed: step $at\" >&2' EXIT"]
    for i, step in numbered:
        if step.name:
            (printed / f"{i}.file").write_text(step.text, encoding="utf-8")
            script.append(f'mkdir -p "$(dirname "{step.name}")"; cp "{printed}/{i}.file" "{step.name}"')
        else:
            script.append(f"at={i}\n{{ {step.command}\n}} > {printed}/{i}.txt")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "PYTHONPATH": str(HERE.parent),
        "NO_COLOR": "1",
        "COLUMNS": "128",
    }
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder, env=environment, text=True, stderr=subprocess.PIPE, timeout=seconds, check=False,
    )  # fmt: skip
    if done.returncode:
        failed = int(done.stderr.rpartition("failed: step ")[2])
        last = (printed / f"{failed}.txt").read_text(encoding="utf-8")
        command = steps(page)[failed].command
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{last[-2000:]}\n{done.stderr[-4000:]}")
    place = str(folder.resolve())
    outputs = {
        i: (printed / f"{i}.txt").read_text(encoding="utf-8").replace(place, "/home/me")
        for i, step in numbered
        if not step.name
    }
    shutil.rmtree(printed)
    return {i: outputs[i] for i, step in numbered if not step.name and step.text}


def with_outputs(page: str, printed: dict[int, str]) -> str:
    """Return the page with what its commands print; lines left out stay left out."""
    for i, step in reversed(list(enumerate(steps(page)))):
        if i in printed:
            page = page[: step.start] + _shortened(printed[i], step.text) + page[step.end :]
    return page


def _shortened(printed: str, shown: str) -> str:
    """Leave out the lines that the page leaves out: as many are shown before and after."""
    lines, before = printed.rstrip().splitlines(), shown.splitlines()
    lines = [line.rstrip() for line in lines]
    if LEFT_OUT in before:
        head, tail = before.index(LEFT_OUT), len(before) - before.index(LEFT_OUT) - 1
        lines = [*lines[:head], LEFT_OUT, *(lines[len(lines) - tail :] if tail else [])]
    return "".join(f"{line}\n" for line in lines)
