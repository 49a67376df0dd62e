"""Stateful models: an output is an input of the next sample, such as a recurrent state or a KV cache.

The error of such a model accumulates over time, and single samples do not show it. So samples of a
sequence run as in the application: each model gets its own state back.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePath
from typing import TypeVar

import numpy as np
import onnxruntime as ort

from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, spread
from onnxq.errors import DataError
from onnxq.runtime.sessions import input_specs, run
from onnxq.types import Array, Feeds

T = TypeVar("T")
FURTHER_MACS = 50_000_000_000
"""MACs that verification may take for sequences beyond the usual samples: large models do not wait."""
MAX_SEQUENCE, MIN_SEQUENCES = 64, 6
"""Most samples of a sequence, and least sequences into which a folder without subfolders is cut."""
STATE_WORDS = frozenset({"state", "h", "c", "lstm", "gru", "rnn", "buffer"})
SYNONYMS = {
    "past": "state", "present": "state", "prev": "state", "previous": "state", "next": "state",
    "new": "state", "states": "state", "cache": "state", "caches": "state", "mem": "state",
    "memory": "state", "memories": "state",
    "hidden": "h", "hn": "h", "cell": "c", "cn": "c", "buf": "buffer", "buffers": "buffer",
}  # fmt: skip
"""Words in names of states on their way in or out, and the word that stands for them."""
DIRECTION_WORDS = frozenset({"in", "input", "out", "output", "i", "o", "n"})
FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)"})
SAMPLES_COMPARED = 4
"""Samples of a sequence in which inputs are compared with outputs of the sample before."""
TOLERANCE = 1e-3
"""Relative difference up to which a sample's input counts as the output of the sample before."""


@dataclass(frozen=True)
class Feedback:
    """The outputs that become inputs, and the samples that start a sequence.

    states  input name -> output index
    starts  names of the samples that run with the state in their own data
    pairs   input name -> output index of all states, also where no sample hands them on
    """

    states: Mapping[str, int] = field(default_factory=dict)
    starts: frozenset[str] = frozenset()
    pairs: Mapping[str, int] = field(default_factory=dict)

    def feeds(self, sample: str, given: Feeds, previous: Sequence[Array] | None) -> Feeds:
        """Return a sample's feeds, with the states after the sample before it."""
        if not self.states or previous is None or sample in self.starts:
            return given
        if any(np.shape(given[name]) != np.shape(previous[index]) for name, index in self.states.items()):
            return given  # a cache of another length: this sample does not follow the one before
        return given | {
            name: np.asarray(previous[index], given[name].dtype) for name, index in self.states.items()
        }


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, evenly spaced."""
    return (
        list(items)
        if count >= len(items)
        else [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
    )


def find_feedback(
    session: ort.InferenceSession, samples: Sequence[Sample], declared: Iterable[str] = ()
) -> Feedback:
    """Find the states of a model and the sequences of its samples.

    Args:
        session: the float model.
        samples: in their order; those of a folder follow one another.
        declared: the user's pairs `input=output`, or "none".

    Raises:
        DataError: a pair names no input or no output.
    """
    pairs = states = find_states(session, declared)
    if not declared:
        states = pairs if _handed_on(session, samples, pairs) else {}
        states = states or _states_in_data(session, samples)
    if not states:
        return Feedback(pairs=pairs)
    return Feedback(states, frozenset(each[0].name for each in sequences(samples)), pairs or states)


def find_states(session: ort.InferenceSession, declared: Iterable[str] = ()) -> dict[str, int]:
    """Return the inputs that take an output of the sample before: input name -> output index.

    The names of a pair differ only in words for before and after, and their shapes are compatible.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = {value.name: index for index, value in enumerate(outputs)}
    declared = list(declared)
    if declared:
        return (
            {}
            if declared == ["none"]
            else dict(_declared_state(pair, [value.name for value in inputs], names) for pair in declared)
        )
    found: dict[str, int] = {}
    for value in inputs:
        words = _words(value.name)
        fits = [
            index
            for other, index in zip(outputs, names.values(), strict=True)
            if words and words == _words(other.name) and _fits(value, other)
        ]
        if len(fits) == 1 and fits[0] not in found.values():
            found[value.name] = fits[0]
    return found if len(found) < len(inputs) else {}


def _declared_state(pair: str, inputs: Sequence[str], outputs: Mapping[str, int]) -> tuple[str, int]:
    """Return the input name and output index of a user's pair."""
    source, equals, target = pair.partition("=")
    if not equals or source not in inputs or target not in outputs:
        raise DataError(
            f"--state {pair}: expected INPUT=OUTPUT; "
            f"inputs are {', '.join(inputs)}, outputs {', '.join(outputs)}"
        )
    return source, outputs[target]


