"""One HTML page with everything in it: no file beside it, no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from report.tables import Table

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; color: #1f2430; margin: 2rem auto; max-width: 90rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #e5e7eb; padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
.scroll { overflow-x: auto; }
img { max-width: 100%; }
.met { color: #15803d; } .MISSED { color: #b91c1c; }
p { max-width: 70rem; }
"""


def page(title: str, remarks: Sequence[str], pictures: Sequence[Path], tables: Sequence[Table]) -> str:
    """The whole document."""
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(text)}</p>" for text in remarks)]
    body += [_picture(path) for path in pictures]
    body += [_table(table) for table in tables]
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(body) + "\n</html>\n"
    )


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{data}">'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    body = f'<div class="scroll"><table><tr>{head}</tr>\n{rows}</table></div>'
    return f"<h2>{escape(table.title)}</h2>\n{body}{notes}"


def _cell(text: str) -> str:
    """A cell; verdicts have a colour."""
    verdict = f' class="{text}"' if text in ("met", "MISSED") else ""
    return f"<td{verdict}>{escape(text)}</td>"
