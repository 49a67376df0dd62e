"""Fit target files of ARM CPUs to the instructions that emulated kernels execute.

    python benchmarks/arm_costs.py FOLDER [--cpu NAME ...] [--environment build/arm]

FOLDER gets a file NAME.toml for each CPU, as `onnxq profile` writes it; onnxq/cost/tables/ has them. The
measured kernels are those of `onnxq profile`. They run in ONNX Runtime for ARM under qemu (see arm.py),
whose clocks count instructions (arm_clock.c): what the runtime's profiler measures are instructions, and the
same in every run. Each counts as the same time, `EmulatedCpu.ns`. This shows how much work a kernel is,
whatever machine measures it, but not how long the CPU waits for memory, nor which instructions it executes
side by side: a profile of the device itself is better. Needs gcc.
"""

import argparse
import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir
from arm_environment import CPUS, TICK, USUAL, MissingToolError, build_clock, command, prepare

from onnxq.cost.target_file import TargetFile, as_toml
from onnxq.profiling.fit import fit
from onnxq.profiling.kernels import all_cases
from onnxq.profiling.measurement import Probe, Times
from onnxq.profiling.profile import measurement_overhead, overhead_probes
from onnxq.runtime.machine import Machine, this_machine
from onnxq.version import __version__

HERE = Path(__file__).parent
MOST_MACS = 10e6
"""Multiply-accumulate operations of the largest kernel: emulation is slow, and its counts have no noise."""
BLOCK = 0
"""The wheel for ARM has no blocked layout of float convolutions."""


def count(probes: list[Probe], environment: Path, cpu: str) -> dict[str, Times]:
    """Return the nanoseconds of each model by its name, those of its instructions."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = []
        for number, probe in enumerate(probes):
            path = folder / f"{number}.onnx"
            ir.save(probe.make(), path)
            job.append((probe.name, str(path), probe.wall))
        wanted, found = folder / "job.json", folder / "found.json"
        wanted.write_text(json.dumps(job))
        emulator = command(environment, cpu, build_clock(folder))
        runner = str(HERE / "arm_profile_runner.py")
        subprocess.run([*emulator, runner, str(wanted), str(found)], check=True)
        measured: dict[str, dict[str, float]] = json.loads(found.read_text())
    factor = CPUS[cpu].ns / TICK
    return {name: {op: ns * factor for op, ns in times.items()} for name, times in measured.items()}


def target_file(environment: Path, cpu: str) -> TargetFile:
    """Count the instructions of all kernels on a CPU and fit its costs."""
    cases = all_cases(BLOCK, MOST_MACS)
    every = [*overhead_probes(), *(probe for case in cases for probe in case.probes)]
    times = count(list({probe.name: probe for probe in every}.values()), environment, cpu)
    overhead = measurement_overhead(times)
    rows = [row for case in cases for row in case.rows([times[each.name] for each in case.probes], overhead)]
    table, quality = fit(rows)
    for each in quality:
        print(
            f"{each.name:28s} {each.kernels:4d} kernels, median error {each.median:.0%}, 90 % {each.high:.0%}"
        )
    here = this_machine()
    instructions = [name for name in ("asimddp",) if name in CPUS[cpu].features.split()]
    described = Machine(
        f"ARM {cpu} (instructions counted under emulation)", 1, instructions, "Linux aarch64", here.python,
        here.onnxruntime,
    )  # fmt: skip
    return TargetFile(described, __version__, 1, BLOCK, False, overhead, table)


def main() -> None:
    """Write a file for each CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the files")
    parser.add_argument("--cpu", nargs="*", default=list(USUAL), choices=USUAL, help="emulated CPUs")
    parser.add_argument("--environment", type=Path, default=Path("build/arm"), help="folder (build/arm)")
    args = parser.parse_args()
    try:
        prepare(args.environment)
    except MissingToolError as error:
        raise SystemExit(f"{error}") from error
    args.folder.mkdir(parents=True, exist_ok=True)
    for cpu in args.cpu:
        found = target_file(args.environment, cpu)
        (args.folder / f"{cpu.replace('-', '_')}.toml").write_text(as_toml(found))
        print(f"{cpu}: {asdict(found.machine)}")


if __name__ == "__main__":
    main()
