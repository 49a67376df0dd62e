"""Compare the plans that several targets give, by the times that each of them expects.

    python benchmarks/plans.py CORPUS TARGET TARGET... [--only CASE]

Each TARGET is a family of CPUs or a file of `onnxq profile`. A row is a model: the number of nodes that each
target leaves in float, and how much longer its plan takes than the first target's own plan, by the costs of
the first target; then the same by the costs of each target itself: how much longer the first target's plan
takes there. No time is measured.
"""

import argparse
from pathlib import Path

from harness import case_settings, model_folders, print_header, print_row

from onnxq.cost.placement import expected, place
from onnxq.cost.target import TargetCpus, find_target
from onnxq.data.samples import check_feeds
from onnxq.graph.macs import ShapeByName
from onnxq.options import QuantizeOptions
from onnxq.plan.plan import Plan
from onnxq.plan.shapes import planned_shapes
from onnxq.search.inputs import prepare


def slowness(plan: Plan, shapes: ShapeByName, floats: tuple[str, ...], target: TargetCpus) -> float:
    """Return the mean time over the target's CPUs relative to float."""
    found = expected(plan, shapes, target.costs, floats)
    return sum(each.placed / each.float for each in found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--only", action="append")
    args = parser.parse_args()
    targets = [find_target(name) for name in args.targets]
    print_header(
        ["model", "nodes", *(f"float: {Path(each.name).stem}" for each in targets)]
        + [f"{Path(each.name).stem} by {Path(targets[0].name).stem}" for each in targets[1:]]
        + [f"{Path(targets[0].name).stem} by {Path(each.name).stem}" for each in targets[1:]]
        + [f"speed-up by {Path(each.name).stem}" for each in targets]
    )
    for folder in model_folders(args.corpus, args.only):
        settings = case_settings(folder)
        options = QuantizeOptions(
            folder / "model.onnx", folder / "calib", preprocess=str(settings) if settings else None, samples=8
        )
        try:
            inputs = prepare(options)
        except Exception as error:
            print_row([folder.name, str(error)[:60]])
            continue
        shapes = planned_shapes(
            inputs.model, inputs.plan, check_feeds(inputs.samples.calibration[0], inputs.specs)
        )
        plan = inputs.plan
        floats = [place(plan, shapes, each.costs).floats for each in targets]
        first = slowness(plan, shapes, floats[0], targets[0])
        by_first = [slowness(plan, shapes, each, targets[0]) / first - 1 for each in floats[1:]]
        own = [slowness(plan, shapes, each, target) for each, target in zip(floats, targets, strict=True)]
        by_own = [
            slowness(plan, shapes, floats[0], target) / mine - 1
            for target, mine in zip(targets[1:], own[1:], strict=True)
        ]
        changed = [f"{len(each)} ({len(set(each) ^ set(floats[0]))} other)" for each in floats[1:]]
        print_row(
            [folder.name, len(plan.nodes), len(floats[0]), *changed]
            + [f"{each:+.2%}" for each in (*by_first, *by_own)]
            + [f"{1 / each:.2f}x" for each in own]
        )


if __name__ == "__main__":
    main()
