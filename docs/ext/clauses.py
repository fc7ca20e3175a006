"""Clauses as link targets: each has its id as an anchor, and every mention of one is a link to it.

``{clauses}`` is a directive that lists them all. What they are is read from the machine copy, so
that a mention of a clause that does not exist is a warning, and fails the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from dms_spec.conformance.clauses import clauses, edition

_ID = re.compile(r"DMS-[A-Z]-\d{3}")
#: Where a mention stays as it stands.
_LEFT = (nodes.reference, nodes.literal_block, nodes.title, addnodes.pending_xref)
_log = logging.getLogger(__name__)


def page_of(clause: str) -> str:
    """The page that a clause stands on."""
    return f"spec/{edition()}/{clauses()[clause].page}"


def _anchor(app: Sphinx, document: nodes.document) -> None:
    """Give each clause's paragraph the clause's id, a link to itself and an entry in the index."""
    here = app.env.docname
    for paragraph in list(document.findall(nodes.paragraph)):
        first = next((child for child in paragraph if child.astext()), None)
        if not isinstance(first, nodes.strong) or not _ID.fullmatch(first.astext()):
            continue
        clause = first.astext()
        if clause not in clauses() or page_of(clause) != here:
            _log.warning(
                "no clause %s of this page in the machine copy", clause, location=paragraph
            )
            continue
        paragraph["ids"].append(clause)
        paragraph["classes"].append("clause")
        paragraph.insert(0, addnodes.index(entries=[("single", clause, clause, "", None)]))
        first.replace_self(
            nodes.reference("", "", first.deepcopy(), refid=clause, reftitle="Link to this clause")
        )


class LinkClauses(SphinxPostTransform):
    """Make each mention of a clause, in text or as code, a link to it."""

    default_priority = 5
    formats = ("html",)

    def run(self, **_: Any) -> None:
        for text in list(self.document.findall(nodes.Text)):
            if _ID.search(text) and not any(isinstance(p, _LEFT) for p in _parents(text)):
                text.parent.replace(text, self._linked(text))

    def _linked(self, text: nodes.Text) -> list[nodes.Node]:
        parts: list[nodes.Node] = []
        end = 0
        for mention in _ID.finditer(text):
            parts += [nodes.Text(text[end : mention.start()]), self._link(mention[0], text)]
            end = mention.end()
        return [*parts, nodes.Text(text[end:])]

    def _link(self, clause: str, text: nodes.Text) -> nodes.Node:
        if clause not in clauses():
            _log.warning("there is no clause %s", clause, location=text.parent)
            return nodes.Text(clause)
        here = self.env.docname
        return make_refnode(
            self.app.builder,
            here,
            page_of(clause),
            clause,
            nodes.inline("", clause),
            clauses()[clause].text,
        )


def _parents(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


class ClauseIndex(SphinxDirective):
    """All clauses, by id: the keyword and the text of each."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(_SOURCE)
        lines = ["| clause | keyword | says |", "|---|---|---|"]
        for id_, clause in sorted(clauses().items()):
            text = clause.text.replace("|", "\\|")
            lines.append(f"| {id_} | {clause.keyword} | {text} |")
        return self.parse_text_to_nodes("\n".join(lines))


_SOURCE = str(Path(__file__).resolve().parents[2] / "dms_spec" / "conformance" / "clauses.toml")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", _anchor)
    app.add_post_transform(LinkClauses)
    app.add_directive("clauses", ClauseIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
