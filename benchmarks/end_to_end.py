"""Says what scheduling costs next to what it serves: a model's forward pass, rows of a table.

``python benchmarks/end_to_end.py [-o FOLDER]``, on one core. *Models*: a Llava built from a config,
its forward pass with a scheduler attached and without, in turn. *Tables*: the `Predictor` of
`dms predict` on rows of two modalities, beside scikit-learn's logistic regression on the same
columns, concatenated, and the matrix products that a prediction needs. Needs
``dms-spec[sklearn,tables,transformers]``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np
import torch
import transformers as hf
from predict import products
from sklearn.linear_model import LogisticRegression

from dms_spec import SchedulerSpec
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table
from dms_spec.estimator import FusionClassifier
from dms_spec.plugins import available, get_backend
from dms_spec.speed.session import save
from dms_spec.speed.timing import middle, ratios, rounds
from dms_torch import Fusion
from dms_torch.adapters import attach

Row = dict[str, Any]

#: Width, layers, heads, image size; the patches are 14 wide, and the language model reads them all.
MODELS = {"tiny": (64, 2, 4, 56), "width 2,048": (2048, 4, 16, 336)}


def llava(width: int, layers: int, heads: int, image: int) -> tuple[Any, dict[str, Any]]:
    """A Llava with random weights, and a prompt of one image and 32 words for two samples."""
    torch.manual_seed(0)
    small = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**small, image_size=image, patch_size=14),
        text_config=hf.LlamaConfig(**small, vocab_size=1000, pad_token_id=0),
        image_token_index=999,
        vision_feature_layer=-1,
    )
    patches = (image // 14) ** 2
    ids = torch.randint(3, 900, (2, patches + 32))
    ids[:, 2 : 2 + patches] = 999
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(2, 3, image, image),
    }
    return hf.LlavaForConditionalGeneration(config).eval(), inputs


def models(seconds: float) -> Iterator[Row]:
    """Times forward passes with a scheduler that has something to do, and without."""
    fixed = SchedulerSpec(
        modalities=("image", "text"), policy="static", signals={}, coefficients={}, fusion="feature"
    )
    fusion = Fusion(fixed, {"policy.bias": torch.tensor([0.2, 0.8]).log()})
    for name, sizes in MODELS.items():
        (plain, inputs), (weighed, _) = llava(*sizes), llava(*sizes)
        with torch.no_grad(), attach(weighed, fusion):
            calls = {"plain": partial(plain, **inputs), "weighed": partial(weighed, **inputs)}
            times = rounds(calls, seconds)
        share = [1 - 1 / ratio for ratio in ratios(times, "weighed", times["plain"])]
        median, low, high = middle(share)
        yield {
            "model": name,
            "tokens": inputs["input_ids"].shape[1],
            "forward ms": middle(times["plain"])[0],
            "share of the pass": median,
            "share_20": low,
            "share_80": high,
        }


def tables(seconds: float, rows: int = 50_000) -> Iterator[Row]:
    """Times predicted probabilities on rows of two modalities, 64 wide, ten classes."""
    random = np.random.default_rng(0)
    y = random.integers(0, 10, rows)
    x = {
        name: (random.normal(size=(10, 64))[y] + 2 * random.normal(size=(rows, 64))).astype("f4")
        for name in ("image", "text")
    }
    wide = np.concatenate(list(x.values()), axis=1)
    few = slice(0, 2000)
    ours = FusionClassifier(random_state=0).fit({k: v[few] for k, v in x.items()}, y[few])
    theirs = LogisticRegression(max_iter=300).fit(wide[few], y[few])
    calls = {
        "scikit-learn, concatenated": lambda: theirs.predict_proba(wide),
        "matrix products alone": lambda: products(ours.artifact_, x),
    }
    table = Table.from_arrays(x)
    for name in ("numpy", "numba", "torch", "onnxruntime"):
        if name in available("backend"):
            predictor = Predictor(ours.artifact_, get_backend(name))
            calls[name] = lambda predictor=predictor: predictor.predict(table)
    times = rounds(calls, seconds)
    for name in calls:
        yield {"predict": name, "rows per second": 1e3 * rows / middle(times[name])[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="folder for tables")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each contender")
    args = parser.parse_args()
    found = {"models.csv": list(models(args.seconds)), "tables.csv": list(tables(args.seconds))}
    for rows in found.values():
        for row in rows:
            print(row)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        for name, rows in found.items():
            save(args.output / name, rows)


if __name__ == "__main__":
    main()
