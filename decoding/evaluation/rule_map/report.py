"""The map as people read it: ranked tables and a figure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from rich.console import Console
from scipy.optimize import isotonic_regression

from decoding.evaluation.files.pictures import write_png
from decoding.evaluation.rule_map.front import MapFront
from decoding.evaluation.rule_map.mapper import RANKED
from decoding.evaluation.rule_map.options import MapSettings, Row
from decoding.evaluation.sheets import Sheet, print_sheet, say
from solvers.divergences import DIVERGENCES as MEASURES
from solvers.shown import literal
from tradeoff.fronts.looks import FRONT, QUIET, SHADE, TITLES, Look, look_of, looks_of

LONGEST = 120
"""Characters of the figure's title."""

STEPS = 5e-5
"""A rejection missed by more was jumped over: the rule moves in steps."""

NAMED_AT = 0.75
"""Share of the lossless rejection at which curves are named: further left they are too near each other."""


def curve_rows(rows: Iterable[Row], specs: Sequence[str]) -> list[Row]:
    """Rows of the chosen curves, in their order."""
    found = {row["rule"]: row for row in rows if row["kind"] == "curve"}
    return [found[spec] for spec in specs]


def fronts_of(rows: Iterable[Row]) -> dict[str, MapFront]:
    """Fronts by the name of the divergence."""
    return {row["divergence"]: MapFront.from_dict(row) for row in rows if row["kind"] == "front"}


def points_along(row: Row) -> list[Row]:
    """Points of a curve from the strict end of its knob, the published default in its place."""
    if row["knob"] is None:
        return row["points"]
    ends = [point["value"] for point in row["points"] if not point["published"]]
    return sorted(row["points"], key=lambda point: point["value"], reverse=ends[0] > ends[-1])


def line(row: Row, divergence: str) -> tuple[np.ndarray, np.ndarray]:
    """Rejections and means of a divergence along a curve; some may be infinite."""
    points = points_along(row)
    return (
        np.array([float(point["rejection"]) for point in points]),
        np.array([float(point["divergences"][divergence]) for point in points]),
    )


