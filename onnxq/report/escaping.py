"""Escaping of names from models and data, which may hold control characters; imports nothing heavy."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

T = TypeVar("T")


def printable(text: str) -> str:
    r"""Escape the characters that `repr` escapes: ESC becomes \x1b, a line break \n.

    These are control characters (C0 and C1), line separators, marks that change the direction of text, and
    halves of surrogate pairs. A terminal obeys the first, and XML admits few of them.
    """
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def printable_lines(text: str) -> str:
    """Escape a text of several lines, but not its line breaks."""
    return "\n".join(printable(line) for line in text.split("\n"))


def printable_report(report: T) -> T:
    """Copy a report with all its texts escaped, whatever its fields are."""
    return cast(T, _escaped(report))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return printable(str(value))
    if is_dataclass(value) and not isinstance(value, type):
        changed = {each.name: _escaped(getattr(value, each.name)) for each in fields(value) if each.init}
        return replace(value, **changed)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_escaped(each) for each in value)
    return value
