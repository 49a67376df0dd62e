"""Greedy text generation with exported decoders, with or without a key-value cache.

A decoder is one model, or two: one for the first step, and one that takes the cache from then on. Caches are
inputs `past_key_values.*` and outputs `present.*`; what follows the first dot pairs them, else their order.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort

from onnxq.data.preprocessing import TextForm
from onnxq.data.text import empty_state, is_state
from onnxq.errors import ModelError
from onnxq.runtime.sessions import input_specs, run
from onnxq.types import Array, Feeds

LOGITS = "logits"
HIDDEN, HIDDEN_MASK = "encoder_hidden_states", "encoder_attention_mask"
"""Inputs of a decoder that take the encoder's output [1, S, width], and its attention mask [1, S]."""
BRANCH, CACHE_POSITIONS = "use_cache_branch", "cache_position"
"""Inputs for whether the cache is filled, and for the positions of the fresh tokens, [fresh]."""


@dataclass(frozen=True)
class TokenRules:
    """Tokens that end a text, that are never chosen, and that are not chosen first."""

    end: frozenset[int] = frozenset()
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()

    def choose(self, logits: Array, *, first: bool) -> int:
        """Return the most likely token that may be chosen; `logits` is [tokens]."""
        banned = [*self.suppressed, *(self.suppressed_first if first else ())]
        banned = [token for token in banned if 0 <= token < len(logits)]
        if banned:
            logits = logits.copy()
            logits[banned] = -np.inf
        return int(logits.argmax())


@dataclass
class Generated:
    """Token ids after a prompt, and the time of each step in ms."""

    tokens: list[int] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)


class Decoder:
    """A model that gives the logits of the next token."""

    def __init__(self, session: ort.InferenceSession, form: TextForm) -> None:
        self.session, self.form = session, form
        self.specs = {spec.name: spec for spec in input_specs(session)}
        self.states = [name for name in self.specs if is_state(name, form)]
        self.outputs = [node.name for node in session.get_outputs()]
        self.logits = LOGITS if LOGITS in self.outputs else self.outputs[0]
        self.caches = [name for name in self.outputs if name != self.logits]
        if self._ids() not in self.specs:
            raise ModelError(
                f"no input '{form.ids}': give a language model, or set 'ids' in [preprocess.text] to its "
                "token input"
            )

    def _ids(self) -> str:
        own = f"decoder_{self.form.ids}"
        return own if own in self.specs else self.form.ids

    def feeds(self, ids: Sequence[int], count: int, state: Feeds, context: Feeds) -> Feeds:
        """Return the feeds of a step.

        Args:
            ids: all tokens.
            count: number of tokens at the end that the state does not hold.
            state: the cache.
            context: what the encoder gave.

        Raises:
            ModelError: the model has an input that generation does not know.
        """
        start = len(ids) - count
        values: dict[str, Array] = {
            self._ids(): np.array([ids[start:]]),
            self.form.mask: np.ones((1, len(ids)), np.int64),
            f"decoder_{self.form.mask}": np.ones((1, len(ids)), np.int64),
            self.form.types: np.zeros((1, count), np.int64),
            self.form.positions: np.arange(start, len(ids))[None],
            CACHE_POSITIONS: np.arange(start, len(ids)),
            BRANCH: np.array([start > 0]),
            **context,
        }
        unknown = next((name for name in self.specs if name not in values and name not in state), None)
        if unknown is not None:
            raise ModelError(
                f"input '{unknown}': generation gives token ids, masks, positions and caches only: record "
                "the application's inputs with onnxq record"
            )
        return {
            name: values[name].astype(spec.dtype) for name, spec in self.specs.items() if name in values
        } | {name: state[name] for name in self.states}


def cache_links(states: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
    """Return the state that each output becomes: by the name after the first dot, else by their order."""
    keys = {state.partition(".")[2]: state for state in states}
    named = {output: keys.get(output.partition(".")[2]) for output in outputs if "." in output}
    links = {output: state for output, state in named.items() if state}
    if links or len(states) != len(outputs):
        return links
    return dict(zip(outputs, states, strict=True))


class Generator:
    """Generator of one decoder, or of one for the first step and one for all others."""

    def __init__(
        self, first: Decoder, following: Decoder | None = None, rules: TokenRules | None = None
    ) -> None:
        self.first, self.following = first, following or first
        self.rules = rules or TokenRules()
        states = self.following.states
        self._links = {
            id(decoder): cache_links(states, decoder.caches) for decoder in (first, self.following)
        }
        reached = {state for links in self._links.values() for state in links.values()}
        if set(states) - reached:
            raise ModelError(
                f"{len(states)} inputs match {first.form.state}, but {len(reached)} outputs belong to them, "
                f"of {len(self.following.caches)} besides the first: set 'state' in [preprocess.text] to the "
                "inputs of the cache"
            )

    def generate(
        self,
        prompt: Sequence[int],
        steps: int,
        *,
        context: Feeds | None = None,
        forced: Sequence[int] | None = None,
        seen: Callable[[Decoder, Feeds], None] = lambda _decoder, _feeds: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Generated:
        """Generate the most likely next tokens one by one, until one ends the text.

        Args:
            prompt: tokens to begin with.
            steps: most tokens.
            context: the encoder's output, by the names of the decoder's inputs.
            forced: tokens that follow the prompt, whichever are most likely.
            seen: called with the decoder and the feeds of each step.
            clock: returns seconds.
        """
        found, ids, count = Generated(), list(prompt), len(prompt)
        state: Feeds = {name: empty_state(self.first.specs[name]) for name in self.first.states}
        decoder = self.first
        for number in range(steps if forced is None else min(steps, len(forced))):
            start = clock()
            feeds = decoder.feeds(ids, count, state, context or {})
            seen(decoder, feeds)
            results = dict(zip(decoder.outputs, run(decoder.session, feeds, "prompt"), strict=True))
            token = self.rules.choose(np.asarray(results[decoder.logits])[0, -1], first=number == 0)
            found.times_ms.append((clock() - start) * 1000)
            found.tokens.append(token)
            token = token if forced is None else forced[number]
            if token in self.rules.end:
                break
            ids.append(token)
            state |= self._cache(decoder, results)
            decoder = self.following
            count = 1 if decoder.states else len(ids)
        return found

    def _cache(self, decoder: Decoder, results: Mapping[str, Array]) -> Feeds:
        """Return the states that a step changed; merged decoders give empty ones for those that stay."""
        links = self._links[id(decoder)]
        return {state: results[name] for name, state in links.items() if np.size(results[name])}
