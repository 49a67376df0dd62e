"""A gunicorn server of two processes that answers with the type of each file, by magika."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WORKERS, PATIENCE = 2, 120.0


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    """Answer a request (WSGI)."""
    from magika import Magika

    if "magika" not in globals():
        globals()["magika"] = Magika()
    content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start("200 OK", [("Content-Type", "text/plain")])
    yield globals()["magika"].identify_bytes(content).output.label.encode()


def ask(port: int, content: bytes) -> str:
    """Post a file, and return the answer; wait for a server that starts."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", content, timeout=PATIENCE) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def main() -> None:
    port = 18437
    command = [sys.executable, "-m", "gunicorn", "-w", str(WORKERS), "-b", f"127.0.0.1:{port}"]
    command += ["--log-level", "error", "--chdir", str(Path(__file__).parent), "server:application"]
    server = subprocess.Popen(command)
    try:
        found = [ask(port, path.read_bytes()) for path in sorted(Path(sys.argv[1]).rglob("*.*"))]
    finally:
        server.terminate()
        server.wait(60)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
