"""Pieces of the HTML page: text, tables, folded sections, images. The page needs no JavaScript and no other file."""

import base64
import html
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 1rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.7rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc } h3 { margin-top: 1.5rem }
nav a { margin-right: .8rem } li { margin: .3rem 0; overflow-wrap: anywhere }
summary { cursor: pointer; margin: .4rem 0; overflow-wrap: anywhere } details > :not(summary) { margin-left: 1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: .6rem 0; font-size: .85rem }
td, th { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
td { overflow-wrap: break-word; min-width: 3rem }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
img { max-width: 100%; height: auto } pre { white-space: pre-wrap; overflow-wrap: anywhere }
.note { color: #555 } .better { color: #060 } .worse { color: #a00 }
"""


def document(title: str, sections: Mapping[str, str]) -> str:
    """Return the whole page, from the HTML of each section by its title."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style>"
    )
    links = "".join(f'<a href="#{_anchor(each)}">{text(each)}</a>' for each in sections)
    body = "".join(f'<h2 id="{_anchor(each)}">{text(each)}</h2>\n{content}' for each, content in sections.items())
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><h1>{text(title)}</h1><nav>{links}</nav>{body}</body></html>\n"
    )


def folded(summary: str, *pieces: str, is_open: bool = False) -> str:
    """Return pieces that a reader unfolds. `summary` is HTML."""
    return f"<details{' open' if is_open else ''}><summary>{summary}</summary>{''.join(pieces)}</details>\n"


def items(sentences: Iterable[str], tag: str = "ul") -> str:
    """Return a list of HTML items."""
    return f"<{tag}>{''.join(f'<li>{each}</li>' for each in sentences)}</{tag}>"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table, which scrolls sideways on a narrow screen."""
    heads = "".join(f"<th>{text(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(_cell(each) for each in row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><tr>{heads}</tr>{body}</table></div>'


def image(figure: Figure, description: str) -> str:
    """Return a figure as an image inside of the page, with a description for those who cannot see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    source = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{text(description)}" src="data:image/png;base64,{source}"></p>\n'


def text(value: Any) -> str:
    """Return a value as HTML text."""
    return html.escape(str(value))


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, float | np.floating):
        return f'<td class="n">{value:.3f}</td>'
    if isinstance(value, int | np.integer):
        return f'<td class="n">{value:,}</td>'
    return f"<td>{text(value)}</td>"


def _anchor(title: str) -> str:
    return text(title.lower().replace(" ", "-"))
