"""A Dask scheduler or worker as a process of its own: it ends with its parent's pipe."""

import asyncio
import sys
import threading


def ends_with_parent() -> None:
    sys.stdin.read()
    import os

    os._exit(0)


async def scheduler() -> None:
    from distributed import Scheduler

    async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as started:
        print(started.address, flush=True)
        await started.finished()


async def worker(address: str) -> None:
    from distributed import Worker

    async with Worker(address, nthreads=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as started:
        print(started.address, flush=True)
        await started.finished()


if __name__ == "__main__":
    threading.Thread(target=ends_with_parent, daemon=True).start()
    asyncio.run(worker(sys.argv[1]) if len(sys.argv) > 1 else scheduler())
