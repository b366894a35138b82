"""A study as people read it: tables in a terminal, the same as Markdown, a figure."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from decoding.evaluation.bootstrap import Estimate
from decoding.evaluation.files.kept import replace_file
from decoding.evaluation.files.pictures import write_png
from decoding.evaluation.sheets import escaped, flat, markdown_table, pipes, print_sheet, say
from decoding.evaluation.study.page_parts import (
    FIRST,
    NOISE,
    SECOND,
    accounts_sheet,
    by_judge,
    cells_sheet,
    configuration_yaml,
    judge_sheets,
    opening,
    provenance_lines,
    published_line,
    rule_names,
    verdict,
)
from decoding.evaluation.study.results import CellResult, Comparison, Example, Results
from solvers.shown import literal
from tradeoff.fronts.looks import QUIET, look_of, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERDICTS = {NOISE: "#222222", FIRST: "#1f5fa8", SECOND: "#a63d57"}
ROW, PANEL, MARGIN = 0.235, 4.3, 1.0
"""Heights of a row of the forest plot, of the other panel, and of what is around them, inches."""

LONGEST = 46
"""Characters of a name in the figure."""


def print_results(results: Results, screen: Console) -> None:
    """Print every table, leaving out the columns that a narrow terminal has no room for."""
    say(screen, flat(results.title), " ".join(opening(results)))
    for sheet in (cells_sheet(results), *judge_sheets(results), accounts_sheet(results)):
        if sheet.rows:
            print_sheet(sheet, screen)
    if line := published_line(results):
        say(screen, line)
    say(screen, *(f"Made with: {line}" for line in provenance_lines(results)))


def write_markdown(results: Results, path: Path) -> None:
    """Write `markdown` to a file.

    Raises
    ------
    InputError
        It cannot be written.
    """
    replace_file(path, lambda file: file.write(markdown(results).encode()))


def markdown(results: Results) -> str:
    """All tables, what was shown of the texts, and the configuration, as GitHub Markdown."""
    parts = [f"# {escaped(flat(results.title))}", *map(escaped, opening(results))]
    for sheet in (cells_sheet(results), *judge_sheets(results), accounts_sheet(results)):
        if sheet.rows:
            parts += [f"## {escaped(sheet.title)}", markdown_table(sheet), *map(escaped, sheet.notes)]
    if line := published_line(results):
        parts += ["## Published win rates", escaped(line)]
    if results.examples:
        names = rule_names(results)
        parts += ["## Texts side by side", *(_side_by_side(example, names) for example in results.examples)]
    parts += ["## Made with", *map(escaped, provenance_lines(results))]
    parts += ["## Configuration", f"Hash: {escaped(str(results.configuration.get('hash', 'none')))}"]
    parts.append(_fenced(configuration_yaml(results)))
    return "\n\n".join(parts) + "\n"


def _side_by_side(example: Example, names: dict[str, str]) -> str:
    texts = {cell: "".join(token.text for token in tokens) for cell, tokens in example.texts.items()}
    heads = [escaped(names.get(cell, cell)) for cell in texts]
    shown = [escaped(text) or "*no tokens*" for text in texts.values()]
    prompt = f"Prompt at {escaped(example.level)}" if example.level else "Prompt"
    if not texts:
        return f"{prompt}: {escaped(example.prompt)}"
    return f"{prompt}: {escaped(example.prompt)}\n\n" + pipes(heads, ["---"] * len(heads), shown)


def _fenced(text: str) -> str:
    fence = "`" * (1 + max([2, *(len(run) for run in re.findall("`+", text))]))
    return f"{fence}yaml\n{text}{fence}"


def figure(results: Results, path: Path) -> None:
    """Draw what each rule gives away against its rejection, and every win rate with its exact interval, as a PNG.

    Raises
    ------
    InputError
        It cannot be written.
    """
    write_png(draw(results), path)


def draw(results: Results) -> "Figure":
    """Draw the figure: divergence against rejection to the left, win rates to the right."""
    from matplotlib.figure import Figure

    groups = by_judge(results)
    beside, below = _split({judge: len(group) + 1 for judge, group in groups.items()})
    rows, more = (sum(len(groups[judge]) + 1 for judge in judges) for judges in (beside, below))
    height = max(PANEL, MARGIN + ROW * rows, (PANEL + MARGIN + ROW * more) if below else 0)
    drawn = Figure(figsize=(11.5 if groups else 6.0, height), layout="constrained")
    ratios = (PANEL, height - PANEL) if height > 1.3 * PANEL else (1,)
    grid = drawn.add_gridspec(len(ratios), 2 if groups else 1, height_ratios=ratios)
    _divergences(drawn.add_subplot(grid[0, 0]), results)
    for place, judges in ((grid[:, -1], beside), (grid[-1, 0], below)):
        if judges:
            _forest(drawn.add_subplot(place), {judge: groups[judge] for judge in judges}, results)
    if groups:
        _forest_legend(drawn, any(each.published for each in results.comparisons))
    return drawn


def _split(rows: dict[str, int]) -> tuple[list[str], list[str]]:
    """Judges whose win rates stand beside the other panel, and those below it, so that the figure is least high."""
    judges, counts = list(rows), list(rows.values())
    room = (PANEL + MARGIN) / ROW
    heights = [max(sum(counts[:cut]), sum(counts[cut:]) + room * (cut < len(counts))) for cut in range(len(counts) + 1)]
    cut = int(np.argmin(heights))
    return judges[:cut], judges[cut:]


def _divergences(ax: "Axes", results: Results) -> None:
    """KL per generated token against mean rejection; a rule without a knob is one point."""
    finite = [cell for cell in results.cells if _drawable(cell)]
    rules = list(dict.fromkeys(cell.rule for cell in results.cells))
    # room for the legend above the curves
    top = (1.1 + 0.07 * len(rules)) * max((cell.means["kl_per_token"].value for cell in finite), default=0.0) or 1.0
    right = 1.12 * max((cell.means["rejection"].value for cell in finite), default=0.0) or 1.0
    for rule, look in zip(rules, looks_of(rules), strict=True):
        group = sorted((cell for cell in finite if cell.rule == rule), key=lambda cell: cell.means["rejection"].value)
        x, y = ([cell.means[name] for cell in group] for name in ("rejection", "kl_per_token"))
        ax.errorbar(
            [each.value for each in x],
            [each.value for each in y],
            xerr=_bars(x),
            yerr=_bars(y),
            color=look.colour,
            marker=look.marker,
            markersize=5,
            linewidth=1.4,
            elinewidth=0.9,
            label=_plain(look.label) + _undrawn(rule, results.cells),
        )
    ax.set(xlim=(0, right), ylim=(-0.02 * top, top))
    ax.set(xlabel="mean rejection probability (less is faster)", ylabel="mean KL(output, target) per token, nats")
    ax.set_title("What each rule gives away along its own texts", fontsize=10)
    if results.cells:
        ax.legend(frameon=False, fontsize=8, loc="upper right")


def _undrawn(rule: str, cells: Sequence[CellResult]) -> str:
    drawable = [_drawable(cell) for cell in cells if cell.rule == rule]
    return "" if all(drawable) else f" ({drawable.count(False)} of {len(drawable)} not finite)"


def _drawable(cell: CellResult) -> bool:
    return all(math.isfinite(cell.means[name].value) for name in ("rejection", "kl_per_token"))


def _bars(estimates: Sequence[Estimate]) -> np.ndarray:
    """Distances to the ends of intervals: none where they are unknown, beyond the panel where infinite."""
    ends = np.array([[each.value - each.low, each.high - each.value] for each in estimates]).reshape(-1, 2).T
    return np.nan_to_num(ends, nan=0.0, posinf=1e6).clip(0)


def _forest(ax: "Axes", groups: dict[str, list[Comparison]], results: Results) -> None:
    """Win rates in percent, one row to a comparison, under each judge's name; published ones hollow."""
    names = {cell: look_of(rule).label for cell, rule in rule_names(results).items()}
    firsts = {names.get(each.first, each.first) for each in results.comparisons}
    labels: list[str] = []
    bold: list[int] = []
    for judge, group in groups.items():
        bold.append(len(labels))
        labels.append(_plain(judge))
        for each in group:
            first, second = (names.get(cell, cell) for cell in (each.first, each.second))
            _comparison(ax, each, len(labels))
            labels.append(_plain(f"{each.level}, {second if len(firsts) == 1 else f'{first} vs {second}'}"))
    ax.axvline(50, color=QUIET, linewidth=0.9, zorder=0)
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    for place in bold:
        ax.get_yticklabels()[place].set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    reach = 1.08 * max(10.0, *(abs(end - 50) for each in results.comparisons for end in _ends(each)))
    ax.set(xlim=(50 - reach, 50 + reach), ylim=(len(labels) - 0.3, -0.8), xlabel="prompts won, %; exact 95 % intervals")
    whose = _plain(firsts.pop()) if len(firsts) == 1 else "the first rule"
    ax.set_title(f"How often {whose} wins", fontsize=10)


