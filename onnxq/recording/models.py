"""The model of a session: its file and digest."""

from __future__ import annotations

import hashlib
import os
from typing import Any


def file_of(session: Any) -> tuple[str, str]:
    """Return the absolute path of a session's model, if it came from a file, and a name for it."""
    path = getattr(session, "_model_path", None)
    if path:
        return os.path.abspath(path), os.path.splitext(os.path.basename(path))[0]  # noqa: PTH122, PTH119
    return "", session.get_modelmeta().graph_name or "model"


def digest_of(session: Any) -> str:
    """Return the SHA-256 of the model's file or bytes; of its interface where both are gone."""
    found = hashlib.sha256()
    content = getattr(session, "_model_bytes", None)
    try:
        if content:
            found.update(content)
        else:
            with open(session._model_path, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    found.update(block)
    except (OSError, TypeError):
        values = [*session.get_inputs(), *session.get_outputs()]
        found.update(repr([(each.name, each.type, each.shape) for each in values]).encode())
    return found.hexdigest()
