"""`python -m onnxq`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder, which `python -m` puts first: its modules must not run

    from onnxq.cli.program import run

    run()
