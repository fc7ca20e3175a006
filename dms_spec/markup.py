"""Writes tables and pages as text: for a terminal, as Markdown, as HTML."""

from __future__ import annotations

import base64
import html
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dms_spec.colours import DARK, LIGHT

#: What every page says of its origin.
GENERATOR = '<meta name="generator" content="dms-spec">'


# A name, a path or a message of this length can be read; a line of a table is narrower.
_LONGEST, _LONGEST_CELL = 1_000, 300

# What is narrower than this is not worth breaking lines for.
_NARROWEST = 20

# Joins letters in some scripts, and is not printable by itself.
_JOINERS = "\u200c\u200d"


def shown(text: object, most: int = _LONGEST) -> str:
    """Gives a text from outside as one line that can be printed anywhere.

    Control characters, line ends and the marks that turn the direction of writing are escaped, as
    Python writes them in a string. What is too long is cut, with its length.
    """
    line = str(text)
    if len(line) > most:
        line = f"{line[:most]}... ({len(line)} characters)"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c in _JOINERS else _escaped(c) for c in line)


def shown_lines(text: object, most: int = 1_000_000) -> str:
    """Does the same for each line of a text of several lines."""
    return "\n".join(shown(line, most) for line in str(text).split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def plain_markdown(text: object) -> str:
    """Writes a text from outside so that Markdown shows it as it is."""
    return shown_lines(text).replace("|", "\\|").replace("<", "&lt;")


def escape(text: object) -> str:
    """Writes a text from outside so that HTML and SVG show it as it is."""
    return html.escape(shown_lines(text))


def gigabytes(size: int) -> str:
    """Writes a number of bytes: ``0.8 GB``."""
    return f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def percent(share: float | None) -> str:
    """Writes a share in percent with one digit, or a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def counted(count: int, noun: str) -> str:
    """Such as "1 row" and "2 rows"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[int] = (),
    width: int | None = None,
) -> str:
    """Pads columns of text, and aligns those whose index is in ``right`` to the right.

    Args:
        header: The headings of the columns.
        rows: Their cells.
        right: Indices of columns.
        width: The most characters in a line. Columns that do not fit stand below the others,
            beside the first column again. None: all columns stand side by side.
    """
    lines = [[shown(cell, _LONGEST_CELL) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def drawn(columns: Sequence[int]) -> str:
        cells = (
            [line[i].rjust(widths[i]) if i in right else line[i].ljust(widths[i]) for i in columns]
            for row in lines
            for line in _folded(row, columns, 0 if width is None else width - widths[0] - 2)
        )
        return "\n".join("  ".join(line).rstrip() for line in cells)

    return "\n\n".join(map(drawn, _side_by_side(widths, width)))


def _folded(row: list[str], columns: Sequence[int], most: int) -> Iterator[list[str]]:
    """Breaks words into several lines where they are alone beside the first column."""
    last = columns[-1]
    if len(columns) != 2 or len(row[last]) <= most or most < _NARROWEST:
        yield row
        return
    for number, part in enumerate(textwrap.wrap(row[last], most, break_long_words=False)):
        yield [part if i == last else "" if number else cell for i, cell in enumerate(row)]


def _side_by_side(widths: Sequence[int], most: int | None) -> list[list[int]]:
    """Groups columns so that each group fits in a line. The first column is in all of them."""
    groups, used = [[0]], widths[0]
    for i, wide in enumerate(widths[1:], start=1):
        used += 2 + wide
        if most is not None and used > most and len(groups[-1]) > 1:
            groups.append([0])
            used = widths[0] + 2 + wide
        groups[-1].append(i)
    return groups


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Writes a table in Markdown."""
    lines = [
        "| " + " | ".join(plain_markdown(shown(cell, _LONGEST_CELL)) for cell in line) + " |"
        for line in (header, ["---"] * len(header), *rows)
    ]
    return "\n".join(lines)


def html_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    kind: Callable[[str], str] | None = None,
    hint: Callable[[str], str] | None = None,
) -> str:
    """Writes a table in HTML. The first cell of a row is its heading.

    Args:
        header: The headings of the columns.
        rows: Their cells.
        kind: The CSS class of a cell, from its text.
        hint: What a row's heading says when it is pointed at, from its text.
    """
    heads = (f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = [f"{_WIDE}<table><thead><tr>", *heads]
    lines.append("</tr></thead><tbody>")
    for first, *rest in rows:
        title = f' title="{escape(hint(first))}"' if hint and hint(first) else ""
        cells = "".join(
            f'<td class="{kind(cell)}">{escape(cell)}</td>' if kind else f"<td>{escape(cell)}</td>"
            for cell in rest
        )
        lines.append(f'<tr><th scope="row"{title}>{escape(first)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def html_list(items: Iterable[str]) -> str:
    """Writes a list in HTML."""
    return "\n".join(["<ul>", *(f"<li>{escape(item)}</li>" for item in items), "</ul>"])


def html_picture(svg: bytes, text: str) -> str:
    """A picture in HTML, at its own size: where the screen is narrower, it scrolls.

    Args:
        svg: The picture, on a background of its own.
        text: What stands for it where it cannot be seen.
    """
    data = base64.b64encode(svg).decode()
    return f'{_WIDE}<img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}"></div>'


def html_page(title: str, body: str, style: str = "") -> str:
    """Writes one HTML page that needs nothing outside it, light or dark as the reader's machine is.

    Args:
        title: Plain text.
        body: HTML.
        style: CSS of the page's own.
    """
    return _PAGE.format(
        title=escape(title),
        generator=GENERATOR,
        body=body,
        style=style,
        light=_properties(LIGHT),
        dark=_properties(DARK),
    )


def _properties(colours: Mapping[str, str]) -> str:
    """Colours as CSS custom properties, which a page's own style may use."""
    return " ".join(f"--{role}: {colour};" for role, colour in colours.items())


# Scrolls sideways by itself, from the keyboard too.
_WIDE = '<div class="wide" tabindex="0">'

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{generator}
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; }}
body {{ padding: 0 1rem; background: var(--paper); color: var(--ink); }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #8884; padding: .2rem .7rem; text-align: right; }}
th:first-child {{ text-align: left; white-space: nowrap; }}
img {{ border-radius: .5rem; }}
{style}
</style>
{body}
</html>
"""
