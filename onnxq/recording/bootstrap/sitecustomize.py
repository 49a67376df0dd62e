"""Loaded by Python at the start of each process of an application that `onnxq record` runs.

It waits for the application to import ONNX Runtime, and costs nothing where it does not. The application's
own sitecustomize is loaded too, and its module path is as it would be without this folder.
"""

import importlib.machinery
import importlib.util
import os
import sys

TYPE_CHECKING = False  # typing, pathlib and json would cost a few ms in each process
if TYPE_CHECKING:
    from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "_onnxq_recording"
"""Name of the package `onnxq.recording` in the application."""
VARIABLE = "ONNXQ_RECORDING"
TARGET = "onnxruntime.capi.onnxruntime_inference_collection"


class _Waiting:
    """Finder that installs the recorder when the module with ONNX Runtime's sessions has been imported."""

    def find_spec(self, name: str, *_: "Any") -> "importlib.machinery.ModuleSpec | None":
        """Find the module by the other finders, and install the recorder after it has run."""
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: "Any") -> None:
                execute(module)
                _install(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _install(module: "Any") -> None:
    """Load the recorder under a name of its own: the application may have another onnxq, or none."""
    try:
        import json

        folder = os.path.dirname(HERE)
        spec = importlib.util.spec_from_file_location(
            PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        assert spec is not None
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
        sessions = importlib.import_module(f"{PACKAGE}.sessions")
        recorder = importlib.import_module(f"{PACKAGE}.recorder")
        sessions.install(module, recorder.Recorder(json.loads(os.environ[VARIABLE])))
    except Exception as error:
        sys.stderr.write(f"onnxq record: this process is not recorded: {error!r}\n")


def _load_next() -> None:
    """Load the sitecustomize that this one hides, and take this folder off the module path."""
    sys.path[:] = [each for each in sys.path if os.path.abspath(each or ".") != HERE]
    this = sys.modules.pop("sitecustomize", None)
    found = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if found is not None and found.loader is not None:
        module = importlib.util.module_from_spec(found)
        sys.modules["sitecustomize"] = module
        found.loader.exec_module(module)
    elif this is not None:
        sys.modules["sitecustomize"] = this


if VARIABLE in os.environ:
    sys.meta_path.insert(0, _Waiting())
_load_next()
