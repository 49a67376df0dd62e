"""`onnxq.toml`: a table per command with defaults of its options, and [preprocess] for all commands."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from onnxq.cli.groups import GroupedOption
from onnxq.errors import OnnxqError

DEFAULT = Path("onnxq.toml")


@dataclass(frozen=True)
class Key:
    """A key of the file and the parameter that it sets.

    parameter  name of the command's parameter
    opposite   whether the key sets the parameter to the opposite of its value, as `all-int8` does
    hidden     whether the key is an old name, which messages do not list
    """

    parameter: str
    opposite: bool = False
    hidden: bool = False


def keys_of(parameters: Iterable[click.Parameter]) -> dict[str, Key]:
    """Return the keys for the options of a command: their long names without the dashes."""
    keys: dict[str, Key] = {}
    for each in parameters:
        if isinstance(each, GroupedOption):
            name = each.name or ""
            keys |= {key: Key(name, hidden=True) for key in _long_names(each.aliases)}
            keys |= {key: Key(name, opposite=True) for key in _long_names(each.secondary_opts)}
            keys |= {key: Key(name) for key in _long_names(each.opts)}
    return keys


def _long_names(names: Iterable[str]) -> list[str]:
    return [name[2:] for name in names if name.startswith("--")]


def read_config(path: Path, commands: Mapping[str, Mapping[str, Key]]) -> dict[str, Any]:
    """Read the defaults of parameters, by command.

    Args:
        path: the file.
        commands: the keys of each command.

    Raises:
        OnnxqError: the file is not TOML, or no command has such a table or key.
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
    """Return the values of a command's table by parameter; raise an `OnnxqError` for an unknown key."""
    values = {}
    for text, value in table.items():
        key = known.get(text.replace("_", "-"))
        if key is None:
            names = ", ".join(sorted(name for name, each in known.items() if not each.hidden))
            raise OnnxqError(f"{where} has no option '{text}': it takes {names}")
        if key.opposite and not isinstance(value, bool):
            raise OnnxqError(f"{where} {text}: {value!r} is not true or false")
        values[key.parameter] = not value if key.opposite else value
    return values
