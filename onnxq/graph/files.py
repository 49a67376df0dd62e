"""Reading and writing of model files; weights in external data stay on disk."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from onnxq.errors import ModelError, OutputError
from onnxq.graph.checks import check_functions, check_names, check_order, check_tensors, tensors_of
from onnxq.graph.file_forms import restore_types, rewrite_forms
from onnxq.graph.interface import MAP_TYPES, Interface
from onnxq.graph.scratch import ScratchFolder, reason_of

WRITTEN = frozenset({".onnx", ".toml", ".html", ".json", ".md", ".xml"})
"""Suffixes of files that onnxq writes and never reads as samples."""
SINGLE_FILE_LIMIT = 1_500_000_000
"""Bytes of weights above which they go to a file beside the model (protobuf's limit is 2 GiB)."""


def load(path: Path) -> ir.Model:
    """Read a model; external weights are memory-mapped on first use.

    Raises:
        ModelError: no such file, not an ONNX model, truncated, or external data missing, truncated
            or outside the model's folder.
    """
    proto = _parsed(path)
    try:
        if not proto.HasField("graph") or not proto.graph.output:
            raise ModelError("not an ONNX model, it has no graph with outputs")
        check_names(proto)
        check_tensors(proto)
        check_functions(proto)
        maps = rewrite_forms(proto, path)
        model = ir.serde.deserialize_model(proto)
        check_order(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # onnx_ir raises many types, all of them about the file
        raise ModelError(f"{path}: not an ONNX model, or truncated ({type(error).__name__})") from error
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = str(path.parent)
            _check_external(path, tensor)
    _read_attributes(model)
    if maps:
        model.meta[MAP_TYPES] = maps
    _follow_links(model)
    _forget_negative_sizes(model)
    return model


def _parsed(path: Path) -> onnx.ModelProto:
    """Parse a model file, without its external data.

    Raises:
        ModelError: no such file, not an ONNX model, or truncated.
    """
    if not path.is_file():
        raise ModelError(f"{path}: {'is a folder, not a model' if path.is_dir() else 'no such file'}")
    try:
        return onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # the parser raises many types
        raise ModelError(f"{path}: not an ONNX model, or truncated ({type(error).__name__})") from error


def _forget_negative_sizes(model: ir.Model) -> None:
    """Make negative sizes unknown, as in the runtime; shape inference would compute with them."""
    for graph in model.graphs():
        for value in [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]:
            if value.shape is not None and any(isinstance(size, int) and size < 0 for size in value.shape):
                value.shape = ir.Shape(
                    [None if isinstance(size, int) and size < 0 else size for size in value.shape]
                )


def _read_attributes(model: ir.Model) -> None:
    """Read external tensors of attributes into memory: sessions find those of initializers only."""
    for node in _nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                tensor = attribute.as_tensor()
                if isinstance(tensor, ir.ExternalTensor):
                    array = ir.Tensor(tensor.numpy(), name=tensor.name)
                    node.attributes[name] = ir.AttrTensor(name, array)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes of a model, its functions and all bodies."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


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
    for node in _nodes(model):
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
    if tensor.length not in (None, tensor.nbytes):
        raise ModelError(
            f"{where} needs {tensor.nbytes} bytes, and its external data has {tensor.length}: "
            "the file is damaged"
        )
    needed = (tensor.offset or 0) + tensor.nbytes
    size = data.stat().st_size
    if size < needed:
        raise ModelError(
            f"{where}: external data file {data} has {size} bytes, {needed} are needed: it is truncated"
        )


def external_files(path: Path) -> list[Path]:
    """Return the external data files of a model file, sorted.

    Raises:
        ModelError: the file cannot be parsed.
    """
    return sorted(
        {
            path.parent / entry.value
            for tensor in tensors_of(_parsed(path))
            if tensor.data_location == onnx.TensorProto.EXTERNAL
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )


def file_bytes(path: Path) -> int:
    """Return the bytes of a model file and its external data."""
    return path.stat().st_size + sum(file.stat().st_size for file in external_files(path))


def digest(path: Path) -> str:
    """Return the SHA-256 of a model file, or of the digests of the file and its external data."""
    found = []
    for file in (path, *external_files(path)):
        with open(file, "rb") as stream:
            found.append(hashlib.file_digest(stream, "sha256"))
    return (
        found[0].hexdigest()
        if len(found) == 1
        else hashlib.sha256(b"".join(each.digest() for each in found)).hexdigest()
    )


def check_output(path: Path, source: Path, samples: Path | None = None, *, force: bool) -> None:
    """Refuse an output that is an input, exists already (unless `force`) or cannot be written.

    Raises:
        OutputError: with the reason and a remedy.
    """
    check_target(path, [source] if samples is None else [source, samples], force=force)


def check_target(path: Path, inputs: Iterable[Path], *, force: bool, report: bool = False) -> None:
    """Refuse a file to write that is an input, no regular file, exists (unless `force`) or cannot be written.

    Folders that are missing are no obstacle: `staged` creates them.

    Args:
        path: the file to write.
        inputs: models and other files that are read, and folders of samples.
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
        if _is_sample(path, each):
            raise OutputError(f"{where}: lies among the samples of {each}: {another}")
        if any(data.exists() and path.exists() and path.samefile(data) for data in _data_of(each)):
            raise OutputError(f"{where}: holds weights of the input model {each}: {another}")
    kind = _kind(path)
    if kind is not None:
        raise OutputError(f"{where}: is {kind}, and only regular files are replaced: {another}")


def _is_sample(path: Path, folder: Path) -> bool:
    """Tell whether a file of a folder of samples may be one of them: it is no kind that onnxq writes."""
    written = path.suffix.lower() in WRITTEN or not path.suffix
    return not written and folder.is_dir() and path.resolve().is_relative_to(folder.resolve())


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
        with created_folder(path.parent), ScratchFolder(path.parent) as building:
            yield building / path.name
            put_in_place(building, path.parent, last=path.name, force=force)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {reason_of(error)}") from error


def put_in_place(building: Path, folder: Path, *, last: str, force: bool) -> None:
    """Move the files of a folder to another one of the same file system, `last` at the end.

    Without `force`, each path is claimed atomically: of two runs that write one file, the second fails. A
    failed call takes back what it has put in place.

    Args:
        building: folder with the finished files.
        folder: folder to move them to.
        last: name of the file that refers to the others.
        force: whether files that exist are replaced.

    Raises:
        OutputError: a file is in the way.
        OSError: a file cannot be moved.
    """
    placed: list[Path] = []
    try:
        for file in sorted(building.iterdir(), key=lambda file: (file.name == last, file.name)):
            file.chmod(0o666 & ~umask())
            target = folder / file.name
            _check_kind(target)
            if not force:
                _claim(target, file)
                placed.append(target)
            if file.exists():
                os.replace(file, target)
    except BaseException:
        for target in placed:
            target.unlink(missing_ok=True)
        raise


def _check_kind(target: Path) -> None:
    """Refuse to replace anything but a regular file; it may have come since `check_target`."""
    kind = _kind(target)
    if kind is not None:
        raise OutputError(f"{target}: is {kind}, and only regular files are replaced: choose another file")


def _claim(target: Path, file: Path) -> None:
    """Move a file to a path that does not exist; where links are impossible, put an empty file there."""
    try:
        try:
            os.link(file, target)
            file.unlink()
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError as error:
        raise OutputError(
            f"{target}: was created while this run worked, by another one perhaps: remove it, "
            "choose another name, or overwrite it with --force"
        ) from error


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all weights of a model."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def save(model: ir.Model, path: Path, interface: Interface | None = None) -> None:
    """Write a model; weights above SINGLE_FILE_LIMIT go to one file `<name>.data` beside it.

    Raises:
        RuntimeError: the model has another interface than the given one; nothing was written.
    """
    difference = interface.difference(model) if interface is not None else ""
    if difference:
        raise RuntimeError(f"{path.name}: not written, as callers of the model would fail: {difference}")
    external = f"{path.name}.data" if weight_bytes(model) > SINGLE_FILE_LIMIT else None
    if external is None:
        _embed_external(model)
    ir.save(model, path, external_data=external)
    if interface is not None and interface.maps:
        restore_types(path, interface.maps)


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
                array = np.array(tensor.numpy())
                tensor.release()  # each mapped tensor keeps its file open
                value.const_value = ir.Tensor(array, name=tensor.name)
