"""Write what the documentation takes from the program: the reference of the commands, the schemas of the reports, the pictures.

python docs/generate.py             write everything
python docs/generate.py --check     say what is out of date, and exit with 1 then (pictures are not compared)
"""

import argparse
import json
import sys
from pathlib import Path

import click
from pydantic import TypeAdapter

from onnxq.cli.commands import main as commands
from onnxq.evaluation.benchmark import BenchReport
from onnxq.evaluation.report import EvalReport
from onnxq.report.quantization import QuantizeReport

HERE = Path(__file__).parent


def reference() -> str:
    """Every command with its help, as a user sees it."""
    root = click.Context(commands, info_name="onnxq", max_content_width=100, terminal_width=100)
    parts = [
        "# Reference\n",
        "Written by `python docs/generate.py` from the program itself.\n",
        _block(commands.get_help(root)),
    ]
    for name, command in sorted(commands.commands.items()):
        inner = click.Context(command, parent=root, info_name=name, max_content_width=100, terminal_width=100)
        parts += [f"## onnxq {name}\n", _block(command.get_help(inner))]
    return "\n".join(parts)


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n"


def schemas() -> dict[str, str]:
    """JSON Schemas of what `--json` prints, by file name."""
    found = {}
    for name, kind in (("quantize", QuantizeReport), ("eval", EvalReport), ("bench", BenchReport)):
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
    """All generated texts by path in this folder."""
    return {"reference.md": reference(), **schemas()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
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
