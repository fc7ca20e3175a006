"""Turns texts into ids: words that occur in the templates, single letters for all others."""

from __future__ import annotations

import string

import torch
from scenes import CAPTION, NOTES, QUESTIONS, WORDS
from torch import Tensor

PAD, BEGIN, STOP, ASK, CAPTION_STARTS = range(5)
_LETTERS = ("[MASK]", *string.ascii_lowercase, *".,?:")
_KNOWN = {
    word
    for template in (*QUESTIONS, *NOTES, CAPTION)
    for word in template.split()
    if word[0] not in "{.,?:"
}
_TOKENS = (*_LETTERS, *sorted((_KNOWN | set(WORDS)) - set(_LETTERS)))
_ID = {token: 5 + i for i, token in enumerate(_TOKENS)}
IMAGE = 5 + len(_TOKENS)
SIZE = IMAGE + 1
#: Ids of the ten digits, as words.
DIGITS = torch.tensor([_ID[word] for word in WORDS])


def read(text: str) -> list[int]:
    """Ids of a text; what no template says is read letter by letter, other signs not at all."""
    ids: list[int] = []
    for word in text.split():
        ids += [_ID[word]] if word in _ID else [_ID[x] for x in word if x in _ID]
    return ids


def write(ids: list[int]) -> str:
    """The text of ids, up to the one that stops."""
    if STOP in ids:
        ids = ids[: ids.index(STOP)]
    return " ".join(_TOKENS[i - 5] for i in ids if 5 <= i < IMAGE)


def padded(rows: list[list[int]], *, left: bool) -> Tensor:
    """Rows of one length, int64 ``[N, L]``."""
    most = max(map(len, rows))
    fill = ([PAD] * (most - len(row)) for row in rows)
    return torch.tensor([f + row if left else row + f for row, f in zip(rows, fill, strict=True)])
