"""Sounds, clips and words of the same ten digits, weighed for each sample in one model.

``python examples/audio_video.py``. The clips are real scans of digits that drift from frame to
frame, the words are typed with errors. The sounds are synthetic: two resonances for each digit,
another voice for each sample. ``--waves FILE.npz`` takes recordings in their place: ``waves``
[N, samples] (integers or floats), ``lengths`` [N], ``labels`` [N] in 0 to 9, at 8,000 samples a
second.

1. Encoders and heads are trained together in a `FusionModel`, every modality weighed alike.
2. ``fit`` learns calibrated heads, what is typical, and a policy, on samples that no encoder has
   learned from.
3. `FusionModel.from_artifact` puts the encoders before the result.

Then one modality of each test sample is corrupted. The table compares equal weights, the learned
ones, and those of an oracle that leaves out what is corrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm import tqdm
from transformers.audio_utils import mel_filter_bank

from dms_spec import SchedulerSpec
from dms_spec.embeddings.table import Table
from dms_torch import FusionModel, unimodal_loss
from dms_torch.fit import FitSettings, fit

RATE, LENGTH = 8000, 6400  # samples a second, and in a sound
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NAMES = ("audio", "video", "text")
WIDTH = 32


class Sound(nn.Module):
    """A small convolutional network over a log-mel spectrogram: [B, samples] -> [B, D]."""

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filter_bank(129, 40, 60.0, RATE / 2, RATE, mel_scale="htk")
        self.register_buffer("mel", torch.tensor(filters, dtype=torch.float32))
        self.register_buffer("window", torch.hann_window(256))
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, WIDTH, 3, stride=2, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten(), nn.Linear(4 * WIDTH, WIDTH)),
        )

    def forward(self, waves: Tensor) -> Tensor:
        spectrum = torch.stft(waves, 256, 128, window=self.window, return_complex=True)
        power = spectrum.abs().square().transpose(1, 2) @ self.mel  # [B, time, 40]
        return self.layers((power + 1e-5).log().transpose(1, 2)[:, None])


class Clip(nn.Module):
    """The mean over frames of a small convolutional network: [B, frames, 12, 12] -> [B, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(9 * WIDTH, WIDTH)),
        )

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames.flatten(0, 1)[:, None]).unflatten(0, frames.shape[:2]).mean(1)