def _ends(comparison: Comparison) -> list[float]:
    """Finite ends, in percent, of what is drawn of a comparison."""
    found = [each for each in (comparison.found, comparison.published and comparison.published.found) if each]
    ends = [100 * end for each in found for end in (each.majority.value, each.majority.low, each.majority.high)]
    return [end for end in ends if math.isfinite(end)] or [50.0]


def _comparison(ax: "Axes", comparison: Comparison, at: float) -> None:
    look: dict[str, Any] = {"linestyle": "none", "color": QUIET}
    if comparison.published:
        theirs = comparison.published.found.majority
        look |= {"marker": "o", "markerfacecolor": "white", "markersize": 4, "elinewidth": 0.7}
        ax.errorbar([100 * theirs.value], [at + 0.3], xerr=100 * _bars([theirs]), **look)
    if comparison.found:
        ours = comparison.found.majority
        look = {"linestyle": "none", "color": VERDICTS[verdict(comparison)]}
        look |= {"marker": "s", "markersize": 5, "elinewidth": 1.3}
        ax.errorbar([100 * ours.value], [at], xerr=100 * _bars([ours]), **look)
    else:
        why = verdict(comparison).partition(":")[0]
        ax.text(50, at, f" {why}", fontsize=8, color=QUIET, va="center", style="italic")


def _forest_legend(drawn: "Figure", published: bool) -> None:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"markersize": 5, "linewidth": 1.1}
    handles = {name: Line2D([], [], marker="s", color=colour, **look) for name, colour in VERDICTS.items()}
    if published:
        handles["published"] = Line2D([], [], marker="o", color=QUIET, markerfacecolor="white", **look)
    drawn.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, ncols=4, loc="outside lower right")


def _plain(text: str) -> str:
    """Text that leaves room for the figure."""
    return literal(text, LONGEST)
