"""Check the built pages: ``python docs/check_pages.py docs/_build/html``.

Nothing on a page may come from an address outside, every image needs a text in its place, every
link between the pages has to arrive, and every clause must be an anchor on its page.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Elements that load what they name, and the attribute that names it.
LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
    "embed": "src",
    "use": "href",
}
_OUTSIDE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_IN_STYLE = re.compile(
    r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)", re.IGNORECASE
)
#: Pages that another target builds: `make try`.
_ELSEWHERE = "try/"
_LISTING = "_modules"


class Page(HTMLParser):
    """What one page loads, where it links to, its anchors, and what its images lack."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.silent: list[str] = []
        self.feed(text)
        self.outside += _IN_STYLE.findall(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (id_ := given.get("id")) is not None:
            self.anchors.add(id_)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        loaded = given.get(LOADS.get(tag, ""), "") or ""
        if _OUTSIDE.match(loaded):
            self.outside.append(loaded)
        if tag == "img" and not given.get("alt"):
            self.silent.append(f"img {given.get('src')}")
        if given.get("role") == "img" and not {"aria-label", "aria-labelledby"} & set(given):
            self.silent.append(f"{tag} with the role of an image")


def problems(folder: Path) -> list[str]:
    """Everything that is wrong with the pages in a folder, a line each; empty if nothing."""
    pages = {
        path.resolve(): Page(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
        if not path.relative_to(folder).as_posix().startswith(_ELSEWHERE)
    }
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve()).as_posix()
        found += [f"{name}: loads {address}" for address in page.outside]
        found += [f"{name}: no text stands for {image}" for image in page.silent]
        found += [
            f"{name}: {link} leads nowhere" for link in page.links if _lost(link, path, pages)
        ]
    for style in sorted(folder.rglob("*.css")):
        text = style.read_text(encoding="utf-8")
        found += [f"{style.name}: loads {address}" for address in _IN_STYLE.findall(text)]
    return found


def _lost(link: str, path: Path, pages: dict[Path, Page]) -> bool:
    """Whether a link within the pages leads to no file, or to no anchor of its page."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if _ELSEWHERE in parts.path:
        return False
    # The listings of code lead back by the name that a thing has at home, not at the front door.
    if target not in pages or _LISTING in path.parts:
        return not target.is_file()
    return bool(parts.fragment) and unquote(parts.fragment) not in pages[target].anchors


def missing_clauses(folder: Path) -> list[str]:
    """The clauses that are no anchor on their page, a line each."""
    from dms_spec.conformance.clauses import clauses, edition

    found = []
    for id_, clause in clauses().items():
        page = folder / "spec" / edition() / f"{clause.page}.html"
        if not page.is_file() or id_ not in Page(page.read_text(encoding="utf-8")).anchors:
            found.append(f"{page.name}: no anchor {id_}")
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1])) + missing_clauses(Path(sys.argv[1]))
    print("\n".join(wrong) or "the pages load nothing from outside, and every link arrives")
    sys.exit(bool(wrong))
