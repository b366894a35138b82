"""Tables of words and numbers as reports show them: in a terminal that may be narrow, and as Markdown."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from solvers.shown import visible

WORDS = frozenset({"rule", "level", "knob", "judge", "asked of", "first\nvs second", "verdict"})
"""Columns of words: to the left."""

FOLDED = {"verdict": 26}
"""Width beyond which a terminal folds a column: reasons of refusals are long."""

ROOMY = Console(width=10_000)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table before it is drawn.

    Parameters
    ----------
    title
        What it is.
    columns, rows
        Names and cells; a newline is where a narrow table breaks a cell.
    sections
        Indices of the last row of each group.
    spare
        Columns that a narrow terminal can do without, the most dispensable first.
    notes
        Sentences that belong below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sections: frozenset[int] = frozenset()
    spare: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def flat(text: str) -> str:
    """A cell or column name on one line."""
    return text.replace("\n", " ")


def sections(groups: Sequence[object]) -> frozenset[int]:
    """Indices of the last row of each group but the last, from the group of every row."""
    return frozenset(place for place, pair in enumerate(zip(groups, groups[1:], strict=False)) if pair[0] != pair[1])


def say(screen: Console, *lines: str) -> None:
    """Print lines as they are: no markup, and what names hold steers no terminal."""
    for line in lines:
        screen.print(visible(line), highlight=False, markup=False, emoji=False)


def print_sheet(sheet: Sheet, screen: Console) -> None:
    """Print a table and its notes, leaving out the columns that a narrow terminal has no room for."""
    left_out: list[str] = []
    for name in sheet.spare:
        if ROOMY.measure(_drawn(sheet, left_out)).maximum <= screen.width:
            break
        left_out.append(name)
    drawn = _drawn(sheet, left_out)
    # at its own width a terminal that is narrower still folds the lines; squeezed, the table would lose digits
    Console(file=screen.file, width=max(screen.width, ROOMY.measure(drawn).maximum)).print(drawn)
    say(screen, *sheet.notes)
    if left_out:
        say(screen, f"Left out of this narrow terminal: {', '.join(map(flat, left_out))}.")
    say(screen, "")


def _drawn(sheet: Sheet, left_out: Sequence[str]) -> Table:
    drawn = Table(title=Text(visible(sheet.title)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    kept = [place for place, name in enumerate(sheet.columns) if name not in left_out]
    for name in (sheet.columns[place] for place in kept):
        most = FOLDED.get(name)
        justify = "left" if name in WORDS else "right"
        drawn.add_column(Text(visible(name)), justify=justify, no_wrap=most is None, max_width=most)
    for index, row in enumerate(sheet.rows):
        drawn.add_row(*(Text(visible(row[place])) for place in kept), end_section=index in sheet.sections)
    return drawn


def markdown_table(sheet: Sheet) -> str:
    """Every column and row as a GitHub table."""
    rules = ["---" if name in WORDS else "---:" for name in sheet.columns]
    head, *rows = ([escaped(flat(cell)) for cell in row] for row in (sheet.columns, *sheet.rows))
    return pipes(head, rules, *rows)


def pipes(*rows: Sequence[str]) -> str:
    """Rows of a GitHub table from cells that are escaped already."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    marked = re.sub(r"([\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", html.escape(visible(text), False))
    return marked.replace("\n", "<br>").replace("\t", " ")
