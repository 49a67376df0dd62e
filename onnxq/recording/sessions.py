"""ONNX Runtime's sessions, with a recorder behind the methods that run them and bind their inputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .arrays import view
from .recorder import Recorder

Method = Callable[..., Any]
BOUND_INPUTS, BOUND_OUTPUTS = "_onnxq_inputs", "_onnxq_outputs"
"""Attributes of a binding that hold what is bound, in order."""


def install(module: Any, recorder: Recorder) -> Callable[[], None]:
    """Wrap the methods of ONNX Runtime's classes; return a function that takes the wrappers off again.

    Args:
        module: `onnxruntime.capi.onnxruntime_inference_collection`.
        recorder: receives the calls.
    """
    before = []
    for (name, method), wrap in WRAPPERS.items():
        owner = getattr(module, name)
        original = owner.__dict__.get(method)
        if original is None:  # an older version without it
            continue
        setattr(owner, method, _with_arguments(original, wrap(recorder, original)))
        before.append((owner, method, original))

    def restore() -> None:
        recorder.active = False
        for owner, method, original in before:
            setattr(owner, method, original)

    return restore


@contextmanager
def recorded_sessions(settings: Mapping[str, Any]) -> Iterator[None]:
    """Record all sessions of this process in the block, those that exist already too."""
    from onnxruntime.capi import onnxruntime_inference_collection as module

    restore = install(module, Recorder(settings))
    try:
        yield
    finally:
        restore()


def _with_arguments(original: Method, wrapper: Method) -> Method:
    """Give a wrapper the arguments by the original's names; wrong arguments fail as without it."""
    parameters = inspect.signature(original).parameters
    names = tuple(parameters)
    required = {name for name, each in parameters.items() if each.default is each.empty}

    @functools.wraps(original)
    def method(*given: Any, **named: Any) -> Any:
        arguments = dict(zip(names, given, strict=False), **named)
        if len(arguments) != len(given) + len(named) or not required <= arguments.keys() <= set(names):
            return original(*given, **named)
        return wrapper(arguments)

    return method


def _runs(feeds: str) -> Callable[[Recorder, Method], Method]:
    """Return a wrapper of a method that runs a session; `feeds` is its argument with the inputs."""

    def wrap(recorder: Recorder, original: Method) -> Method:
        def run(arguments: dict[str, Any]) -> Any:
            call = recorder.start(arguments["self"], arguments[feeds])
            with recorder.dropped_on_error(call):
                outputs = original(**arguments)
            recorder.end(call, arguments["output_names"], outputs)
            return outputs

        return run

    return wrap


def _run_async(recorder: Recorder, original: Method) -> Method:
    def run_async(arguments: dict[str, Any]) -> Any:
        call = recorder.start(arguments["self"], arguments["input_feed"])
        callback = arguments["callback"]

        def ended(results: Any, user_data: Any, error: str) -> None:
            if error:
                recorder.drop(call)
            else:
                recorder.end(call, arguments["output_names"], results)
            callback(results, user_data, error)

        with recorder.dropped_on_error(call):
            return original(**arguments | {"callback": ended})

    return run_async


def _run_with_iobinding(recorder: Recorder, original: Method) -> Method:
    def run_with_iobinding(arguments: dict[str, Any]) -> Any:
        binding = arguments["iobinding"]
        call = recorder.start(arguments["self"], _bound_values(binding))
        with recorder.dropped_on_error(call):
            result = original(**arguments)
        names = getattr(binding, BOUND_OUTPUTS, None)
        recorder.end(call, names, binding.get_outputs() if call is not None else ())
        return result

    return run_with_iobinding


def _bound_values(binding: Any) -> dict[str, Any]:
    """Return the inputs of a binding: arrays over raw memory of the CPU, None for that of other devices."""
    values: dict[str, Any] = {}
    for name, arguments in getattr(binding, BOUND_INPUTS, {}).items():
        if "buffer_ptr" in arguments:
            on_cpu = arguments["device_type"] == "cpu"
            values[name] = (
                view(arguments["buffer_ptr"], arguments["element_type"], arguments["shape"])
                if on_cpu
                else None
            )
        else:
            values[name] = arguments["arr_on_cpu" if "arr_on_cpu" in arguments else "ortvalue"]
    return values


def _binds(attribute: str) -> Callable[[Recorder, Method], Method]:
    """Return a wrapper of a method that binds a value: it keeps the arguments, by the value's name."""

    def wrap(_: Recorder, original: Method) -> Method:
        def bind(arguments: dict[str, Any]) -> Any:
            result = original(**arguments)
            arguments["self"].__dict__.setdefault(attribute, {})[arguments["name"]] = {
                key: value for key, value in arguments.items() if key != "self"
            }
            return result

        return bind

    return wrap


def _clears(attribute: str) -> Callable[[Recorder, Method], Method]:
    """Return a wrapper of a method that unbinds all values."""

    def wrap(_: Recorder, original: Method) -> Method:
        def clear(arguments: dict[str, Any]) -> Any:
            arguments["self"].__dict__.pop(attribute, None)
            return original(**arguments)

        return clear

    return wrap


WRAPPERS: dict[tuple[str, str], Callable[[Recorder, Method], Method]] = {
    ("Session", "run"): _runs("input_feed"),
    ("Session", "run_with_ort_values"): _runs("input_dict_ort_values"),
    ("Session", "run_async"): _run_async,
    ("Session", "run_with_iobinding"): _run_with_iobinding,
    ("IOBinding", "bind_cpu_input"): _binds(BOUND_INPUTS),
    ("IOBinding", "bind_input"): _binds(BOUND_INPUTS),
    ("IOBinding", "bind_ortvalue_input"): _binds(BOUND_INPUTS),
    ("IOBinding", "bind_output"): _binds(BOUND_OUTPUTS),
    ("IOBinding", "bind_ortvalue_output"): _binds(BOUND_OUTPUTS),
    ("IOBinding", "clear_binding_inputs"): _clears(BOUND_INPUTS),
    ("IOBinding", "clear_binding_outputs"): _clears(BOUND_OUTPUTS),
}
"""Wrappers by class and method."""
