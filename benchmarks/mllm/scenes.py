"""Scenes of scanned digits, what is written beside them, and what goes wrong with either.

A scene is four scans, two by two, one of them in a frame. Beside it stands a text that tells the
same in words: a question with a hint, or a note for whoever writes the caption. So each modality
alone is enough, and where one is corrupted the other can help. Scans of the test never occur in
training: they are split first, and scenes are made of the scans of one part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dms_spec.robustness import Case, Samples, corrupt, corruption, named

MODALITIES = ("image", "text")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: How often whoever writes a text takes a digit for another, in training as in the test.
MISTAKEN = 0.08
#: A cell is a scan of 8 pixels square and a border that is lit in the framed one.
CELL, INK = 10, 16.0

Part = Literal["train", "validation", "test"]
#: How the 1,797 scans are shared out, in a new order for each seed.
SHARES: dict[Part, slice] = {
    "train": slice(0, 1100),
    "validation": slice(1100, 1300),
    "test": slice(1300, 1797),
}

QUESTIONS = (
    "which digit is framed ? i think {framed}",
    "what is in the frame ? it looks like a {framed}",
    "tell me the digit in the frame . perhaps {framed}",
    "name the framed digit . {framed} i would say",
)
NOTES = (
    "describe this . note : {a} {b} over {c} {d} with a frame at {framed}",
    "write a caption . i see {a} {b} then {c} {d} and {framed} framed",
    "what is shown ? top {a} {b} bottom {c} {d} framed {framed}",
)
CAPTION = "top {a} and {b} , bottom {c} and {d} , {framed} framed"

#: What happens to the test scenes: the corruption, its severity, the modality.
CORRUPTED: dict[str, tuple[str, float, str]] = {
    "blur": ("blur", 2.0, "image"),
    "occlusion": ("image_occlusion", 0.6, "image"),
    "typing errors": ("typing", 0.4, "text"),
    "masked words": ("word_masking", 0.6, "text"),
    "image missing, untold": ("image_occlusion", 1.0, "image"),
}
TOLD = "image missing, told"
CONDITIONS = ("clean", *CORRUPTED, TOLD)
#: The paper's two kinds of noise.
NOISE = {"image noise": ("blur", "occlusion"), "text noise": ("typing errors", "masked words")}


@dataclass(frozen=True)
class Scenes:
    """N scenes: images ``[N, 20, 20]`` from 0 to 16, texts, what is right, and what is there.

    Attributes:
        images: float32.
        questions: Strings ``[N]``, each with a hint.
        notes: Strings ``[N]``, for whoever writes the caption.
        captions: The right ones.
        framed: The digit in the frame, int64 ``[N]``: the answer to the question.
        digits: All four, row by row, ``[N, 4]``.
        scans: Which scans they are made of, ``[N, 4]``.
        present: bool ``[N, 2]``; what is not there is known to be missing.
        good: bool ``[N, 2]``: what is there and not corrupted. Only the oracle may look.
    """

    images: NDArray[np.float32]
    questions: NDArray[np.str_]
    notes: NDArray[np.str_]
    captions: NDArray[np.str_]
    framed: NDArray[np.int64]
    digits: NDArray[np.int64]
    scans: NDArray[np.int64]
    present: NDArray[np.bool_]
    good: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.framed)

    def take(self, rows: NDArray[np.intp] | slice) -> Scenes:
        """Some of them."""
        return Scenes(**{name: array[rows] for name, array in vars(self).items()})


@cache
def _scans() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    images, digits = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8).astype(np.float32), digits.astype(np.int64)


def scans_of(part: Part, seed: int) -> NDArray[np.int64]:
    """Which scans belong to a part."""
    order = np.random.RandomState(seed).permutation(len(_scans()[1]))
    return order[SHARES[part]].astype(np.int64)


def make_scenes(part: Part, count: int, seed: int, draw: int = 0) -> Scenes:
    """Scenes of the scans of one part; another ``draw`` makes others."""
    pixels, classes = _scans()
    random = np.random.default_rng([seed, draw, list(SHARES).index(part)])
    scans = random.choice(scans_of(part, seed), size=(count, 4))
    digits, place = classes[scans], random.integers(4, size=count)
    cells = np.zeros((count, 4, CELL, CELL), np.float32)
    rows = np.arange(count)
    cells[rows, place] = INK
    cells[:, :, 1:-1, 1:-1] = pixels[scans]
    images = cells.reshape(count, 2, 2, CELL, CELL).swapaxes(2, 3).reshape(count, 2 * CELL, -1)
    framed = digits[rows, place]

    def told(templates: tuple[str, ...], mistaken: float = MISTAKEN) -> NDArray[np.str_]:
        which = random.integers(len(templates), size=count)
        right = np.column_stack([digits, framed])
        wrong = (right + random.integers(1, 10, size=right.shape)) % 10
        said = np.where(random.random(right.shape) < mistaken, wrong, right)
        words = ([WORDS[d] for d in row] for row in said)
        names = ("a", "b", "c", "d", "framed")
        filled = (dict(zip(names, row, strict=True)) for row in words)
        return np.array([templates[k].format(**row) for k, row in zip(which, filled, strict=True)])

    everything = np.ones((count, 2), bool)
    return Scenes(
        images=images,
        questions=told(QUESTIONS),
        notes=told(NOTES),
        captions=told((CAPTION,), mistaken=0.0),
        framed=framed,
        digits=digits,
        scans=scans,
        present=everything,
        good=everything,
    )


def under(scenes: Scenes, condition: str, seed: int) -> Scenes:
    """The scenes under a condition; the same again for the same seed."""
    if condition == "clean":
        return scenes
    if condition == TOLD:
        there = np.repeat([[False, True]], len(scenes), axis=0)
        return replace(scenes, present=there, good=there)
    name, severity, modality = CORRUPTED[condition]
    what = corruption(name).at(severity)
    case = Case(corruption=what, severity=severity, pattern=named([modality]), seed=1000 + seed)

    def of(texts: NDArray[np.str_]) -> Samples:
        given = {"image": scenes.images, "text": texts}
        kinds = {"image": "image", "text": "text"}
        return Samples.of(given, scenes.framed, kinds=kinds)  # type: ignore[arg-type]

    one, other = (corrupt(of(texts), case) for texts in (scenes.questions, scenes.notes))
    return replace(
        scenes,
        images=one.inputs["image"],
        questions=one.inputs["text"],
        notes=other.inputs["text"],
        good=~one.hit,
    )


def harmed(scenes: Scenes, seed: int) -> Scenes:
    """Half of the scenes as they are; in a quarter the image is noisy, in a quarter the text.

    For a gate to learn on, and unlike what the test does: uniform noise of any strength is added
    to all pixels, and any share of the words is replaced by words of other texts.
    """
    random = np.random.default_rng([seed, 77])
    kind = random.integers(4, size=len(scenes))
    strength = random.random(len(scenes)) ** 2  # mostly mild: what is clear needs no gate
    noise = random.uniform(-1, 1, scenes.images.shape) * (2 * INK * strength)[:, None, None]
    images = np.where((kind == 2)[:, None, None], scenes.images + noise, scenes.images)

    def mixed(texts: NDArray[np.str_]) -> NDArray[np.str_]:
        words = np.array(" ".join(texts.tolist()).split())
        result = texts.tolist()
        for i in np.flatnonzero(kind == 3):
            own = np.array(result[i].split())
            swapped = np.where(
                random.random(len(own)) < strength[i], random.choice(words, len(own)), own
            )
            result[i] = " ".join(swapped.tolist())
        return np.array(result)

    return replace(
        scenes,
        images=images.astype(np.float32),
        questions=mixed(scenes.questions),
        notes=mixed(scenes.notes),
    )
