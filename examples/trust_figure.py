"""Draws how a multimodal model's trust in an image falls as the image gets worse.

``python examples/trust_figure.py -o trust.png``. The model is a tiny Llava with random weights, so
that nothing is downloaded and nothing is trained. `calibrate` looks at clean scans of digits with
a few questions. Then scans that it has not seen are blurred, covered or taken away, step by step,
and `look` says what their images weigh. Put a checkpoint and images of your own in their place.

Above each curve is one of the images. A curve is the mean over all of them, the band holds the
middle four fifths. Half is neutral: image and question count alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from dms_spec.colours import BLACK, BLUE, GREY
from dms_spec.robustness import EVERY, Case, Samples, corrupt, corruption
from dms_torch.adapters import attach, calibrate

SIDE, PATCHES, IMAGE = 24, 16, 60  # pixels; tokens of an image, and their id
STEPS = {
    "blur": ("blurred: Gaussian, pixels", (0, 0.5, 1, 2, 4)),
    "image_occlusion": ("covered: share of the area", (0, 0.1, 0.25, 0.5, 0.9)),
}


def tiny_llava() -> LlavaForConditionalGeneration:
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **size, num_attention_heads=4, image_size=SIDE, patch_size=6
        ),
        text_config=LlamaConfig(**size, num_attention_heads=4, vocab_size=64, pad_token_id=0),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval()


def scans() -> np.ndarray:
    """Scans of digits, drawn larger: [N, 24, 24], from 0 to 1."""
    digits = load_digits()
    return np.kron(digits.images, np.ones((3, 3))).astype(np.float32) / 16


QUESTIONS = torch.tensor([[5, 6, 7, 8], [5, 9, 7, 11], [12, 6, 13, 8]])


def batch(images: np.ndarray) -> dict[str, torch.Tensor]:
    """One of three questions for each image, after the places of the image's tokens."""
    ids = QUESTIONS[torch.arange(len(images)) % 3]
    ids = torch.cat([torch.full((len(images), PATCHES), IMAGE), ids], dim=1)
    pixels = torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1).contiguous()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("trust.png"), metavar="FILE")
    args = parser.parse_args()
    torch.manual_seed(0)
    images = scans()
    clean, new = images[:-60], images[-60:]
    model = tiny_llava()
    scheduler = calibrate(model, [batch(part) for part in np.array_split(clean, 20)])
    samples = Samples.of({"image": new}, np.zeros(len(new), dtype=int), kinds={"image": "image"})

    mpl.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    outer = figure.add_gridspec(1, 2)
    with attach(model, scheduler) as dms:
        for column, (name, (label, severities)) in enumerate(STEPS.items()):
            what, seen, weights = corruption(name), [], []
            for severity in severities:
                case = Case(corruption=what, severity=severity, pattern=EVERY, seed=0)
                worse = corrupt(samples, case).inputs["image"]
                seen.append(worse[0])
                weights.append(dms.look(**batch(worse)).weights[:, 0].detach().numpy())
            alone = QUESTIONS[torch.arange(len(new)) % 3]
            weights.append(dms.look(input_ids=alone).weights[:, 0].detach().numpy())
            places = [*map(str, severities), "none"]
            grid = outer[column].subgridspec(2, len(places), height_ratios=(1, 2.6))
            for i, picture in enumerate([*seen, None]):
                axes = figure.add_subplot(grid[0, i])
                axes.axis("off")
                if picture is not None:
                    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
            axes = figure.add_subplot(grid[1, :])
            x, y = np.arange(len(places)), np.array(weights)
            low, high = np.quantile(y, (0.1, 0.9), axis=1)
            axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
            axes.plot(x, y.mean(1), color=BLUE, marker="o", markersize=4)
            axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1)
            axes.text(len(x) - 1, 0.52, "neutral", ha="right", color=GREY)
            axes.set(xticks=x, xticklabels=places, ylim=(-0.03, 0.6), xlabel=label)
            if column == 0:
                axes.set_ylabel("weight of the image", color=BLACK)
            print(f"{label}:", *(f"{p} {w:.2f}" for p, w in zip(places, y.mean(1), strict=True)))
        model(**batch(worse))
        print(f"\none image, {severities[-1]:.0%} covered\n{dms.explain(sample=0)}")
    figure.savefig(args.output, dpi=150)
    print(f"\nwrote {args.output}")


if __name__ == "__main__":
    main()
