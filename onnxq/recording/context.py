"""`onnxq.record`: record the sessions of this process, and of those that it starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from onnxq.recording.application import RecordOptions, Staged, environment, staged_recording
from onnxq.recording.sessions import recorded_sessions


@contextmanager
def record_block(options: RecordOptions) -> Iterator[Staged]:
    """Record in the block; an error in it is passed on, and what was recorded until then is written.

    Raises:
        OutputError: the output exists, or cannot be written.
    """
    failed: BaseException | None = None
    with staged_recording(options) as staged:
        settings = options.settings(staged.parts)
        variables = environment(settings)
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            with recorded_sessions(settings):
                yield staged
        except BaseException as error:
            failed = error
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
    if failed is not None:
        raise failed
