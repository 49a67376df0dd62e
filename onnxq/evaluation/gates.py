"""What a release has to hold: each gate with what was found, and one line about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gate:
    """One condition on one model: what was found (None where it could not be measured), and whether it holds."""

    name: str
    model: str
    limit: float
    found: float | None
    holds: bool
    line: str


def at_least(name: str, model: str, limit: float | None, found: float | None, what: str) -> list[Gate]:
    """A gate on a value that must not be smaller; `what` has a place for it, as in "SQNR is {:.2f} dB"."""
    return _gate(
        name, model, limit, found, what, holds=found is not None and limit is not None and found >= limit
    )


def at_most(name: str, model: str, limit: float | None, found: float | None, what: str) -> list[Gate]:
    """A gate on a value that must not be larger."""
    return _gate(
        name,
        model,
        limit,
        found,
        what,
        holds=found is not None and limit is not None and found <= limit + 1e-9,
    )


def unchecked(name: str, model: str, limit: float | None, why: str) -> list[Gate]:
    """A gate that cannot be checked, and so does not hold."""
    return (
        []
        if limit is None
        else [
            Gate(
                name,
                model,
                limit,
                None,
                holds=False,
                line=f"{model}: {name} {limit:g} cannot be checked: {why}",
            )
        ]
    )


def _gate(
    name: str, model: str, limit: float | None, found: float | None, what: str, *, holds: bool
) -> list[Gate]:
    if limit is None:
        return []
    said = (
        f"{name} {limit:g} cannot be checked: not measured"
        if found is None
        else f"{what.format(found)}, {name} {limit:g}"
    )
    return [Gate(name, model, limit, found, holds, f"{model}: {said}")]
