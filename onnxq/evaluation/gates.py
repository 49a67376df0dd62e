"""Gates: required limits of a release, each with its measurement and a line of text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gate:
    """A limit on one property of one model.

    name   option that sets the limit
    limit  required value
    found  measured value; None without a measurement
    holds  whether the limit is met
    line   one line for reports
    """

    name: str
    model: str
    limit: float
    found: float | None
    holds: bool
    line: str


def at_least(name: str, model: str, limit: float | None, found: float | None, template: str) -> list[Gate]:
    """Make a gate with a lower limit, if one is set; `template` formats the value, "SQNR is {:.2f} dB"."""
    return _gate(
        name, model, limit, found, template, holds=found is not None and limit is not None and found >= limit
    )


def at_most(name: str, model: str, limit: float | None, found: float | None, template: str) -> list[Gate]:
    """Make a gate with an upper limit, if one is set."""
    return _gate(
        name,
        model,
        limit,
        found,
        template,
        holds=found is not None and limit is not None and found <= limit + 1e-9,
    )


def unchecked(name: str, model: str, limit: float | None, reason: str) -> list[Gate]:
    """Make a gate that fails because it cannot be checked, if a limit is set."""
    if limit is None:
        return []
    line = f"{model}: {name} {limit:g} cannot be checked: {reason}"
    return [Gate(name, model, limit, None, holds=False, line=line)]


def _gate(
    name: str, model: str, limit: float | None, found: float | None, template: str, *, holds: bool
) -> list[Gate]:
    if limit is None:
        return []
    text = (
        f"{name} {limit:g} cannot be checked: not measured"
        if found is None
        else f"{template.format(found)}, {name} {limit:g}"
    )
    return [Gate(name, model, limit, found, holds, f"{model}: {text}")]
