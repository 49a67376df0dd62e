"""Generate the reference of the commands, the schemas of the reports, and the pictures.

python docs/generate.py          write all
python docs/generate.py --check  list texts that are out of date, and exit with 1 if there are any
python docs/generate.py --tutorials [PAGE ...]  run tutorials, and write what their commands print into them
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import tutorials
from pydantic import TypeAdapter

from onnxq.cli.commands import main as commands
from onnxq.evaluation.benchmark import BenchReport
from onnxq.evaluation.drift import DriftReport
from onnxq.evaluation.report import EvalReport
from onnxq.exports.evaluation import FolderEvalReport
from onnxq.exports.folder import FolderReport
from onnxq.report.quantization import QuantizeReport

HERE = Path(__file__).parent
KINDS = (
    ("quantize", QuantizeReport),
    ("eval", EvalReport),
    ("quantize-folder", FolderReport),
    ("eval-folder", FolderEvalReport),
    ("bench", BenchReport),
    ("drift", DriftReport),
)
"""Reports whose JSON has a schema."""
WIDTH = 100
"""Columns of the terminal that the reference shows."""


def reference() -> str:
    """Return the help of every command, as the terminal shows it."""
    root = click.Context(commands, info_name="onnxq", terminal_width=WIDTH, **commands.context_settings)
    parts = [
        "# Reference\n",
        "The help of each command, written by `python docs/generate.py`. The long names of options are also "
        "the\nkeys of `onnxq.toml`, in a table of the command's name.\n",
        _block(commands.get_help(root)),
    ]
    for name, command in commands.commands.items():
        context = click.Context(command, parent=root, info_name=name, terminal_width=WIDTH)
        parts += [f"## onnxq {name}\n", _block(command.get_help(context))]
    return "\n".join(parts)


def _block(text: str) -> str:
    """Return a text as a code block."""
    return f"```text\n{text}\n```\n"


def schemas() -> dict[str, str]:
    """Return the JSON Schemas of the output of `--json`, by file name."""
    found = {}
    for name, kind in KINDS:
        schema = TypeAdapter(kind).json_schema(mode="serialization")
        version = schema["properties"]["schema"]["default"]
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": f"onnxq {name} --json, version {version}",
            **schema,
        }
        found[f"schema/{name}.json"] = json.dumps(schema, indent=2, sort_keys=True) + "\n"
    return found


def texts() -> dict[str, str]:
    """Return all generated texts, by path in this folder."""
    return {"reference.md": reference(), **schemas()}


def run_tutorials(names: Sequence[str]) -> None:
    """Run tutorials, all by default, and write what their commands print into their pages."""
    pages = [HERE / name for name in names] or sorted(HERE.glob("tutorial-*.md"))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            printed = tutorials.run(text, Path(folder))
        page.write_text(tutorials.with_outputs(text, printed), encoding="utf-8")


def main() -> None:
    """Write all files, or compare the texts with `--check`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare texts (not pictures), write nothing")
    parser.add_argument("--tutorials", nargs="*", metavar="PAGE", help="run these tutorials, or all")
    args = parser.parse_args()
    if args.tutorials is not None:
        run_tutorials(args.tutorials)
        return
    stale = [
        name
        for name, text in texts().items()
        if not (HERE / name).is_file() or (HERE / name).read_text(encoding="utf-8") != text
    ]
    if args.check:
        sys.exit("\n".join(f"docs/{name} is out of date: run python docs/generate.py" for name in stale) or 0)
    for name, text in texts().items():
        (HERE / name).write_text(text, encoding="utf-8")
    from pictures import draw

    draw(HERE / "pictures")


if __name__ == "__main__":
    main()
