"""Numbers that are stored as [[1.0]] or [[[[1.0]]]] instead of 1.0.

The runtime (1.32) looks for numbers without axes when it fuses a Gelu or a layer normalization.
"""

import numpy as np
import onnx_ir as ir

from onnxq.graph.edit import Names, add_initializer, constant, known_rank, nodes_of

BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})


def drop_axes_of_numbers(model: ir.Model) -> bool:
    """Give numbers of two axes and more no axes, in place, where the result keeps its shape.

    Return whether there was any.
    """
    names, made = Names(model), dict[ir.Value, ir.Value]()
    for node in nodes_of(model):
        if node.op_type not in BINARY or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
            continue
        for index, (number, other) in enumerate((node.inputs, node.inputs[::-1])):
            if number is None or (known_rank(number) or 0) < 2:
                continue
            array = constant(number) if (known_rank(other) or 0) >= (known_rank(number) or 0) else None
            if array is None or array.size != 1 or constant(other) is not None:
                continue
            if number not in made:
                name = names.fresh(f"{number.name}_number")
                made[number] = add_initializer(model.graph, name, np.asarray(array.reshape(())))
            node.replace_input_with(index, made[number])
    return bool(made)
