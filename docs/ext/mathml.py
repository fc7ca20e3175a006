"""Formulas as MathML, written when the pages are built: no script, no font, no address outside.

An equation's tag, such as ``\\tag{E5}``, becomes its number at the right and its anchor: ``#E5``.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging

_TAG = re.compile(r"\\tag\{(?P<name>[^}]*)\}")
_CONVERTER = LatexToMathML(fancy_error=False)
_log = logging.getLogger(__name__)


def _mathml(node: nodes.Element, latex: str, *, block: bool) -> str:
    """The formula as one ``<math>`` element; what is no LaTeX is a warning, and stays as it is."""
    try:
        converted = _CONVERTER.convert_with_local_state(latex, displaystyle=block)
    except LatexError as error:
        _log.warning("formula %r: %s", latex, error, location=node)
        return f"<code>{escape(latex)}</code>"
    # A wide one scrolls, from the keyboard too.
    return converted.replace("<math", '<math tabindex="0"', 1) if block else converted


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_mathml(node, node.astext(), block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    latex = node.astext()
    tag = _TAG.search(latex)
    formula = _mathml(node, _TAG.sub("", latex), block=True)
    if tag is None:
        writer.body.append(f'<div class="formula">{formula}</div>\n')
    else:
        name = escape(tag["name"])
        writer.body.append(
            f'<div class="formula" id="{name}">{formula}'
            f'<a class="tag" href="#{name}" title="Link to this equation">({name})</a></div>\n'
        )
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
