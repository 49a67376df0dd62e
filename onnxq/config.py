"""`onnxq.toml`: every option of a command may stand in a table of the command's name."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxq.errors import OnnxqError

DEFAULT = Path("onnxq.toml")


def read_config(path: Path, commands: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Defaults by command, with option names as Python names.

    Args:
        path: the file.
        commands: the options that each command takes.

    Raises:
        OnnxqError: not a TOML file, or a table or key that no command has.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OnnxqError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OnnxqError(f"{path}: not a TOML file: {error}") from error
    defaults: dict[str, Any] = {}
    for command, table in tables.items():
        if command == "preprocess":
            continue
        if command not in commands or not isinstance(table, dict):
            raise OnnxqError(f"{path}: unknown table [{command}]: it takes {', '.join(['preprocess', *commands])}")
        defaults[command] = _checked(table, set(commands[command]), f"{path}: [{command}]")
    if "preprocess" in tables:
        for command, known in commands.items():
            if "preprocess" in known:
                defaults.setdefault(command, {}).setdefault("preprocess", str(path))
    return defaults


def _checked(table: dict[str, Any], known: set[str], where: str) -> dict[str, Any]:
    """A command's table with its keys as Python names."""
    for key in table:
        if key.replace("-", "_") not in known:
            options = ", ".join(sorted(known)).replace("_", "-")
            raise OnnxqError(f"{where} has no option '{key}': it takes {options}")
    return {key.replace("-", "_"): value for key, value in table.items()}
