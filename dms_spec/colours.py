"""The colours of charts and reports. A text in any of them can be read on its background.

Contrast is at least 4.5 : 1, as WCAG 2.2 asks of text (level AA); tests compute it. Charts bring
their own white background, so that they look the same on a light and on a dark page.
"""

from __future__ import annotations

#: What a chart is drawn on.
CARD = "#ffffff"

# The palette of charts. Chosen by search: any two of them are 17 apart in CIELAB or more, for full
# colour vision and, as Machado et al. (2009) simulate it, without the red or the green cones.
BLACK, BLUE, RED, GREEN = "#000000", "#084db3", "#e3191a", "#068154"
MAGENTA, OLIVE, GREY, VIOLET, TEAL = "#cf1596", "#5f7d21", "#4f595c", "#7039e5", "#167ea4"
PALETTE = (BLACK, BLUE, RED, GREEN, MAGENTA, OLIVE, GREY, VIOLET, TEAL)

#: Colours of a page by their role, for a reader who prefers light, and for one who prefers dark.
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1b1d21",
    "good": "#1b6e2a",
    "bad": "#b3261e",
    "gap": "#8a4b00",
}
DARK = {"paper": "#131416", "ink": "#e6e7ea", "good": "#7fd48a", "bad": "#ff9a92", "gap": "#f0b35a"}
