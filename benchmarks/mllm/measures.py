"""What is measured of a model under a condition, with whatever is attached.

The oracle alone is told what is corrupted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from models import captions_alone, prompts, run
from sacrebleu.metrics import BLEU
from scenes import Scenes
from schedulers import tell
from torch import Tensor
from torch.nn import functional
from vocabulary import CAPTION_STARTS, DIGITS, SIZE, write

#: The longest caption is 12 words, and what starts and stops it.
LONGEST = 14
#: So many scenes are captioned: writing is the slowest.
CAPTIONED = 150


@torch.no_grad()
def answered(model: Any, scenes: Scenes) -> float:
    """VQA: how often the likeliest digit is the one in the frame, in %."""
    tell(model, torch.from_numpy(scenes.good))
    logits = run(model, prompts(scenes, scenes.questions))[0][:, -1, DIGITS]
    return 100 * float(np.mean(logits.argmax(-1).numpy() == scenes.framed))


@torch.no_grad()
def written(model: Any, scenes: Scenes) -> list[str]:
    """The captions that a model writes, greedily."""
    tell(model, torch.from_numpy(scenes.good))
    out = model.generate(
        **prompts(scenes, scenes.notes),
        max_new_tokens=LONGEST,
        do_sample=False,
        prefix_allowed_tokens_fn=_caption_first,
    )
    rows = out.tolist()
    return [write(row[row.index(CAPTION_STARTS) + 1 :]) for row in rows]


def _caption_first(_: int, ids: Tensor) -> list[int]:
    """Without a text, nothing in the prompt says that a caption is wanted."""
    return list(range(SIZE)) if (ids == CAPTION_STARTS).any() else [CAPTION_STARTS]


def bleu(found: list[str], right: list[str]) -> float:
    """BLEU-4 of the corpus, by sacrebleu, on words as they are."""
    return float(BLEU(tokenize="none", force=True).corpus_score(found, [right]).score)


@torch.no_grad()
def ranks(model: Any, scenes: Scenes) -> Tensor:
    """Retrieval: the rank of each scene's own caption among those of all scenes, from 0."""
    tell(model, torch.from_numpy(scenes.good))
    queries = run(model, prompts(scenes, scenes.notes))[1][:, -1]
    tell(model, None)  # captions alone have nothing that is corrupted
    candidates = run(model, captions_alone(scenes.captions))[1][:, -1]
    similar = functional.normalize(queries, dim=1) @ functional.normalize(candidates, dim=1).T
    return (similar > similar.diagonal()[:, None]).sum(dim=1)


def all_tasks(model: Any, scenes: Scenes) -> dict[str, float]:
    """Every metric, by name, in %."""
    place = ranks(model, scenes)
    some = scenes.take(slice(0, CAPTIONED))
    found, right = written(model, some), some.captions.tolist()
    return {
        "BLEU-4": bleu(found, right),
        "whole captions": 100 * float(np.mean([a == b for a, b in zip(found, right, strict=True)])),
        "R@1": 100 * float((place < 1).float().mean()),
        "R@5": 100 * float((place < 5).float().mean()),
    }
