"""A study as a page: one HTML file that needs no network, with every shown token coloured by what it cost."""

import io
import math
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from decoding.evaluation.files.pages import write_html
from decoding.evaluation.sheets import WORDS, flat
from decoding.evaluation.study.page_parts import (
    FIRST,
    REFUSED,
    SECOND,
    accounts_sheet,
    cells_sheet,
    configuration_yaml,
    judge_sheets,
    opening,
    provenance_lines,
    published_line,
    rule_names,
)
from decoding.evaluation.study.report import draw
from decoding.evaluation.study.results import Results

STEPS = (0.02, 0.1, 0.3, 0.6, 1.0, 2.0)
"""Costs, in nats, from which a colour deepens."""

FATES = {"accepted": "", "replaced": " r", "bonus": " b"}
KEYS = (-2.0, -0.6, -0.1, 0.0, 0.1, 0.6, 2.0)
"""Costs whose colours the legend shows."""


def write_page(results: Results, path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    results
        What to show.
    path
        The HTML file.

    Raises
    ------
    InputError
        It cannot be written.
    """
    commits = [str(each["commit"]).removesuffix("-dirty") for each in results.provenance if each.get("commit")]
    forced = " --force" if results.calibration["forced"] else ""
    values = {
        "title": flat(results.title),
        "opening": opening(results),
        "figure": _svg(results),
        "rules": cells_sheet(results),
        "published": published_line(results),
        "judges": [sheet for sheet in (*judge_sheets(results), accounts_sheet(results)) if sheet.rows],
        "levels": {each.level: "no level" if each.level is None else each.level for each in results.examples},
        "prompts": _numbered(each.prompt for each in results.examples),
        "provenance": provenance_lines(results),
        "commands": [f"git checkout {commit}" for commit in commits[:1]] + [f"tradeoff evaluate study.yaml{forced}"],
        "configuration": configuration_yaml(results),
        "results": results,
        "names": rule_names(results),
        "words": WORDS,
        "fates": FATES,
        "keys": KEYS,
        "nats": _nats,
        "depth": _depth,
        "verdict_class": _verdict_class,
    }
    write_html("study.html", values, path)


def _svg(results: Results) -> str:
    """The figure as an element of the page, its text as text."""
    import matplotlib as mpl

    file = io.StringIO()
    blank = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "study"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)  # the browser has other fonts
        draw(results).savefig(file, format="svg", metadata=blank)
    drawn = file.getvalue()
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"', "", drawn[drawn.index("<svg") :])  # HTML knows them
    label = "Divergence against rejection of every rule, and win rates with their intervals"
    return drawn.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _numbered(prompts: Iterable[str]) -> dict[str, str]:
    """Entries of a menu by prompt: its number and how it starts."""
    found = {}
    for place, prompt in enumerate(dict.fromkeys(prompts), start=1):
        words = " ".join(prompt.split())
        found[prompt] = f"{place}: {words if len(words) <= 70 else words[:69] + '…'}"
    return found


def _verdict_class(said: str) -> str:
    return {FIRST: "yes", SECOND: "no"}.get(said, "why" if said.startswith(REFUSED) else "")


def _nats(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:+.3f} nats"


def _depth(cost: float) -> str:
    """Class of a cost's colour: none near zero, nor for a cost that is not known."""
    depth = 0 if math.isnan(cost) else sum(abs(cost) >= step for step in STEPS)
    return f" {'p' if cost > 0 else 'm'}{depth}" if depth else ""
