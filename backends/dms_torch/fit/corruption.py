"""Draws everything that is random while learning: streams, dropout, noise, corruption.

Every draw is NumPy's Philox of (seed, purpose, ...): nothing depends on the state of a generator,
so that a run that was stopped goes on to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Random = np.random.Generator

#: How often validation rows are corrupted at most, to learn what it costs and to measure by.
DRAWS = 8

# Rows at a time.
_ROWS = 1024

# So many corrupted rows are enough.
_ENOUGH = 1 << 16

# First entries of the Philox streams; draw_masks takes bytes, so these cannot meet its own.
_STREAMS = {
    "split": 256,
    "start": 257,
    "heads": 258,
    "policy": 259,
    "validation": 260,
    "trust": 261,
}

# The share of the samples that meet corruption; of their modalities it hits half.
_CORRUPTED = 0.6


def draws_of(most: int, rows: int) -> int:
    """Says how often rows are corrupted: fewer times where they are many, and at least once."""
    return min(most, -(-_ENOUGH // max(1, rows)))


def stream(seed: int, purpose: str, *key: int) -> Random:
    """Makes a generator that depends on nothing but these."""
    numbers = (_STREAMS[purpose], *key)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=numbers)))


def dropped(x: Tensor, rate: float, random: Random) -> Tensor:
    """Sets some inputs to 0 and scales up the rest, in training: [B, D] -> [B, D]."""
    keep = random.random(tuple(x.shape), dtype=np.float32) >= rate
    return x * torch.from_numpy(keep).to(x.device) / (1.0 - rate)


def noisy(x: Tensor, share: float, random: Random) -> Tensor:
    """Adds uniform noise of up to half the range of an input to a share of the rows."""
    rows, width = x.shape
    level = (random.random((rows, 1), dtype=np.float32) < share) * 0.5
    level = level * random.random((rows, 1), dtype=np.float32)
    result = x.clone()
    for start in range(0, rows, _ROWS):  # what is drawn is the same for any number of rows
        some = slice(start, start + _ROWS)
        own = level[some]
        noise = own * (2.0 * random.random((len(own), width), dtype=np.float32) - 1.0)
        result[some] += torch.from_numpy(noise.astype(np.float32)).to(x.device)
    return result


def corrupted(
    embeddings: Mapping[str, Tensor], random: Random
) -> tuple[dict[str, Tensor], NDArray[np.bool_]]:
    """Corrupts some modalities of some rows, and says which: bool [B, M]."""
    shape = (len(next(iter(embeddings.values()))), len(embeddings))
    hit = (random.random((shape[0], 1)) < _CORRUPTED) & (random.random(shape) < 0.5)
    changed = {
        name: corrupted_rows(x, hit[:, m], random) for m, (name, x) in enumerate(embeddings.items())
    }
    return changed, hit


def exchanged(
    embeddings: Mapping[str, Tensor], hit: NDArray[np.bool_], share: float, random: Random
) -> dict[str, Tensor]:
    """Gives a share of what is hit the inputs of another row: typical, and wrong."""
    result = {}
    for m, (name, x) in enumerate(embeddings.items()):
        own = torch.from_numpy(hit[:, m] & (random.random(len(x)) < share)).to(x.device)
        other = torch.from_numpy(random.permutation(len(x))).to(x.device)
        result[name] = torch.where(own[:, None], x[other], x)
    return result


def corrupted_rows(x: Tensor, hit: NDArray[np.bool_], random: Random) -> Tensor:
    """Corrupts the rows that are hit at random, to learn what corruption costs.

    Uniform noise in half of them, Laplace noise in a quarter, its level spread evenly in the
    logarithm from a fiftieth of the range of an input to three times it; a part of the inputs
    exchanged with each other in the rest.
    """
    rows, width = int(hit.sum()), x.shape[1]
    kind = random.random(rows)
    level = np.exp(random.uniform(np.log(0.02), np.log(3.0), (rows, 1)))
    part = random.random((rows, 1))
    changed = x[torch.from_numpy(hit).to(x.device)].cpu().numpy()
    even, heavy = kind < 0.5, (kind >= 0.5) & (kind < 0.75)
    changed[even] += level[even] * random.uniform(-1.0, 1.0, (int(even.sum()), width))
    changed[heavy] += 0.5 * level[heavy] * random.laplace(size=(int(heavy.sum()), width))
    for row in np.flatnonzero(kind >= 0.75):
        some = np.flatnonzero(random.random(width) < part[row])
        changed[row, some] = changed[row, random.permutation(some)]
    result = x.clone()
    result[torch.from_numpy(hit).to(x.device)] = torch.from_numpy(changed).to(x.device)
    return result