class Letters(nn.Module):
    """The mean embedding of the pairs of letters in a word: [B, 6] -> [B, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.EmbeddingBag(27 * 27, WIDTH)

    def forward(self, letters: Tensor) -> Tensor:
        return self.pairs(27 * letters[:, :-1] + letters[:, 1:])


def sounds(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Makes a sound for each label: harmonics of a voice, louder near the digit's resonances."""
    n, time = len(labels), np.arange(LENGTH) / RATE
    pitch = random.uniform(90, 260, (n, 1))
    first, second = 280 + 70 * (labels % 5), 900 + 260 * (labels // 2)
    waves = np.zeros((n, LENGTH))
    for harmonic in range(1, 20):
        near = sum(
            np.exp(-(((harmonic * pitch - f[:, None] * random.normal(1, 0.06, (n, 1))) / 120) ** 2))
            for f in (first, second)
        )
        waves += near * np.sin(2 * np.pi * harmonic * pitch * time)
    start, length = random.uniform(0, 0.3, (n, 1)), random.uniform(0.25, 0.5, (n, 1))
    waves *= np.exp(-(((time - start - length / 2) / (length / 3)) ** 2))
    return (waves / waves.std(1, keepdims=True) * 0.1 + random.normal(0, 0.02, waves.shape)).astype(
        np.float32
    )


def clips(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws a scan for each label, and lets it drift: [N, 6, 12, 12]."""
    digits = load_digits()
    # Half of each class for each half of the samples: no scan is learned from and tested.
    frames = np.zeros((len(labels), 6, 12, 12), np.float32)
    halves = [np.flatnonzero(np.arange(len(digits.target)) % 2 == half) for half in (0, 1)]
    for i, label in enumerate(labels):
        own = halves[i >= 2 * len(labels) // 3]
        scan = digits.images[random.choice(own[digits.target[own] == label])] / 16
        place = np.clip(np.cumsum(random.integers(-1, 2, (6, 2)), axis=0) + 2, 0, 4)
        for frame, (y, x) in zip(frames[i], place, strict=True):
            frame[y : y + 8, x : x + 8] = scan
    return frames + random.normal(0, 0.15, frames.shape).astype(np.float32)


def letters(labels: np.ndarray, random: np.random.Generator, errors: float) -> np.ndarray:
    """Types the digits' names, [N, 6]: 0 is a space; each letter is wrong at the rate given."""
    typed = np.array([[ord(c) - 96 if c != " " else 0 for c in f"{w:<6}"] for w in WORDS])[labels]
    wrong = random.random(typed.shape) < errors
    return np.where(wrong, random.integers(0, 27, typed.shape), typed)


def corrupted(name: str, values: Tensor, random: torch.Generator) -> Tensor:
    """Puts noise over a sound, a block over a clip, or errors into a word."""
    if name == "audio":
        return values + 0.3 * torch.randn(values.shape, generator=random)
    if name == "video":
        return values + 1.5 * torch.rand((len(values), 1, 12, 12), generator=random)
    wrong = torch.rand(values.shape, generator=random) < 0.7
    return torch.where(wrong, torch.randint(27, values.shape, generator=random), values)


def recorded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads recordings, each cut or padded to the same length and loudness."""
    with np.load(path) as file:
        waves, lengths, labels = (file[name] for name in ("waves", "lengths", "labels"))
    waves = pad(torch.tensor(waves, dtype=torch.float32), (0, LENGTH))[:, :LENGTH].numpy()
    loud = [np.std(wave[:length]) for wave, length in zip(waves, lengths, strict=True)]
    return waves / (10 * np.array(loud, np.float32)[:, None] + 1e-6), labels


def samples(path: Path | None, count: int, seed: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """Makes all samples, in random order."""
    random = np.random.default_rng(seed)
    if path is None:
        labels = random.integers(0, 10, count)
        waves = sounds(labels, random)
    else:
        waves, labels = recorded(path)
        order = random.permutation(len(labels))
        waves, labels = waves[order], labels[order]
    arrays = {"audio": waves, "video": clips(labels, random), "text": letters(labels, random, 0.2)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, labels


def train(
    model: FusionModel, inputs: dict[str, Tensor], labels: Tensor, epochs: int, seed: int
) -> None:
    """Trains encoders and heads; each modality is absent from a fifth of the samples."""
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in tqdm(range(epochs), desc="encoders", unit="epoch", disable=None, leave=False):
        for rows in torch.randperm(len(labels), generator=random).split(64):
            present = torch.rand((len(rows), len(NAMES)), generator=random) < 0.8
            there = present.any(dim=1)
            rows, present = rows[there], present[there]
            output = model({name: x[rows] for name, x in inputs.items()}, present)
            loss = cross_entropy(output.predictions, labels[rows])
            loss = loss + unimodal_loss(output.mc_logits, labels[rows], output.active)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


@torch.no_grad()
def table_of(model: FusionModel, inputs: dict[str, Tensor], labels: np.ndarray) -> Table:
    """Runs the encoders alone."""
    embeddings, _ = model.embed(inputs)
    arrays = {name: x.numpy() for name, x in embeddings.items()}
    return Table.from_arrays(arrays | {"labels": labels})


@torch.no_grad()
def measured(
    model: FusionModel, inputs: dict[str, Tensor], labels: np.ndarray, present: Tensor | None = None
) -> tuple[float, np.ndarray]:
    """Accuracy, and the mean weight of each modality."""
    output = model(inputs, present)
    said = output.probabilities.argmax(1).numpy()
    return float((said == labels).mean()), output.weights.mean(0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waves", type=Path, metavar="FILE", help="recordings, as .npz")
    parser.add_argument("--samples", type=int, default=900, help="without recordings: how many")
    parser.add_argument("--epochs", type=int, default=25, help="of the encoders")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    inputs, labels = samples(args.waves, args.samples, args.seed)
    learn, rest, test = np.split(np.arange(len(labels)), [len(labels) // 2, 2 * len(labels) // 3])

    def part(rows: np.ndarray) -> dict[str, Tensor]:
        return {name: x[torch.from_numpy(rows)] for name, x in inputs.items()}

    encoders = {"audio": Sound(), "video": Clip(), "text": Letters()}
    alike = SchedulerSpec.preset("static", NAMES).replace(fusion="logit")
    widths = dict.fromkeys(NAMES, WIDTH)
    equal = FusionModel(encoders, alike, widths=widths, width=WIDTH, classes=10, passes=4)
    train(equal, part(learn), torch.from_numpy(labels[learn]), args.epochs, args.seed)

    spec = SchedulerSpec.preset("robust", NAMES)
    settings = FitSettings(seed=args.seed)
    fitted = fit(table_of(equal, part(rest), labels[rest]), spec, settings)
    learned = FusionModel.from_artifact(encoders, fitted.artifact).eval()
    same_heads = fit(table_of(equal, part(rest), labels[rest]), alike, settings)
    static = FusionModel.from_artifact(encoders, same_heads.artifact).eval()

    clean, truth = part(test), labels[test]
    random = torch.Generator().manual_seed(args.seed)
    print(f"{len(learn)} samples for the encoders, {len(rest)} for the rest, {len(test)} to test")
    print(f"{'corrupted':<12}{'equal':>8}{'learned':>9}{'oracle':>8}   learned weights")
    for name in ("nothing", *NAMES):
        given, mask = clean, None
        if name in NAMES:
            given = clean | {name: corrupted(name, clean[name], random)}
            mask = torch.tensor([[other != name for other in NAMES]]).expand(len(test), -1)
        one, two = measured(static, given, truth)[0], measured(learned, given, truth)
        three = measured(static, given, truth, mask)[0]
        weights = "  ".join(f"{m} {w:.2f}" for m, w in zip(NAMES, two[1], strict=True))
        print(f"{name:<12}{one:>8.3f}{two[0]:>9.3f}{three:>8.3f}   {weights}")
    for note in fitted.notes:
        print("note:", note)


if __name__ == "__main__":
    main()
