"""Reading and writing of model files; weights in external data stay on disk."""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxq.errors import ModelError, OutputError

SINGLE_FILE_LIMIT = 1_500_000_000
"""Bytes of weights above which they go to a file beside the model (protobuf's limit is 2 GiB)."""


def load(path: Path) -> ir.Model:
    """Read a model; external weights are memory-mapped on first use.

    Raises:
        ModelError: no such file, not an ONNX model, truncated, or external data missing, truncated
            or outside the model's folder.
    """
    if not path.is_file():
        raise ModelError(f"{path}: {'is a folder, not a model' if path.is_dir() else 'no such file'}")
    try:
        proto = onnx.load_model(path, load_external_data=False)
        if not proto.HasField("graph") or not proto.graph.output:
            raise ModelError(f"{path}: not an ONNX model, it has no graph with outputs")
        model = ir.serde.deserialize_model(proto)
    except (DecodeError, ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not an ONNX model, or truncated ({type(error).__name__})") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = str(path.parent)
            _check_external(path, tensor)
    _follow_links(model)
    _forget_negative_sizes(model)
    return model


def _forget_negative_sizes(model: ir.Model) -> None:
    """Make negative sizes unknown, as in the runtime; shape inference would compute with them."""
    for graph in model.graphs():
        for value in [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]:
            if value.shape is not None and any(isinstance(size, int) and size < 0 for size in value.shape):
                value.shape = ir.Shape(
                    [None if isinstance(size, int) and size < 0 else size for size in value.shape]
                )


def _follow_links(model: ir.Model) -> None:
    """Resolve symbolic links of external weights, which download caches create."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            real = Path(tensor.path).resolve()
            if real != Path(tensor.path).absolute():
                shape, kind = ir.Shape(tensor.shape), tensor.dtype
                value.const_value = ir.ExternalTensor(
                    real.name,
                    tensor.offset,
                    tensor.length,
                    kind,
                    shape=shape,
                    name=tensor.name,
                    base_dir=real.parent,
                )


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.as_tensor()


def _check_external(path: Path, tensor: ir.ExternalTensor) -> None:
    location = os.fspath(tensor.location)
    where = f"{path}: weight '{tensor.name}'"
    if Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelError(
            f"{where} lies outside the model's folder ({location}): move its file beside the model"
        )
    data = path.parent / location
    if not data.is_file():
        raise ModelError(f"{where}: external data file {data} is missing: copy it beside the model")
    real, home = data.resolve(), path.resolve().parent
    if not real.is_relative_to(path.parent.resolve()) and not real.is_relative_to(home):
        raise ModelError(
            f"{where}: external data file {data} is a link out of the model's folder: copy the file there"
        )
    if real.stat().st_nlink > 1:
        raise ModelError(
            f"{where}: external data file {data} has several hard links: copy it, so that it has one"
        )
    needed = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
    size = data.stat().st_size
    if size < needed:
        raise ModelError(
            f"{where}: external data file {data} has {size} bytes, {needed} are needed: it is truncated"
        )


def external_files(path: Path) -> list[Path]:
    """Return the external data files of a model file, sorted."""
    found = set()
    for tensor in _tensors(ir.serde.deserialize_model(onnx.load_model(path, load_external_data=False))):
        if isinstance(tensor, ir.ExternalTensor):
            found.add(path.parent / os.fspath(tensor.location))
    return sorted(found)


def file_bytes(path: Path) -> int:
    """Return the bytes of a model file and its external data."""
    return path.stat().st_size + sum(file.stat().st_size for file in external_files(path))


def digest(path: Path) -> str:
    """Return the SHA-256 of a model file and its external data."""
    total = hashlib.sha256()
    for file in (path, *external_files(path)):
        with open(file, "rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def check_output(path: Path, source: Path, *, force: bool) -> None:
    """Refuse an output that is the input, exists already (unless `force`) or cannot be written.

    Raises:
        OutputError: with the reason and a remedy.
    """
    check_target(path, [source], force=force)


def check_target(path: Path, inputs: Iterable[Path], *, force: bool, report: bool = False) -> None:
    """Refuse a file to write that is an input, no regular file, exists (unless `force`) or cannot be written.

    Folders that are missing are no obstacle: `staged` creates them.

    Args:
        path: the file to write.
        inputs: models and other files that are read.
        force: whether a regular file may be overwritten.
        report: whether the file is a report, not the file of -o.

    Raises:
        OutputError: with the reason and a remedy.
    """
    where = f"report {path}" if report else f"{path}"
    another = "choose another file" if report else "choose another file with -o"
    try:
        if path.is_dir():
            slash = "" if report else f" with -o, or end the name in / to write into {path}"
            raise OutputError(f"{where}: is a folder: name a file{slash}")
        if _mode(path) is not None:
            _check_existing(path, inputs, where, another)
            if not force:
                raise OutputError(
                    f"{where}: exists already: remove it, {another}, or overwrite it with --force"
                )
        folder = next(each for each in path.absolute().parents if each.exists())
        if not folder.is_dir():
            raise OutputError(f"{where}: {folder} is a file, not a folder: {another}")
        with tempfile.TemporaryFile(dir=folder):  # os.access returns True for root on a read-only mount
            pass
    except OSError as error:
        raise OutputError(
            f"{where}: cannot be written in {path.parent} ({error.strerror}): {another}"
        ) from error


def _check_existing(path: Path, inputs: Iterable[Path], where: str, another: str) -> None:
    """Refuse to overwrite an input, its external data, or anything but a regular file."""
    for each in inputs:
        if each.exists() and path.exists() and path.samefile(each):
            role = "model" if each.suffix == ".onnx" else "file"
            raise OutputError(f"{where}: is the input {role}: {another}")
        if any(data.exists() and path.exists() and path.samefile(data) for data in _data_of(each)):
            raise OutputError(f"{where}: holds weights of the input model {each}: {another}")
    kind = _kind(path)
    if kind is not None:
        raise OutputError(f"{where}: is {kind}, and only regular files are replaced: {another}")


def _data_of(model: Path) -> list[Path]:
    """Return the external data files of a model; none if it is no model, which its reader reports."""
    try:
        return external_files(model) if model.is_file() else []
    except Exception:  # a damaged model may fail anywhere
        return []


def _mode(path: Path) -> int | None:
    """Return the mode of a path itself, not of the target of a link; None if there is nothing."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _kind(path: Path) -> str | None:
    """Say what a path is; None for a regular file or nothing."""
    mode = _mode(path)
    if mode is None or stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device or a socket")


@contextmanager
def created_folder(folder: Path) -> Iterator[None]:
    """Create a folder that is missing; remove it again if the block fails."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):  # another process put something there
                each.rmdir()
        raise


@contextmanager
def staged(path: Path, *, force: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` for a model; move the written files to their place at the end.

    A missing folder is created. If the block fails, nothing is left at `path`.

    Args:
        path: the file to write.
        force: whether files that exist are replaced.

    Raises:
        OutputError: the disk is full, the folder read-only, or a file is in the way.
    """
    try:
        with created_folder(path.parent):
            building = Path(tempfile.mkdtemp(prefix=".onnxq-", dir=path.parent))
            try:
                yield building / path.name
                put_in_place(building, path.parent, last=path.name, force=force)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def put_in_place(building: Path, folder: Path, *, last: str, force: bool) -> None:
    """Move the files of a folder to another one, `last` at the end.

    Args:
        building: folder with the finished files.
        folder: folder to move them to.
        last: name of the file that refers to the others.
        force: whether regular files that exist are replaced.

    Raises:
        OutputError: a file is in the way.
    """
    files = sorted(building.iterdir(), key=lambda file: (file.name == last, file.name))
    for file in files:
        _check_place(folder / file.name, force=force)
    for file in files:
        file.chmod(0o666 & ~umask())
        target = folder / file.name
        if force:
            os.replace(file, target)
            continue
        try:
            os.link(file, target)  # unlike a rename, it fails if another process was faster
        except FileExistsError as error:
            raise OutputError(_in_the_way(target)) from error
        except OSError:  # a file system without hard links
            _check_place(target, force=force)
            os.replace(file, target)


def _check_place(target: Path, *, force: bool) -> None:
    """Refuse to replace what is there; it may have come since `check_target`."""
    if _mode(target) is not None and not force:
        raise OutputError(_in_the_way(target))
    kind = _kind(target)
    if kind is not None:
        raise OutputError(f"{target}: is {kind}, and only regular files are replaced: choose another file")


def _in_the_way(target: Path) -> str:
    return f"{target}: exists already: remove it, choose another name, or overwrite it with --force"


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all weights of a model."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def save(model: ir.Model, path: Path) -> None:
    """Write a model; weights above SINGLE_FILE_LIMIT go to one file `<name>.data` beside it."""
    external = f"{path.name}.data" if weight_bytes(model) > SINGLE_FILE_LIMIT else None
    if external is None:
        _embed_external(model)
    ir.save(model, path, external_data=external)


def umask() -> int:
    """Return this process's mask of permission bits for new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _embed_external(model: ir.Model) -> None:
    """Load weights from the input's external data, to store them in the model file."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), name=tensor.name)
