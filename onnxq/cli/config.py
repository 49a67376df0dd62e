"""`onnxq.toml`: every option of a command may stand in a table of the command's name."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxq.errors import OnnxqError

DEFAULT = Path("onnxq.toml")


@dataclass(frozen=True)
class Key:
    """What an option's name in the file stands for: a parameter, or its opposite (`--all-int8` that of `--give-back`)."""

    parameter: str
    opposite: bool = False


def read_config(path: Path, commands: Mapping[str, Mapping[str, Key]]) -> dict[str, Any]:
    """Defaults by command and parameter.

    Args:
        path: the file.
        commands: the options that each command takes, by their names without dashes in front.

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
            raise OnnxqError(
                f"{path}: unknown table [{command}]: it takes {', '.join(['preprocess', *commands])}"
            )
        defaults[command] = _checked(table, commands[command], f"{path}: [{command}]")
    if "preprocess" in tables:
        for command, known in commands.items():
            if "preprocess" in known:
                defaults.setdefault(command, {}).setdefault("preprocess", str(path))
    return defaults


def _checked(table: dict[str, Any], known: Mapping[str, Key], where: str) -> dict[str, Any]:
    """A command's table by parameter."""
    found = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in known:
            raise OnnxqError(f"{where} has no option '{key}': it takes {', '.join(sorted(known))}")
        if known[name].opposite and not isinstance(value, bool):
            raise OnnxqError(f"{where} {key}: {value!r} is not true or false")
        found[known[name].parameter] = not value if known[name].opposite else value
    return found
