"""Train the two sample networks on scikit-learn's handwritten digits and export them to ONNX.

    pip install torch scikit-learn onnx onnxscript
    python sample_models/train.py

The data are the 1,797 real 8x8 digits of the UCI set "Optical Recognition of Handwritten Digits"
(E. Alpaydin, C. Kaynak, 1998, CC BY 4.0), which is part of scikit-learn. 1,097 digits train the networks,
and 200 of these are the calibration samples in calib_data/calib. The other 700 digits, never trained on, are
in calib_data/eval with their labels.
"""

import csv
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
CALIBRATION, EVALUATION = 200, 700


class Cnn(nn.Module):
    """Conv+BN+ReLU, depthwise, a residual Add, pooling and Gemm: [batch, 1, 8, 8] to 10 classes."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stem = self.block(1, width, 3)
        self.depthwise = self.block(width, width, 3, groups=width)
        self.pointwise = self.block(width, width, 1)
        self.residual = nn.Sequential(
            self.block(width, width, 3),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.wide = self.block(width, 2 * width, 3)
        self.head = nn.Linear(2 * width, 10)

    @staticmethod
    def block(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
        """Make a convolution with batch norm and ReLU; it keeps height and width."""
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, 10]."""
        x = self.pointwise(self.depthwise(self.stem(image)))
        x = F.max_pool2d(F.relu(x + self.residual(x)), 2)
        return self.head(F.adaptive_avg_pool2d(self.wide(x), 1).flatten(1))


class Layer(nn.Module):
    """One pre-norm transformer layer: attention and a GELU feed-forward network, each with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for x [batch, patches, width]."""
        y = self.norm1(x)
        q, k, v = (
            f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """2x2 patches, two encoder layers and mean pooling: [batch, 1, 8, 8] to 10 classes."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, 10]."""
        x = self.patch(image).flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Shift all images by the same random -1, 0 or 1 pixel in each direction."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(F.pad(images, (1, 1, 1, 1)), (down, right), (2, 3))[:, :, 1:-1, 1:-1]


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 200) -> nn.Module:
    """Fit the model with AdamW and a one-cycle learning rate; return it in inference mode."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(shifted(images[batch])), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def write_samples(folder: Path, images: np.ndarray, labels: np.ndarray | None) -> None:
    """Write each sample as .npy, [1, 1, 8, 8] float32, and labels.csv if there are labels."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:03}.npy" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        np.save(folder / name, image[None])
    if labels is not None:
        with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [("file", "label"), *zip(names, labels.tolist(), strict=True)]
            )


def main() -> None:
    """Write the samples; train, score and export both networks."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, None] / np.float32(16)).astype(np.float32)
    labels = digits.target[order]
    train_images, train_labels = images[EVALUATION:], labels[EVALUATION:]
    write_samples(ROOT / "calib_data" / "calib", train_images[:CALIBRATION], None)
    write_samples(ROOT / "calib_data" / "eval", images[:EVALUATION], labels[:EVALUATION])
    for name, model in (("digits_cnn", Cnn()), ("digits_transformer", Transformer())):
        train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels))
        with torch.no_grad():
            guesses = model(torch.from_numpy(images[:EVALUATION])).argmax(1).numpy()
        print(f"{name}: accuracy {np.mean(guesses == labels[:EVALUATION]):.4f}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (torch.zeros(1, 1, 8, 8),),
                ROOT / "sample_models" / f"{name}.onnx",
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
                opset_version=17,
                dynamo=False,
                do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,
            )


if __name__ == "__main__":
    main()
