"""Export architectures with random weights by today's PyTorch exporter, for `wild.py --prepared`.

    python benchmarks/export_models.py FOLDER [NAME ...]

Each model becomes FOLDER/NAME with model.onnx, calib/ and eval/; its size is printed. The script runs in an
environment of its own: torch, onnxscript, timm (which imports torchvision), transformers, scikit-image,
pillow. Weights are random and batch norms calibrated on pictures. The outputs of such a model mean nothing,
but its graph is the one that its users have. It tells whether int8 can be written and whether it is slower.
It tells little about accuracy: deep untrained networks are chaotic.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from skimage import data

COUNT, CALIBRATION = 60, 40
SMALL = {
    "vocab_size": 4000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 768, "max_position_embeddings": 128, "n_layers": 4, "n_heads": 4, "dim": 256,
    "hidden_dim": 768, "n_embd": 256, "n_layer": 4, "n_head": 4, "d_model": 256, "num_layers": 4,
    "num_heads": 4, "d_ff": 768, "ffn_dim": 768, "num_key_value_heads": 2, "head_dim": 64,
    "word_embed_proj_dim": 256, "embedding_size": 128, "n_positions": 128, "d_kv": 64,
}  # fmt: skip
"""Sizes of the text models, under all names that configurations use."""
TEXT = {
    "albert": "Albert", "bert": "Bert", "deberta": "DebertaV2", "distilbert": "DistilBert",
    "electra": "Electra", "gemma3": "Gemma3Text", "gpt2": "GPT2", "llama": "Llama",
    "modernbert": "ModernBert", "mpnet": "MPNet", "opt": "OPT", "phi": "Phi", "qwen3": "Qwen3",
    "roberta": "Roberta", "t5-encoder": "T5Encoder",
}  # fmt: skip
"""Model families of transformers, by the name of a case."""
CONFIGURATIONS = {"T5Encoder": "T5"}
"""Families whose configuration has another name."""
EAGER = {"deberta", "mpnet"}
"""Cases that run with eager attention instead of SDPA."""
PICTURES = [
    "convnext_atto", "convnextv2_atto", "deit_tiny_patch16_224", "edgenext_xx_small", "efficientvit_b0",
    "fastvit_t8", "ghostnetv2_100", "hgnetv2_b0", "inception_next_atto", "mambaout_femto",
    "mobilenetv4_conv_small", "mobilevit_xxs", "pvt_v2_b0", "regnetx_002", "repvit_m0_9", "resnest14d",
    "resnet18", "starnet_s1", "swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224",
]  # fmt: skip
"""Models of timm."""
Made = tuple[torch.nn.Module, list[dict[str, np.ndarray]], Any]
"""A model, its samples, and the dynamic shapes of its inputs."""


class First(torch.nn.Module):
    """A text model that returns its first output alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the first output."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)[0]


def text_model(name: str) -> Made:
    """Make a small text model with random weights, and random sentences of 12 to 59 tokens."""
    family = TEXT[name]
    kind = getattr(transformers, f"{CONFIGURATIONS.get(family, family)}Config")
    known = {key: value for key, value in SMALL.items() if hasattr(kind(), key)}
    ends = {
        key: 0
        for key in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        if hasattr(kind(), key)
    }
    configuration = kind(**known, **ends)
    configuration.use_cache = False
    configuration._attn_implementation = "eager" if name in EAGER else "sdpa"
    model = getattr(transformers, f"{family}Model")(configuration)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm) and module.weight is not None:
            module.weight.data = torch.exp(0.3 * torch.randn_like(module.weight))
        if isinstance(module, torch.nn.Linear):
            module.weight.data *= 2  # at their usual size, random layers hardly change their input
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, known["vocab_size"] - 5, (1, length)) for length in rng.integers(12, 60, COUNT)]
    feeds = [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in rows]
    return First(model), feeds, ({1: torch.export.Dim.DYNAMIC}, {1: torch.export.Dim.DYNAMIC})


def photographs(side: int) -> Iterator[np.ndarray]:
    """Yield random cuts of photographs, normalized, [1, 3, side, side]."""
    pictures = [
        Image.fromarray(getattr(data, name)()).convert("RGB")
        for name in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    rng = random.Random(1)
    for _ in range(COUNT):
        picture = rng.choice(pictures)
        size = int(min(picture.size) * rng.uniform(0.3, 1.0))
        left, top = rng.randint(0, picture.width - size), rng.randint(0, picture.height - size)
        cut = picture.crop((left, top, left + size, top + size)).resize(
            (side, side), Image.Resampling.BILINEAR
        )
        values = (np.asarray(cut, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        yield np.ascontiguousarray(values.transpose(2, 0, 1)[None].astype(np.float32))


def picture_model(name: str) -> Made:
    """Make a picture model with random weights; its batch norms take their statistics from 16 photographs."""
    model = timm.create_model(name, pretrained=False)
    pictures = list(photographs(model.pretrained_cfg["input_size"][1]))
    norms = [
        module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        model.train(bool(norms))(torch.from_numpy(np.concatenate(pictures[:16])))
    return model, [{"x": picture} for picture in pictures], None


def export(name: str, folder: Path) -> None:
    """Write a model and its samples."""
    torch.manual_seed(0)
    model, feeds, dynamic = text_model(name) if name in TEXT else picture_model(name)
    folder.mkdir(parents=True)
    inputs = tuple(torch.from_numpy(array) for array in feeds[0].values())
    with torch.no_grad():
        torch.onnx.export(
            model.eval(),
            inputs,
            str(folder / "model.onnx"),
            dynamo=True,
            external_data=False,
            input_names=list(feeds[0]),
            dynamic_shapes=dynamic,
            opset_version=18,
            verbose=False,
        )
    for i, sample in enumerate(feeds):
        path = folder / ("calib" if i < CALIBRATION else "eval") / f"{i:03}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **sample)


def main() -> None:
    """Export all models, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the cases")
    parser.add_argument("names", nargs="*", default=[*TEXT, *PICTURES])
    args = parser.parse_args()
    for name in args.names:
        if not (args.folder / name).exists():
            export(name, args.folder / name)
            print(name, (args.folder / name / "model.onnx").stat().st_size >> 10, "kB", flush=True)


if __name__ == "__main__":
    main()
