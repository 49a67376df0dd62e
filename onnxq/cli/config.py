"""`onnxq.toml`: a table per command with defaults of its options, and [preprocess] for all commands.

A file that --config does not name, but lies in the current folder, runs no code and names no file to write.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnxq.cli.groups import GroupedOption
from onnxq.errors import OnnxqError
from onnxq.options import PYTHON_FUNCTION

DEFAULT = Path("onnxq.toml")
LARGEST = 1 << 20
"""Bytes of the largest configuration file."""
_FOUND = "onnxq.found_file"
"""Key of click's `Context.meta` under which the path of a file that was not named is kept."""


@dataclass(frozen=True)
class Key:
    """A key of the file and the parameter that it sets.

    parameter  the command's parameter
    opposite   whether the key sets the parameter to the opposite of its value, as `all-int8` does
    hidden     whether the key is an old name, which messages do not list
    """

    parameter: click.Option
    opposite: bool = False
    hidden: bool = False

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return self.parameter.name or ""


def keys_of(parameters: Iterable[click.Parameter]) -> dict[str, Key]:
    """Return the keys for the options of a command: their long names without the dashes."""
    keys: dict[str, Key] = {}
    for each in parameters:
        if isinstance(each, GroupedOption):
            keys |= {key: Key(each, hidden=True) for key in _long_names(each.aliases)}
            keys |= {key: Key(each, opposite=True) for key in _long_names(each.secondary_opts)}
            keys |= {key: Key(each) for key in _long_names(each.opts)}
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
    defaults: dict[str, Any] = {}
    tables = _tables(path)
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


def _tables(path: Path) -> dict[str, Any]:
    """Parse a file; raise an `OnnxqError` if that is impossible."""
    import tomllib

    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise OnnxqError(f"{path}: more than {LARGEST} bytes: name a TOML file of options")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise OnnxqError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise OnnxqError(f"{path}: nested too deeply: name a TOML file of options") from error
    except ValueError as error:  # no UTF-8, no TOML, or an integer of thousands of digits
        raise OnnxqError(f"{path}: not a TOML file: {error}") from error


def _checked(table: dict[str, Any], known: Mapping[str, Key], where: str) -> dict[str, Any]:
    """Return the values of a command's table by parameter; raise an `OnnxqError` for a wrong key or value."""
    values = {}
    for text, value in table.items():
        key = known.get(text.replace("_", "-"))
        if key is None:
            names = ", ".join(sorted(name for name, each in known.items() if not each.hidden))
            raise OnnxqError(f"{where} has no option '{text}': it takes {names}")
        values[key.name] = _value(key, value, f"{where} {text}")
    return values


def _value(key: Key, value: Any, where: str) -> Any:
    """Return a value of the type that click converts without an exception of another kind."""
    if isinstance(key.parameter.type, click.types.BoolParamType):
        if not isinstance(value, bool):
            raise OnnxqError(f"{where}: {value!r} is not true or false")
        return value is not key.opposite
    several = key.parameter.multiple
    values = value if several and isinstance(value, list) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            kind = "a list of texts or numbers" if several else "a text or a number"
            raise OnnxqError(f"{where}: {each!r} is not {kind}")
    texts = [str(each) for each in values]
    return texts if several else texts[0]


def remember_found_file(context: click.Context, path: Path) -> None:
    """Note that the options of a file are in use that --config did not name."""
    context.meta[_FOUND] = path


def found_file(context: click.Context) -> Path | None:
    """Return the file in use that --config did not name; None if there is none."""
    path: Path | None = context.meta.get(_FOUND)
    return path


def check_found_file(context: click.Context) -> None:
    """Check that a file which was merely found runs no code and names no file to write.

    Raises:
        OnnxqError: an option of the command has such a value from the file.
    """
    path = found_file(context)
    if path is None:
        return
    for parameter in context.command.params:
        if context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT_MAP:
            continue
        value = context.params[parameter.name or ""]
        does = ""
        if value and getattr(parameter, "writes", False):
            does = "writes or overwrites files"
        if getattr(parameter, "function", False) and PYTHON_FUNCTION.fullmatch(str(value)):
            does = "runs Python code"
        if does:
            raise OnnxqError(
                f"{path} in the current folder sets {parameter.opts[-1]}, which {does}: "
                f"name the file to allow that (onnxq --config {path} ...), or remove the line"
            )
