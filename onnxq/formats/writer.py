"""How a job's files are written: in its format, with what is done to the file beside."""

from collections.abc import Callable

import onnx_ir as ir

from onnxq.cost.placement import REASON as SLOW
from onnxq.formats.attention import fuse_attention
from onnxq.formats.embeddings import KnownTables, looked_up, quantize_tables
from onnxq.formats.fusion_guards import guard_fusions
from onnxq.formats.gelu import fuse_gelu
from onnxq.formats.half_precision import ALWAYS_FLOAT, narrow_weights
from onnxq.formats.joint_products import join_products
from onnxq.formats.lstm import quantize_lstms
from onnxq.formats.qdq import write_qdq
from onnxq.formats.qoperator import write_qoperator
from onnxq.formats.run_time_ranges import quantize_at_run_time, with_clamps
from onnxq.inputs import Job
from onnxq.options import Format
from onnxq.plan.plan import Plan
from onnxq.quantization.parameters import Parameters
from onnxq.search.mixed_precision import REASON

Writer = Callable[[ir.Model, Plan, Parameters], ir.Model]
WRITERS: dict[Format, Writer] = {
    Format.QDQ: write_qdq,
    Format.QOPERATOR: write_qoperator,
}


def file_writer(job: Job) -> Writer:
    """The format's writer, and what is done to the file beside, as far as it is decided when a file is written."""
    write = WRITERS[job.options.format]
    tables = any(looked_up(job.model))
    known: KnownTables | None = None if job.large else {}

    def written(model: ir.Model, plan: Plan, parameters: Parameters) -> ir.Model:
        chosen = [name for name in job.run_time if name in plan.nodes]
        result = write(model, with_clamps(plan, chosen), parameters)
        if chosen:
            quantize_at_run_time(result, plan, chosen)
            if job.few_rows:
                join_products(result)
                fuse_attention(result)
        if not job.options.standard:
            fuse_gelu(result)
        if job.lstms:
            quantize_lstms(result, job.lstms)
        if tables:
            quantize_tables(result, known)
        if job.half:
            narrow_weights(
                result,
                [
                    name
                    for name, (node, why) in plan.floats.items()
                    if why in (SLOW, REASON) or _always_float(job, node)
                ],
            )
        guard_fusions(result)
        return result

    return written


def _always_float(job: Job, node: ir.Node) -> bool:
    return node.op_type in ALWAYS_FLOAT and job.selection.refusal(node) is None