def multiples(row: Row, divergence: str) -> tuple[np.ndarray, np.ndarray]:
    """Rejections and divergences as multiples of the least there, where the least is a positive number."""
    found = [(float(point["rejection"]), point["over_front"][divergence]) for point in points_along(row)]
    kept = np.array([(x, float(y)) for x, y in found if y is not None]).reshape(-1, 2)
    return kept[:, 0], kept[:, 1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The rules at one rejection.

    Parameters
    ----------
    requested
        The rejection asked for.
    ranked
        (rank, row) of rules that reach it, the best first; rules of equal KL share a rank.
    others
        Rows of rules that do not.
    """

    requested: float
    ranked: list[tuple[int, Row]]
    others: list[Row]


def rank(rows: Iterable[Row], specs: Sequence[str], rate: float) -> Ranking:
    """Rank rules by their KL over the least KL at the rejection each reached: a rule in steps may miss the rate."""
    found = {row["rule"]: row for row in rows if row["kind"] == "rate" and row["requested"] == rate}
    reached = sorted((found[spec] for spec in specs if found[spec]["reached"] is not None), key=_score)
    ranked: list[tuple[int, Row]] = []
    for place, row in enumerate(reached, start=1):
        same = bool(ranked) and math.isclose(_score(row)[0], _score(ranked[-1][1])[0], rel_tol=1e-6)
        ranked.append((ranked[-1][0] if same else place, row))
    return Ranking(
        requested=rate, ranked=ranked, others=[found[spec] for spec in specs if found[spec]["reached"] is None]
    )


def _score(row: Row) -> tuple[float, float]:
    best = row["over_best"]
    return math.inf if best is None else float(best["value"]), float(row["divergences"][RANKED])


def print_rankings(rankings: Sequence[Ranking], settings: MapSettings, smallest: float, screen: Console) -> None:
    """Print one table to a rejection, leaving out what a narrow terminal has no room for."""
    for ranking in rankings:
        print_sheet(_sheet(ranking, settings), screen)
    say(
        screen,
        "Exact means over the positions, which follow texts the target wrote at temperature 1. KL / least: over the "
        "common-price front at the rejection that was reached; [ ]: 95 % bootstrap interval over prompts; ±: standard "
        "error, clustered by prompt. ~: the rule moves in steps, and this is the nearest.",
        f"No rule is below the front: the smallest excess over its tangents, any divergence, is {smallest:.0e}."
        if smallest >= -1e-9
        else f"BELOW THE FRONT by {-smallest:.1e}: this is a bug; please report it with the rows.",
    )


def _sheet(ranking: Ranking, settings: MapSettings) -> Sheet:
    rows = [row for _, row in ranking.ranked]
    blank = [""] * len(ranking.others)
    columns = {
        "": [str(place) for place, _ in ranking.ranked] + blank,
        "rule": [look_of(row["rule"]).label for row in [*rows, *ranking.others]],
        "knob": [f"{row['knob']} {row['value']:.4g}" for row in rows] + blank,
        "rejection": [_reached(row) for row in rows] + [_range(row) for row in ranking.others],
        "KL, nats": [_number(row, RANKED, spread=True) for row in rows] + blank,
        "KL / least": [_interval(row["over_best"]) for row in rows] + blank,
        "TV": [_number(row, "tv") for row in rows] + blank,
        "reverse KL": [_number(row, "reverse_kl") for row in rows] + blank,
    }
    return Sheet(
        title=f"{settings.source}, {settings.positions} positions: mean rejection {ranking.requested:g}",
        columns=tuple(columns),
        rows=tuple(zip(*columns.values(), strict=True)),
        sections=frozenset({len(rows) - 1}) if rows and blank else frozenset(),
        spare=("reverse KL", "TV", "knob"),
    )


def _reached(row: Row) -> str:
    about = "~ " if abs(row["reached"] - row["requested"]) > STEPS else ""
    return f"{about}{row['reached']:.4f}"


def _range(row: Row) -> str:
    low, high = row["range"]
    return f"only {low:.3f}" if row["knob"] is None else f"{low:.3f} to {high:.3f}"


def _number(row: Row, name: str, *, spread: bool = False) -> str:
    value, error = float(row["divergences"][name]), row["errors"][name]
    return f"{value:.4f}" + (f" ±{error:.4f}" if spread and error is not None else "")


def _interval(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    value, low, high = (float(estimate[name]) for name in ("value", "low", "high"))
    return f"{value:.3f} [{low:.2f}, {high:.2f}]"


def figure(rows: Sequence[Row], specs: Sequence[str], settings: MapSettings, path: Path) -> None:
    """Draw KL and TV against rejection, and KL as a multiple of the least: one curve per rule, the front below."""
    fronts, curves = fronts_of(rows), curve_rows(rows, specs)
    drawn, panels = plt.subplots(1, 3, figsize=(16.0, 6.6), layout="constrained", width_ratios=(1.15, 0.8, 1))
    for ax, name in zip(panels, (RANKED, "tv"), strict=False):
        _panel(ax, curves, fronts[name])
    _multiples_panel(panels[2], curves, fronts[RANKED])
    handles = [Line2D([], [], color=FRONT, linewidth=2.4)]
    names = ["front: the least of any rule, at one common price"]
    shown = list(looks_by_rule(curves).values())[::-1]  # of a family the first
    for look in reversed({look.legend: look for look in shown}.values()):
        handles.append(Line2D([], [], color=look.colour, marker=look.marker, markersize=3.5, linewidth=1.4))
        names.append(literal(look.legend))
    if any(point["published"] for row in curves for point in row["points"]):
        handles.append(Line2D([], [], color=QUIET, marker="*", markersize=10, linestyle="none"))
        names.append("a rule's published default")
    drawn.legend(handles, names, frameon=False, fontsize=9, loc="outside lower center", ncols=5)
    greedy = ", greedy draft" if settings.greedy_draft else ""
    title = f"{settings.source}: {settings.positions} positions, temperature {settings.temperature:g}{greedy}"
    drawn.suptitle(literal(title, LONGEST), fontsize=11)
    write_png(drawn, path)
    plt.close(drawn)


def looks_by_rule(curves: Sequence[Row]) -> dict[str, Look]:
    """Looks by spec, the families together."""
    specs = [row["rule"] for row in curves]
    found = dict(zip(specs, looks_of(specs), strict=True))
    return dict(sorted(found.items(), key=lambda item: TITLES.index(item[1].family)))


def _panel(ax: Axes, curves: Sequence[Row], front: MapFront) -> None:
    right, top = limits(front, curves)
    looks = looks_by_rule(curves)
    for row in curves:
        _curve(ax, looks[row["rule"]], row, *line(row, front.divergence))
    ax.plot(front.rejection, front.least, color=FRONT, linewidth=2.4, zorder=3)
    ax.fill_between(front.rejection, front.least, color=SHADE, linewidth=0, zorder=0)
    ax.axvspan(0, front.rejection[0], color=SHADE, linewidth=0, zorder=0)  # infinite there, where drafts leak
    ax.set(xlim=(0, right), ylim=(0, top), ylabel=f"mean {MEASURES[front.divergence].label}")
    ax.set_xlabel("mean rejection probability (less is faster)")
    ax.text(0.03, 0.03, "no rule gets here", transform=ax.transAxes, fontsize=8, color=QUIET)


def _multiples_panel(ax: Axes, curves: Sequence[Row], front: MapFront) -> None:
    """KL over the least KL at the same rejection, with the curves' names at the right edge."""
    right = NAMED_AT * float(front.rejection[-1])
    heights: dict[str, float] = {}
    top, looks = 2.0, looks_by_rule(curves)
    for row in curves:
        x, y = multiples(row, front.divergence)
        _curve(ax, looks[row["rule"]], row, x, y)
        order = np.argsort(x)
        finite = y[(x <= right) & np.isfinite(y)]
        top = max(top, *finite, 1.0)
        if len(x) > 1 and x.min() <= right <= x.max() and np.isfinite(y).all():
            heights[row["rule"]] = float(np.exp(np.interp(right, x[order], np.log(y[order]))))
    top = 1.1 * max(top, *heights.values(), 1.0)
    ax.set(xlim=(0, right), ylim=(0.94, top), yscale="log")
    ax.axhspan(0.94, 1, color=SHADE, linewidth=0, zorder=0)
    ax.axhline(1, color=FRONT, linewidth=2.4, zorder=3)
    ticks = [tick for tick in (1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 100) if tick <= top]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set(
        xlabel="mean rejection probability (less is faster)", ylabel="KL as a multiple of the least at that rejection"
    )
    named = sorted(heights, key=lambda spec: heights[spec])
    ends = [math.log(heights[spec] / 0.94) / math.log(top / 0.94) for spec in named]
    for spec, end, place in zip(named, ends, _apart(ends, 0.0285), strict=True):
        colour = looks[spec].colour
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        ax.annotate(
            literal(looks[spec].label),
            (1.0, end),
            xytext=(1.06, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=colour,
            arrowprops=leader,
            annotation_clip=False,
        )


def _curve(ax: Axes, look: Look, row: Row, x: np.ndarray, y: np.ndarray) -> None:
    y = np.where(np.isfinite(y), y, np.nan)
    ax.plot(x, y, color=look.colour, linewidth=1.1, alpha=0.85, marker=look.marker, markersize=2.8, zorder=2)
    published = np.array([point["published"] for point in points_along(row)])
    if published.any() and len(published) == len(x):
        star: dict[str, Any] = {"marker": "*", "markersize": 11, "markeredgecolor": "white", "linestyle": "none"}
        ax.plot(x[published], y[published], color=look.colour, zorder=4, **star)


def limits(front: MapFront, curves: Sequence[Row]) -> tuple[float, float]:
    """Right and upper end of a panel: somewhat beyond lossless sampling, and the draft itself or the worst curve."""
    lossless = float(front.rejection[-1])
    right = min(1.02, 1.45 * lossless)
    heights = [value for row in curves for x, value in zip(*line(row, front.divergence), strict=True) if x <= right]
    finite = [value for value in heights if math.isfinite(value)]
    base = float(front.least[0])
    return right, 1.06 * min(max(finite, default=base), 1.6 * base) or 1.0


def _apart(heights: Sequence[float], gap: float) -> np.ndarray:
    """Places at least a gap above each other and as near the ascending heights as that allows (least squares)."""
    steps = gap * np.arange(len(heights))
    return isotonic_regression(np.asarray(heights) - steps).x + steps if len(heights) else steps


def smallest_excess(rows: Iterable[Row]) -> float:
    """Least height of any measured point above the fronts' tangents; relative where a divergence exceeds 1."""
    points: list[Any] = []
    for row in rows:
        points += row.get("points", [])
        points += [row] if row["kind"] == "rate" and row["reached"] is not None else []
    return min((float(each) for point in points for each in point["excess"].values()), default=0.0)
