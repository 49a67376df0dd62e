"""An application for the tests of `onnxq record`; its first argument says what it does."""

import multiprocessing
import os
import signal
import sys
import threading
import time

import numpy as np
import onnxruntime as ort

CALLS = 40


def session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2  # run_async needs a pool
    return ort.InferenceSession(path, options)


def values(number: int) -> np.ndarray:
    return np.full((1, 4), number, np.float32) + np.arange(4, dtype=np.float32) / 8


def calls(model: str, start: int = 0, count: int = CALLS) -> None:
    opened = session(model)
    for number in range(start, start + count):
        opened.run(None, {"x": values(number)})


def plain(model: str) -> None:
    calls(model)
    print("onnxq" in sys.modules, sum("onnxq" in path for path in sys.path if path.endswith("bootstrap")))


def repeated(model: str) -> None:
    for _ in range(3):
        calls(model)


def keywords(model: str) -> None:
    opened = session(model)
    array = values(0)
    for number in range(CALLS):
        array[:] = values(number)  # one array, changed in place
        opened.run(output_names=["y"], input_feed={"x": array})


def forked(model: str) -> None:
    calls(model, 0, 10)
    for start in (100, 200):
        if os.fork() == 0:
            calls(model, start, 10)
            os._exit(0)
        os.wait()


def spawned(model: str) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=calls, args=(model, start, 10)) for start in (100, 200)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()


def threads(model: str) -> None:
    opened = session(model)

    def work(start: int) -> None:
        for number in range(start, start + CALLS):
            opened.run(None, {"x": values(number)})

    workers = [threading.Thread(target=work, args=(1000 * k,)) for k in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()


def ort_values(model: str) -> None:
    opened = session(model)
    for number in range(CALLS):
        opened.run_with_ort_values(["y"], {"x": ort.OrtValue.ortvalue_from_numpy(values(number))})


def bindings(model: str) -> None:
    opened = session(model)
    for number in range(CALLS):
        binding, array = opened.io_binding(), values(number)
        if number % 3 == 0:
            binding.bind_cpu_input("x", array)
        elif number % 3 == 1:
            binding.bind_input("x", "cpu", 0, np.float32, array.shape, array.ctypes.data)
        else:
            binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(array))
        binding.bind_output("y")
        opened.run_with_iobinding(binding)


def asynchronous(model: str) -> None:
    opened = session(model)
    for number in range(CALLS):
        ended = threading.Event()
        opened.run_async(None, {"x": values(number)}, lambda _, event, __: event.set(), ended)
        assert ended.wait(60)


def lists(model: str) -> None:
    opened = session(model)
    for number in range(CALLS):
        opened.run(None, {"x": values(number).tolist()})


def failing(model: str) -> None:
    opened = session(model)
    for number in range(CALLS):
        opened.run(None, {"x": values(number)})
        try:
            opened.run(None, {"x": np.zeros((1, 7), np.float32)})
        except Exception:
            continue
        raise AssertionError("the runtime takes any shape")


def raising(model: str) -> None:
    calls(model)
    raise SystemExit(7)


def killed(model: str) -> None:
    calls(model)
    os.kill(os.getpid(), signal.SIGKILL)


def waiting(model: str) -> None:
    calls(model)

    def end(number: int, _: object) -> None:
        print("cleaned up", flush=True)
        sys.exit(30 + number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print("ready", flush=True)
    time.sleep(60)


def streams(model: str) -> None:
    """Run two interleaved streams, each with a state of its own, 100 calls long."""
    opened = session(model)
    states = [np.zeros((1, 4), np.float32)] * 2
    for number in range(100):
        for stream in range(2):
            feeds = {"x": values(number + 1000 * stream), "h": states[stream]}
            _, state = opened.run(None, feeds)
            states[stream] = state.copy()


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
