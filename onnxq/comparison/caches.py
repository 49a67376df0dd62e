"""Caches: outputs that hold an input and more, such as the keys and values of a decoder's earlier tokens.

Nobody reads a cache but the model itself, in this step and in later ones. So the outputs beside it show what
its errors cost. Alone they mislead: attention gives the first token much weight and small values, whose
relative error is large and changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class CacheError:
    """Error of a cache against float over all samples, dB."""

    name: str
    sqnr_db: float


def find_caches(
    pairs: Mapping[str, int], given: Sequence[Mapping[str, Shape]], left: Sequence[Sequence[Shape | None]]
) -> frozenset[int]:
    """Return the indices of the outputs that are longer than the inputs that take them in the next step.

    Args:
        pairs: input name -> index of the output that becomes this input.
        given: shapes of the inputs of some samples.
        left: shapes of the outputs of the same samples; None for those that are not float.
    """
    found = {
        index
        for name, index in pairs.items()
        if given and all(_grows(one[name], other[index]) for one, other in zip(given, left, strict=True))
    }
    others = [shape for index, shape in enumerate(left[0] if left else ()) if index not in found]
    return frozenset(found) if any(shape is not None for shape in others) else frozenset()


def _grows(before: Shape, after: Shape | None) -> bool:
    """Check that a shape is longer along one axis, and the same along all others."""
    if after is None or len(before) != len(after):
        return False
    longer = [b - a for a, b in zip(before, after, strict=True)]
    return min(longer, default=0) >= 0 and sum(map(bool, longer)) == 1


def described(caches: Sequence[CacheError]) -> str:
    """Return a sentence about caches, worst first."""
    worst = f"alone {caches[0].sqnr_db:.1f} dB or more ('{caches[0].name}')"
    if len(caches) == 1:
        return f"1 output only feeds the next step: the others show what its error costs; {worst}"
    return f"{len(caches)} outputs only feed the next step: the others show what their errors cost; {worst}"
