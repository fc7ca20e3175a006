"""Draws the pictures of pages with matplotlib, as SVG. Equal numbers give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from dms_spec.colours import CARD
from dms_spec.errors import BackendUnavailable, install_hint


@contextmanager
def page_style(what: str, extra: str) -> Iterator[None]:
    """Draws in the style of pages: small type, and a dollar sign in a name is a dollar sign.

    Args:
        what: What needs matplotlib, for the error.
        extra: The distribution with the extra that brings it, such as ``"dms-spec[plot]"``.

    Raises:
        BackendUnavailable: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise BackendUnavailable(
            f"{what} needs matplotlib", got=str(error), fix=install_hint(extra)
        ) from error
    with matplotlib.rc_context({"font.size": 9.5, "text.parse_math": False}):
        yield


def svg(figure: Any) -> bytes:
    """Gives the bytes of a figure: its ids come from the content, and there is no date."""
    from matplotlib import rc_context

    file = BytesIO()
    with rc_context({"svg.hashsalt": "dms-spec"}):
        figure.savefig(file, format="svg", facecolor=CARD, metadata={"Date": None})
    return file.getvalue()
