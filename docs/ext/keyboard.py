"""Code and tables that are wider than the screen scroll from the keyboard too."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def _reach(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        context["body"] = context["body"].replace("<pre>", '<pre tabindex="0">')


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", _reach)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
