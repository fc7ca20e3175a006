"""What the pages and the charts are coloured with can be read, in light and in dark."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dms_spec.colours import CARD, DARK, LIGHT, PALETTE
from dms_spec.conformance.render import _BADGE, _COLOURS

ROOT = Path(__file__).resolve().parents[1]
#: WCAG 2.2, level AA, for text.
READABLE = 4.5
#: The nearest two of the palette, in CIELAB: what the choice of the colours promises.
APART = 17.0
#: Machado, Oliveira and Fernandes (2009), severity 1: without the red, without the green cones.
WITHOUT_RED = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)
WITHOUT_GREEN = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colour: str) -> NDArray[np.float64]:
    """Linear light, red, green and blue."""
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    values = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2: 1 for equal colours, 21 for black on white."""
    low, high = sorted(float(linear(c) @ TO_XYZ[1]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB, for the white of sRGB."""
    xyz = TO_XYZ @ light.clip(0, 1) / (TO_XYZ @ np.ones(3))
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)  # WCAG's own example


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_on_a_report_can_be_read(colours: dict[str, str]) -> None:
    for role, colour in colours.items():
        assert role == "paper" or contrast(colour, colours["paper"]) >= READABLE, role


@pytest.mark.parametrize("colour", PALETTE)
def test_names_beside_the_lines_of_a_chart_can_be_read(colour: str) -> None:
    assert contrast(colour, CARD) >= READABLE


@pytest.mark.parametrize(
    "seen", [np.eye(3), WITHOUT_RED, WITHOUT_GREEN], ids=["all cones", "no red", "no green"]
)
def test_no_two_colours_of_a_chart_look_alike(seen: NDArray[np.float64]) -> None:
    colours = [lab(seen @ linear(colour)) for colour in PALETTE]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]
    assert min(distances) > APART


def test_a_badge_can_be_read() -> None:
    (label,) = re.findall(r'height="20" rx="3" fill="(#\w+)"/>\n<g fill="#fff"', _BADGE)
    for background in (label, *_COLOURS.values()):
        assert contrast("#fff", background) >= READABLE, background


def test_the_picture_of_the_first_page_can_be_read() -> None:
    """Numbers stand on the two colours, and the colours on the page: light, then dark."""
    style = (ROOT / "docs" / "_static" / "pages.css").read_text(encoding="utf-8")
    sets = re.findall(
        r"--picture-image: (#\w+); --picture-text: (#\w+); --picture-inside: (#\w+)", style
    )
    assert len(sets) == 3 and sets[1] == sets[2]
    for (image, text, inside), paper in zip(sets, ("#ffffff", DARK["paper"]), strict=False):
        for colour in (image, text):
            assert contrast(inside, colour) >= READABLE
            assert contrast(colour, paper) >= READABLE
