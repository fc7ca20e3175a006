"""Opens what is encoded: images, texts and sounds. What cannot be opened says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dms_spec.encoding.items import Cell
from dms_spec.errors import BackendUnavailable, install_hint


class Sound(NamedTuple):
    """Holds a sound of one channel.

    Attributes:
        samples: float32 ``[T]``, from -1 to 1.
        rate: Samples in a second.
    """

    samples: NDArray[np.float32]
    rate: int


@dataclass(frozen=True)
class Absent:
    """Says why an item has no embedding.

    Attributes:
        reason: In a few words, the same for all of its kind.
        detail: What is known beside it.
    """

    reason: str
    detail: str = ""


#: Opens one item.
Opener = Callable[[Cell], Any]


def opener(kind: str) -> Opener:
    """Gives what opens items of a kind. It returns `Absent` for what cannot be opened.

    Raises:
        BackendUnavailable: The library that reads such files is not installed.
    """
    read = _READERS[kind]()

    def opened(cell: Cell) -> Any:
        if cell is None:
            return Absent("nothing there")
        if isinstance(cell, Path) and not cell.is_file():
            return Absent("no file", f"nothing at {cell}")
        try:
            return read(cell)
        except MemoryError:
            raise
        except Exception as error:  # a hostile file can raise almost anything
            return Absent("broken file", said(error))

    return opened


def said(error: BaseException) -> str:
    """Gives an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _needed(package: str, what: str) -> Any:
    try:
        return import_module(package)
    except (ImportError, OSError) as error:  # soundfile looks for a library of its own
        raise BackendUnavailable(
            f"reading {what} needs {package.partition('.')[0]}",
            got=str(error),
            fix=install_hint("dms-spec[embed]"),
        ) from error


def _images() -> Opener:
    image, operations = _needed("PIL.Image", "images"), _needed("PIL.ImageOps", "images")

    def read(cell: Cell) -> Any:
        with image.open(cell) as file:
            if file.mode.startswith(("I", "F")):  # which PIL would clip to 255
                return Absent("more than 8 bits", f"pixels of mode {file.mode}")
            return operations.exif_transpose(file).convert("RGB")

    return read


def _texts() -> Opener:
    def read(cell: Cell) -> Any:
        text = cell.read_text(encoding="utf-8-sig") if isinstance(cell, Path) else str(cell)
        return text if text.strip() else Absent("empty text")

    return read


def _sounds() -> Opener:
    files = _needed("soundfile", "sounds")

    def read(cell: Cell) -> Any:
        samples, rate = files.read(cell, dtype="float32", always_2d=True)
        return Sound(samples.mean(axis=1), rate) if len(samples) else Absent("empty sound")

    return read


def _paths() -> Opener:
    return lambda cell: cell


_READERS: Mapping[str, Callable[[], Opener]] = {
    "image": _images,
    "text": _texts,
    "audio": _sounds,
    "file": _paths,
}


def resampled(sound: Sound, rate: int) -> NDArray[np.float32]:
    """Gives the samples of a sound at another rate, float32 ``[T]``.

    Raises:
        BackendUnavailable: The rates differ, and soxr is not installed.
    """
    if sound.rate == rate:
        return sound.samples
    found = _needed("soxr", "sounds at another rate").resample(sound.samples, sound.rate, rate)
    return np.asarray(found, dtype=np.float32)
