"""Errors that a user can cause; each message is one line with the finding, the place and the remedy."""


class OnnxqError(Exception):
    """Wrong usage or bad input; the command line prints the message and exits with 2."""

    def __init__(self, message: str = "") -> None:
        """Keep the message on one line: names in files may have control characters."""
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class ModelError(OnnxqError):
    """The model cannot be read, loaded by the runtime, or quantized."""


class NotLoadedError(ModelError):
    """The runtime cannot load the model."""


class NothingToQuantize(ModelError):  # noqa: N818 - no fault of anybody's
    """The model is fine, but the mode has nothing to quantize in it."""


class DataError(OnnxqError):
    """A sample, a label file or a preprocessing description cannot be used."""


class OutputError(OnnxqError):
    """The result cannot be written to its destination."""


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of another library's error, without ONNX Runtime's prefix."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    _, marker, rest = text.partition("[ONNXRuntimeError] : ")
    return rest.split(" : ", 2)[-1] if marker else text
