"""The CPUs that a file is made for: those of a family, or those that target files describe."""

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

from onnxq.cost.model import Costs
from onnxq.cost.target_file import TargetFile, read_target_file, shipped
from onnxq.errors import OnnxqError
from onnxq.options import Target, Targets
from onnxq.runtime.machine import is_arm, this_machine

CPU_TABLES: dict[str, tuple[str, ...]] = {
    Target.PORTABLE: ("epyc_avx2", "xeon_avx2"),
    Target.VNNI: ("epyc_vnni", "xeon_vnni"),
    Target.ARM: ("neoverse_n1", "cortex_a72"),
}
"""The names of the files in `tables/` for the CPUs of a family."""


@dataclass(frozen=True)
class TargetCpus:
    """The CPUs that a file is made for.

    name       families and target files, as the user named them
    identity   the same without folders, with digests of the files; for the metadata of what is written
    costs      cost model of each CPU; none where a family has no tables
    cpus       name of each CPU
    threads    intra-op threads to which the costs of each CPU belong
    saturates  whether integer sums saturate on one of the CPUs
    like_here  whether times measured on this machine say something about one of them
    notes      lines for the report
    """

    name: str
    identity: str
    costs: tuple[Costs, ...] = ()
    cpus: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    saturates: bool = False
    like_here: bool = False
    notes: tuple[str, ...] = ()

    def __add__(self, other: "TargetCpus") -> "TargetCpus":
        """Return the CPUs of both."""
        return TargetCpus(
            f"{self.name}, {other.name}",
            f"{self.identity}, {other.identity}",
            self.costs + other.costs,
            self.cpus + other.cpus,
            self.threads + other.threads,
            self.saturates or other.saturates,
            self.like_here or other.like_here,
            self.notes + other.notes,
        )


def find_target(chosen: Targets) -> TargetCpus:
    """Return the CPUs of a family's name or a target file, or of several of them.

    Raises:
        OnnxqError: there is no such family or file, or a file is damaged.
    """
    names = [chosen] if isinstance(chosen, str | Path) else list(dict.fromkeys(chosen))
    if not names:
        raise OnnxqError(f"--target needs a value: choose {', '.join(Target)}, or a file of onnxq profile")
    first, *others = (_found(name) for name in names)
    for each in others:
        first += each
    return first


def _found(name: str | Path) -> TargetCpus:
    if name in CPU_TABLES:
        tables = [shipped(table) for table in CPU_TABLES[str(name)]]
        return _cpus_of(
            str(name), str(name), tables, like_here=is_arm(platform.machine()) == (name == Target.ARM)
        )
    path = Path(name)
    if not path.exists():
        raise OnnxqError(
            f"--target {name}: is no family of CPUs ({', '.join(Target)}) and no file: "
            "write one with onnxq profile on the device"
        )
    found, here = read_target_file(path), this_machine()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    alike = found.machine.instructions == here.instructions
    notes: tuple[str, ...] = ()
    if found.machine.onnxruntime != here.onnxruntime:
        notes = (
            f"{path}: measured with onnxruntime {found.machine.onnxruntime}, this is {here.onnxruntime}, "
            "whose kernels may take other times: profile the device again with that version",
        )
    same = alike and is_arm(found.machine.system) == is_arm(platform.machine())
    return _cpus_of(str(path), f"{path.name} {digest}", [found], like_here=same, notes=notes)


def _cpus_of(
    name: str, identity: str, found: list[TargetFile], *, like_here: bool, notes: tuple[str, ...] = ()
) -> TargetCpus:
    return TargetCpus(
        name,
        identity,
        tuple(Costs(each.table, each.block, profiling=each.profiling) for each in found),
        tuple(each.machine.cpu for each in found),
        tuple(each.threads for each in found),
        any(each.saturates for each in found),
        like_here,
        notes,
    )
