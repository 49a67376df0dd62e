"""A translator as exporters write it: an encoder, and a decoder as two models and as a merged one."""

import json

import numpy as np
import onnx
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tests.conftest import parse

WIDTH, WORDS = 64, 40
START, END = 38, 39
NAMES = {
    "past_d": "past_key_values.0.decoder.key",
    "past_e": "past_key_values.0.encoder.key",
    "now_d": "present.0.decoder.key",
    "now_e": "present.0.encoder.key",
}
ENCODER = """
g (int64[B,S] input_ids, int64[B,S] attention_mask) => (float[B,S,64] last_hidden_state)
{e = Gather(table, input_ids) h = MatMul(e, w1) r = Relu(h) c = Cast<to = 1>(attention_mask)
 u = Unsqueeze(c, last) last_hidden_state = Mul(r, u)}
"""
OWN = """e = Gather(table, input_ids) h = MatMul(e, w2) r = Tanh(h) u = Unsqueeze(r, one)"""
KEYS = """k = MatMul(encoder_hidden_states, w4)"""
ANSWER = """m = ReduceMean<axes = [2], keepdims = 1>({encoder}) d = ReduceMean<axes = [2], keepdims = 1>({decoder})
 s = Add(m, d) t = Squeeze(s, one) a = Add(r, t) {logits} = MatMul(a, w3)"""
FIRST = f"""
g (int64[B,T] input_ids, float[B,S,64] encoder_hidden_states, int64[B,S] encoder_attention_mask)
 => (float[B,T,40] logits, float[B,1,D,64] now_d, float[B,1,S,64] now_e)
{{{OWN} now_d = Identity(u) {KEYS} now_e = Unsqueeze(k, one)
 {ANSWER.format(encoder="now_e", decoder="now_d", logits="logits")}}}
"""
FOLLOWING = f"""
g (int64[B,T] input_ids, float[B,1,P,64] past_d, float[B,1,S,64] past_e)
 => (float[B,T,40] logits, float[B,1,D,64] now_d)
{{{OWN} now_d = Concat<axis = 2>(past_d, u)
 {ANSWER.format(encoder="past_e", decoder="now_d", logits="logits")}}}
"""
MERGED = f"""
g (int64[B,T] input_ids, float[B,S,64] encoder_hidden_states, float[B,1,P,64] past_d, float[B,1,Q,64] past_e,
   bool[1] use_cache_branch)
 => (float[B,T,40] logits, float[B,1,D,64] now_d, float[E,1,F,64] now_e)
{{{OWN}
 logits, now_d, now_e = If<
  then_branch = filled () => (float[B,T,40] l1, float[B,1,D,64] d1, float[E,1,F,64] e1)
  {{d1 = Concat<axis = 2>(past_d, u) e1 = Identity(empty)
   {ANSWER.format(encoder="past_e", decoder="d1", logits="l1")}}},
  else_branch = fresh () => (float[B,T,40] l2, float[B,1,D,64] d2, float[E,1,F,64] e2)
  {{d2 = Identity(u) {KEYS} e2 = Unsqueeze(k, one)
   {ANSWER.format(encoder="e2", decoder="d2", logits="l2")}}}
 >(use_cache_branch)}}
"""


def weights(*names):
    random = np.random.default_rng(0)
    shapes = {
        "table": (WORDS, WIDTH),
        **dict.fromkeys(("w1", "w2", "w4"), (WIDTH, WIDTH)),
        "w3": (WIDTH, WORDS),
    }
    found = {
        name: random.normal(0, 1.5 / np.sqrt(shape[0]), shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    found |= {"one": np.array([1]), "last": np.array([-1]), "empty": np.zeros((0, 1, 1, WIDTH), np.float32)}
    found["table"] *= 4
    return {name: found[name] for name in names}


def renamed(model):
    """Give the caches the names of exporters, in bodies too."""

    def walk(graph):
        for value in (*graph.input, *graph.output):
            value.name = NAMES.get(value.name, value.name)
        for node in graph.node:
            node.input[:] = [NAMES.get(name, name) for name in node.input]
            node.output[:] = [NAMES.get(name, name) for name in node.output]
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)

    walk(model.graph)
    return model


def write_translator(folder, *, merged=True, pair=True):
    """Write the models, their tokenizer and their settings."""
    folder.mkdir()
    onnx.save(parse(ENCODER, weights("table", "w1", "last")), folder / "encoder_model.onnx")
    shared = ("table", "w2", "w3", "one")
    if pair:
        onnx.save(renamed(parse(FIRST, weights(*shared, "w4"))), folder / "decoder_model.onnx")
        onnx.save(renamed(parse(FOLLOWING, weights(*shared))), folder / "decoder_with_past_model.onnx")
    if merged:
        onnx.save(
            renamed(parse(MERGED, weights(*shared, "w4", "empty"))), folder / "decoder_model_merged.onnx"
        )
    settings = {"decoder_start_token_id": START, "eos_token_id": END, "suppress_tokens": [0]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_texts(folder, count=40):
    """Write lines of random words."""
    random = np.random.default_rng(1)
    folder.mkdir()
    lines = [
        " ".join(f"w{i}" for i in random.integers(1, START, random.integers(4, 12))) for _ in range(count)
    ]
    (folder / "lines.txt").write_text("\n".join(lines))
    return folder