def _words(name: str) -> frozenset[str]:
    """Return the words of a state's name without direction; nothing where no word names a state."""
    name = re.sub(r"key_?values?(?![a-z])", "", name)
    name = re.sub(r"(?<![a-zA-Z])([hc])_?[0n](?![a-zA-Z0-9])", r"\1", name)
    words = {
        SYNONYMS.get(word.lower(), word.lower()) for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)
    } - DIRECTION_WORDS
    return frozenset(words) if words & STATE_WORDS else frozenset()


def _fits(value: ort.NodeArg, other: ort.NodeArg) -> bool:
    """Check that an output may have an input's type and shape; symbolic sizes may be anything."""
    if value.type != other.type or len(value.shape) != len(other.shape):
        return False
    return all(
        a == b or not isinstance(a, int) or not isinstance(b, int)
        for a, b in zip(value.shape, other.shape, strict=True)
    )


def _handed_on(session: ort.InferenceSession, samples: Sequence[Sample], states: Mapping[str, int]) -> bool:
    """Whether a sample's states have the shapes that a sample before leaves, where shapes vary.

    Prompts for a language model do not follow one another: each begins with an empty cache.
    """
    shapes = [value.shape for value in session.get_inputs() if value.name in states]
    few = max(sequences(samples), key=len, default=[])[:SAMPLES_COMPARED]
    if len(few) < 2 or all(isinstance(size, int) for shape in shapes for size in shape):
        return True
    specs = input_specs(session)
    feeds = [check_feeds(sample, specs) for sample in few]
    for sample, given, after in zip(few, feeds[:-1], feeds[1:], strict=False):
        left = run(session, given, sample.name)
        if all(np.shape(after[name]) == np.shape(left[index]) for name, index in states.items()):
            return True
    return False


def _states_in_data(session: ort.InferenceSession, samples: Sequence[Sample]) -> dict[str, int]:
    """Find the inputs that hold, in the data, the values of an output of the sample before."""
    specs, outputs = {spec.name: spec for spec in input_specs(session)}, session.get_outputs()
    pairs = [
        (value.name, index)
        for value in session.get_inputs()
        for index, other in enumerate(outputs)
        if value.name in specs and value.type in FLOATS and _fits(value, other)
    ]
    few = max(sequences(samples), key=len, default=[])[:SAMPLES_COMPARED]
    if len(specs) < 2 or not pairs or len(few) < 2:
        return {}
    feeds = [check_feeds(sample, list(specs.values())) for sample in few]
    found = [run(session, each, sample.name) for each, sample in zip(feeds[:-1], few[:-1], strict=True)]
    return {
        name: index
        for name, index in pairs
        if all(_close(after[name], before[index]) for before, after in zip(found, feeds[1:], strict=True))
    }


def _close(given: Array, left: Array) -> bool:
    if np.shape(given) != np.shape(left):
        return False
    size = float(np.abs(given).max(initial=0.0))
    return size > 0 and float(np.abs(given - left).max(initial=0.0)) <= TOLERANCE * size


def sequences(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Group samples into sequences: a folder each, in order; a single folder is cut into several."""
    folders: dict[PurePath, list[Sample]] = {}
    for sample in samples:
        folders.setdefault(PurePath(sample.name).parent, []).append(sample)
    longest = MAX_SEQUENCE if len(folders) > 1 else max(2, min(MAX_SEQUENCE, len(samples) // MIN_SEQUENCES))
    return [
        each[start : start + longest] for each in folders.values() for start in range(0, len(each), longest)
    ]


def chosen_sequences(samples: Sequence[Sample], feedback: Feedback, count: int) -> list[Sample]:
    """Return at most `count` samples, evenly spaced; of a stateful model whole sequences, at least one.

    The samples may begin inside a sequence: the rest of it counts as one.
    """
    if not feedback.states or not samples:
        return spread(samples, count)
    starts = [i for i, sample in enumerate(samples) if i == 0 or sample.name in feedback.starts]
    parts = [samples[start:stop] for start, stop in pairwise([*starts, len(samples)])]
    mean = max(1, len(samples) // len(parts))
    return [sample for part in evenly(parts, max(1, count // mean)) for sample in part]


def affordable(samples: Sequence[Sample], feedback: Feedback, macs: int) -> list[Sample]:
    """Return whole sequences of a stateful model, evenly spaced, that verification has time for.

    Args:
        samples: of whole sequences.
        feedback: states of the model.
        macs: of the model on one sample.
    """
    steps = FURTHER_MACS // max(1, macs)
    found = chosen_sequences(samples, feedback, steps)
    return found if len(found) <= steps else []
