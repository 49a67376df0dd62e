"""Kernel times of the runtime's profiler."""

import json
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort

from onnxq.errors import OutputError
from onnxq.graph.scratch import no_temporary_space, writing_temporaries


class KernelTime(NamedTuple):
    """Time of one call of a kernel: node name in the optimized graph, operator type, microseconds."""

    node: str
    op_type: str
    microseconds: int


def kernel_times(session: ort.InferenceSession) -> list[KernelTime]:
    """End the profile of a session and return the kernel calls of all its runs, in order.

    Raises:
        OutputError: the temporary folder has too little space for the profile.
    """
    with writing_temporaries():
        text = Path(session.end_profiling()).read_text(encoding="utf-8")
    try:
        events = json.loads(text)
    except ValueError as error:  # the runtime reports no failure to write it
        raise OutputError(no_temporary_space()) from error
    suffix = "_kernel_time"
    return [
        KernelTime(each["name"].removesuffix(suffix), each["args"]["op_name"], each["dur"])
        for each in events
        if each.get("cat") == "Node" and each["name"].endswith(suffix)
    ]
