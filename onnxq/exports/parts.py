"""The models of a folder that generate text together: their roles, told by their inputs and outputs.

Exporters write a decoder as one model with a cache, as one with a switch for the first step ("merged"), or as
two: for the first step, and for all others. Models that answer from texts, images or sounds to a decoder's
`encoder_hidden_states` are encoders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from onnxq.data.preprocessing import Forms
from onnxq.data.text import is_state
from onnxq.evaluation.generation import BRANCH, HIDDEN, LOGITS
from onnxq.graph.files import load
from onnxq.runtime.sessions import InputSpec, model_inputs

HIDDEN_OUTPUT, CACHE_OUTPUT, CROSS_CACHE = "last_hidden_state", "present", ".encoder."
SETTINGS = "generation_config.json"


class Role(StrEnum):
    """What a model does in its folder.

    ENCODER    gives a decoder its context
    FIRST      first step of a decoder; gives the cache
    FOLLOWING  all other steps; takes the cache
    MERGED     all steps; an input says whether the cache is filled
    SINGLE     all steps; the first one takes an empty cache, or there is none
    OTHER      generates nothing
    """

    ENCODER = "encoder"
    FIRST = "first step"
    FOLLOWING = "steps with a cache"
    MERGED = "all steps, with a switch"
    SINGLE = "all steps"
    OTHER = "other"


DECODERS = (Role.FIRST, Role.FOLLOWING, Role.MERGED, Role.SINGLE)


@dataclass(frozen=True)
class Part:
    """A model of a folder."""

    path: Path
    role: Role
    specs: list[InputSpec]


@dataclass(frozen=True)
class Export:
    """Models of one folder.

    parts   all models, in the order of their names
    routes  decoders that generate: one model, or the one of the first step and the one of the others; merged
            decoders come first, as libraries choose
    """

    folder: Path
    parts: list[Part]
    encoder: Part | None
    routes: list[tuple[Part, ...]]


def find_export(folder: Path, models: Sequence[Path], forms: Forms) -> Export:
    """Tell the roles of the models that lie in one folder.

    Raises:
        ModelError: a model cannot be read.
    """
    found = [_interface(path) for path in models]
    cross = any(HIDDEN in each.names or each.crosses(forms) for each in found)
    roles = [_role(each, forms, cross=cross) for each in found]
    if Role.FIRST not in roles:  # a decoder that takes a cache from nobody begins with an empty one
        roles = [Role.SINGLE if role is Role.FOLLOWING else role for role in roles]
    if not set(roles) & set(DECODERS) and (folder / SETTINGS).is_file():
        roles = [
            Role.SINGLE if forms.text.ids in each.names and LOGITS in each.outputs else role
            for each, role in zip(found, roles, strict=True)
        ]
    parts = [Part(each.path, role, each.specs) for each, role in zip(found, roles, strict=True)]
    encoder, first, following, merged, single = (
        _shortest(parts, role)
        for role in (Role.ENCODER, Role.FIRST, Role.FOLLOWING, Role.MERGED, Role.SINGLE)
    )
    pair = (first, *([following] if following is not None else [])) if first is not None else ()
    routes = [tuple(part for part in route if part is not None) for route in ((merged,), pair, (single,))]
    return Export(folder, parts, encoder, [route for route in routes if route])


@dataclass(frozen=True)
class _Interface:
    """Inputs and outputs of a model."""

    path: Path
    specs: list[InputSpec]
    outputs: list[str]

    @property
    def names(self) -> set[str]:
        return {spec.name for spec in self.specs}

    def crosses(self, forms: Forms) -> bool:
        """Tell whether a cache holds what the encoder gave."""
        return any(is_state(name, forms.text) and CROSS_CACHE in name for name in self.names)


def _interface(path: Path) -> _Interface:
    model = load(path)
    return _Interface(path, model_inputs(model), [value.name or "" for value in model.graph.outputs])


def _role(each: _Interface, forms: Forms, *, cross: bool) -> Role:
    tokens = bool(each.names & {forms.text.ids, f"decoder_{forms.text.ids}"})
    if BRANCH in each.names:
        return Role.MERGED if tokens else Role.OTHER
    if any(is_state(name, forms.text) for name in each.names):
        return Role.FOLLOWING if tokens else Role.OTHER
    if tokens and any(name.startswith(CACHE_OUTPUT) for name in each.outputs):
        return Role.FIRST
    if tokens and HIDDEN in each.names:
        return Role.SINGLE
    return Role.ENCODER if cross and HIDDEN_OUTPUT in each.outputs else Role.OTHER


def _shortest(parts: Sequence[Part], role: Role) -> Part | None:
    """Return the part of a role; of several, such as variants in other types, the shortest name."""
    found = [part for part in parts if part.role is role]
    return min(found, key=lambda part: (len(part.path.name), part.path.name), default=None)
