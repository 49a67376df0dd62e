"""A list of arrays of which only a part is in memory."""

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar, overload

import numpy as np

from onnxq.graph.scratch import ScratchFolder, writing_temporaries
from onnxq.runtime.sessions import detached

T = TypeVar("T")

IN_MEMORY_BYTES = 64 << 20
"""Most bytes of a list in memory."""


class DiskList(Sequence[T], Generic[T]):
    """A list that keeps its first items in memory and the others in temporary files, read on each access.

    bytes  of all items
    """

    def __init__(
        self,
        items: Iterable[T],
        arrays: Callable[[T], Iterable[object]],
        in_memory: int = IN_MEMORY_BYTES,
    ) -> None:
        """Fill the list.

        Args:
            items: read one by one.
            arrays: gives the arrays of an item; one that occurs twice counts once, other objects do not.
            in_memory: bytes up to which items stay in memory.

        Raises:
            OutputError: the temporary folder has too little space.
        """
        self.bytes = 0
        self._held: list[T] = []
        self._count = 0
        self._scratch: ScratchFolder | None = None
        for item in items:
            self.bytes += array_bytes(arrays(item))
            if self.bytes <= in_memory:
                self._held.append(detached(item))
            else:
                self._write(item)
            self._count += 1

    def _write(self, item: T) -> None:
        self._scratch = self._scratch or ScratchFolder()
        with writing_temporaries(), open(self._scratch.path / str(self._count), "wb") as file:
            pickle.dump(item, file, protocol=pickle.HIGHEST_PROTOCOL)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        if number < len(self._held):
            return self._held[number]
        assert self._scratch is not None
        with open(self._scratch.path / str(number), "rb") as file:
            item: T = pickle.load(file)
        return item


def array_bytes(values: Iterable[object]) -> int:
    """Return the bytes of the arrays among some values; one that occurs twice counts once."""
    return sum({id(each): each.nbytes for each in values if isinstance(each, np.ndarray)}.values())
