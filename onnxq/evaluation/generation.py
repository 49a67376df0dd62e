"""Greedy text generation with language models, with or without a key-value cache.

A model with a cache has inputs `past_key_values.*` and outputs `present.*` in the same order.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort

from onnxq.data.preprocessing import TextForm
from onnxq.data.text import empty_state, is_state
from onnxq.errors import ModelError
from onnxq.runtime.sessions import input_specs, run
from onnxq.types import Array, Feeds


@dataclass
class Generated:
    """Token ids after a prompt, and the time of each step in ms."""

    tokens: list[int] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)


class Generator:
    """Generator of one model."""

    def __init__(self, session: ort.InferenceSession, form: TextForm) -> None:
        self.session, self.form = session, form
        self.specs = {spec.name: spec for spec in input_specs(session)}
        self.state = [name for name in self.specs if is_state(name, form)]
        self.outputs = [node.name for node in session.get_outputs()]
        if form.ids not in self.specs:
            raise ModelError(
                f"no input '{form.ids}': give a language model, or set 'ids' in [preprocess.text] to its "
                "token input"
            )
        if self.state and len(self.outputs) - 1 != len(self.state):
            raise ModelError(
                f"{len(self.state)} inputs match {form.state}, but {len(self.outputs) - 1} outputs follow "
                "the first: set 'state' in [preprocess.text] to the inputs of the cache"
            )

    def generate(
        self, prompt: Sequence[int], steps: int, seen: Callable[[Feeds], None] = lambda _: None
    ) -> Generated:
        """Generate the most likely next tokens one by one; `seen` gets the feeds of each step."""
        found, ids = Generated(), list(prompt)
        state: Feeds = {name: empty_state(self.specs[name]) for name in self.state}
        fresh = ids
        for _ in range(steps):
            start = time.perf_counter()
            feeds = self._feeds(ids, fresh, state)
            seen(feeds)
            results = run(self.session, feeds, "prompt")
            token = int(np.asarray(results[0])[0, -1].argmax())
            found.times_ms.append((time.perf_counter() - start) * 1000)
            found.tokens.append(token)
            ids = [*ids, token]
            fresh = [token] if self.state else ids
            state = dict(zip(self.state, results[1:], strict=True)) if self.state else {}
        return found

    def _feeds(self, ids: Sequence[int], fresh: Sequence[int], state: Feeds) -> Feeds:
        start = len(ids) - len(fresh)
        values: dict[str, Array] = {
            self.form.ids: np.array([fresh]),
            self.form.mask: np.ones((1, len(ids)), np.int64),
            self.form.types: np.zeros((1, len(fresh)), np.int64),
            self.form.positions: np.arange(start, len(ids))[None],
        }
        return {
            name: value.astype(self.specs[name].dtype) for name, value in values.items() if name in self.specs
        } | state
