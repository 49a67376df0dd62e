import signal
from collections.abc import Iterator

import pytest

from onnxq.finetuning.training import State, Training


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt trainings before their fifth step."""
    plain = Training._step

    def step(self: Training, state: State) -> State:
        if state.step == 4:
            signal.raise_signal(signal.SIGINT)
        return plain(self, state)

    monkeypatch.setattr(Training, "_step", step)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have let it be ignored
    yield
    signal.signal(signal.SIGINT, before)
