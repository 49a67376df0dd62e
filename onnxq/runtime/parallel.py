"""Work on several items side by side, with the results in order.

A session with one thread per item costs less than one item on all cores: the runtime's threads spin while
they wait for one another, which takes time from everything else on the machine.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def in_order(work: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """Apply a function to items on threads; yield the results in the order of the items.

    At most one result per worker waits, so memory does not grow with the number of items. An error of an
    item is raised in its place.

    Args:
        work: the function; with several workers it is called from several threads at a time.
        items: read one by one.
        workers: number of threads; with 1 the function runs in the caller's thread.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
