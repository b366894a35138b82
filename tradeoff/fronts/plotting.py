"""Figures of fronts and of rules beside them; the only room of this floor that draws."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from solvers.arrays import ROUNDING, Array, to_numpy
from solvers.divergences import Divergence
from solvers.errors import InputError
from solvers.shown import literal
from tradeoff.fronts.looks import FRONT, QUIET, SHADE, looks_of
from tradeoff.fronts.point import ParetoPoint
from tradeoff.problem import Problem
from tradeoff.rule import AnyRule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rules: TypeAlias = Mapping[str, AnyRule | str] | Iterable[str]
"""Rules or specs by name, or specs that name themselves."""


class Drawable(Protocol):
    """What a figure needs of a front: its grid, where it ends, and where a rule is."""

    @property
    def problem(self) -> Problem:
        """The laws."""
        ...

    @property
    def measure(self) -> Divergence:
        """The divergence."""
        ...

    @property
    def solver(self) -> str:
        """What solved it."""
        ...

    @property
    def weights(self) -> Array | None:
        """Of the positions, if they share a budget."""
        ...

    @property
    def total_variation(self) -> Array:
        """Where it ends, `[...]`."""
        ...

    @property
    def rejection(self) -> Array:
        """The grid, `[points, ...]`."""
        ...

    @property
    def divergence(self) -> Array:
        """The least divergence there."""
        ...

    def at(self, *, rejection: Any = None, divergence: Any = None, price: Any = None) -> ParetoPoint:
        """One point of the front."""
        ...

    def place(self, rule: AnyRule | str) -> tuple[Array, Array]:
        """Rejection and divergence of a rule, `[...]`."""
        ...


LEFT_END = 1e9
"""A price at which no more is rejected than a finite divergence takes: the left end of a front that starts above."""

LARGEST = float(np.finfo(np.float64).max)

OFF_SCALE = 1.5
"""A rule so many times worse than the draft itself would press the front flat: it is marked at the top edge."""


def draw_front(front: Drawable, ax: "Axes | None", rules: Rules | None) -> "Axes":
    """Draw divergence against rejection, shade what no rule can reach, mark rules where they are.

    Parameters
    ----------
    front
        One line for a pair of laws or for positions that share a budget; else a thin line to a position, with no
        region in common to shade.
    ax
        Where to draw; None for a figure of its own.
    rules
        By name. One point each, (R, D) exactly from the laws: weighted means if positions share a budget, a point to a
        position if not. Divergences that are infinite or off the scale are marked at the top edge, with a note.

    Raises
    ------
    InputError
        A rule whose acceptance or residual is not one.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(5.4, 3.9), layout="constrained")
    _draw(front, ax, rules)
    ax.legend(*_entries([ax]), frameon=False, fontsize=8, loc="best")
    return ax


def plot_fronts(fronts: Sequence[Drawable], *, rules: Rules | None = None) -> "Figure":
    """Draw several fronts, such as one to a divergence, in panels with one rejection axis and one legend.

    Parameters
    ----------
    fronts
        At least one.
    rules
        By name; drawn in every panel, in the same looks.

    Raises
    ------
    InputError
        No front, or a rule whose acceptance or residual is not one.
    """
    if not fronts:
        raise InputError("plot_fronts: expected at least one front; got none")
    columns = len(fronts) if len(fronts) <= 3 else min(-(-len(fronts) // 2), 4)
    rows = -(-len(fronts) // columns)
    figure, grid = plt.subplots(
        rows, columns, squeeze=False, figsize=(4.2 * columns + 0.4, 3.3 * rows + 0.5), layout="constrained"
    )
    panels = list(grid.flat)
    for front, ax in zip(fronts, panels, strict=False):
        _draw(front, ax, rules)
    drawn, spare = panels[: len(fronts)], panels[len(fronts) :]
    for ax in spare:
        ax.remove()
    right = max(ax.get_xlim()[1] for ax in drawn)
    for ax in drawn:
        ax.set_xlim(0, right)
    handles, names = _entries(drawn)
    across = min(len(names), int(figure.get_figwidth() // 1.8))
    figure.legend(handles, names, frameon=False, fontsize=9, loc="outside lower center", ncols=across)
    return figure


def _draw(front: Drawable, ax: "Axes", rules: Rules | None) -> None:
    before = (ax.get_xlim()[1], ax.get_ylim()[1]) if ax.has_data() else (0.0, 0.0)
    divergence = to_numpy(front.divergence)
    lines, alone = divergence.reshape(divergence.shape[0], -1).shape[1], divergence[0].size == 1
    line = _draw_alone(front, ax) if alone else _draw_batch(front, ax, lines)
    named = rules if isinstance(rules, Mapping) else {spec: spec for spec in rules or ()}
    places = {name: _place(front, rule) for name, rule in named.items()}
    itself = _per_point(front, front.measure.value(front.problem.draft, front.problem.target))
    known = np.concatenate([divergence.ravel(), itself])
    limit = OFF_SCALE * float(known[np.isfinite(known)].max(initial=0.0)) or LARGEST
    top = max(float(y[y <= limit].max(initial=0.0)) for y in (line, *(y for _, y in places.values())))
    right = max(float(to_numpy(each).max()) for each in (front.total_variation, *(x for x, _ in places.values())))
    notes = _draw_rules(ax, named, places, limit, right)
    # rows of notes above everything that is drawn to scale
    _widen(ax, max(before[0], 1.04 * right), max(before[1], (1.06 + 0.09 * notes) * top))
    together = "mean " if front.weights is not None else ""
    ax.set_xlabel(f"{together}rejection probability", fontsize=9)
    ax.set_ylabel(literal(f"{together}{front.measure.label}"), fontsize=9)


def _widen(ax: "Axes", right: float, top: float) -> None:
    """Both axes start at 0; a front of equal laws is one point there and keeps the unit square."""
    ax.set_xlim(0, right or 1.0)
    ax.set_ylim(0, top or 1.0)


def _draw_alone(front: Drawable, ax: "Axes") -> np.ndarray:
    x, y, wall = _curve(front)
    marker = "." if x.size == 1 else None
    ax.plot(x, y, color=FRONT, linewidth=1.8, marker=marker, label="front: least divergence")
    # left of its first point the front is no lower; the two patches overlap, so that no seam shows
    under = np.concatenate([[0.0], x]), np.concatenate([y[:1], y]) if y.size else [0.0]
    ax.fill_between(*under, color=SHADE, linewidth=0, zorder=0, label="unattainable")
    if wall > 0:
        ax.axvspan(0, wall, color=SHADE, linewidth=0, zorder=0)
    return y


def _draw_batch(front: Drawable, ax: "Axes", lines: int) -> np.ndarray:
    rejection, divergence = (to_numpy(each).reshape(-1, lines) for each in (front.rejection, front.divergence))
    for index in range(lines):
        x, y = _finite(rejection[:, index], divergence[:, index])
        ax.plot(x, y, color=FRONT, linewidth=0.8, alpha=0.5, label="" if index else "front of each position")
    return divergence[np.isfinite(divergence)]


def _curve(front: Drawable) -> tuple[np.ndarray, np.ndarray, float]:
    """The finite part of the front, left to right, and the rejection up to which it is infinite."""
    rejection, divergence = (to_numpy(each).reshape(-1) for each in (front.rejection, front.divergence))
    x, y = _finite(rejection, divergence)
    infinite = rejection[np.isinf(divergence)]
    if not infinite.size:
        return x, y, 0.0
    if not x.size or front.solver != "closed_form":
        return x, y, float(infinite.max())
    # between the last infinite point of the grid and the first finite one the front comes down from the top
    start, above = front.at(price=LEFT_END), float(x[0])
    wall = min(_mean(front, start.rejection), above)
    steps = [front.at(rejection=wall + (above - wall) * 2.0**-k) for k in range(8, 0, -1)]
    ends = [(_mean(front, each.rejection), _mean(front, each.divergence)) for each in (start, *steps)]
    more = np.array([(r, d) for r, d in ends if np.isfinite(d) and r < above - ROUNDING]).reshape(-1, 2)
    return np.concatenate([more[:, 0], x]), np.concatenate([more[:, 1], y]), wall


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(x, kind="stable")
    kept = order[np.isfinite(y[order])]
    return x[kept], y[kept]


def _place(front: Drawable, rule: AnyRule | str) -> tuple[np.ndarray, np.ndarray]:
    """Rejection and divergence of a rule: one of each to a position, or their means."""
    rejection, divergence = front.place(rule)
    return _per_point(front, rejection), _per_point(front, divergence)


def _per_point(front: Drawable, values: Array) -> np.ndarray:
    if front.weights is not None:
        return np.array([_mean(front, values)])
    return to_numpy(values).reshape(-1)


def _mean(front: Drawable, values: Array) -> float:
    numbers = to_numpy(values).reshape(-1)
    shares = np.ones(numbers.shape) / numbers.size if front.weights is None else to_numpy(front.weights).reshape(-1)
    occurs = shares > 0  # 0 times infinity is a row that does not occur
    return float((shares[occurs] * numbers[occurs]).sum())


def _draw_rules(
    ax: "Axes",
    rules: Mapping[str, AnyRule | str],
    places: Mapping[str, tuple[np.ndarray, np.ndarray]],
    limit: float,
    right: float,
) -> int:
    """Mark every rule, to scale or in a row of its own at the top edge; returns the number of such rows."""
    notes = 0
    for (name, (x, y)), own in zip(places.items(), looks_of(rules.values()), strict=True):
        look: dict[str, Any] = {
            "color": own.colour,
            "marker": own.marker,
            "linestyle": "none",
            "label": literal(name),
            "zorder": 3,
        }
        look |= {"markersize": 8.0 if x.size == 1 else 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
        inside = y <= limit
        if inside.any():
            ax.plot(x[inside], y[inside], **look, clip_on=False)
        if not inside.all():
            _draw_off_scale(ax, x[~inside], y[~inside], notes, right, look)
            notes += 1
    return notes


def _draw_off_scale(ax: "Axes", x: np.ndarray, y: np.ndarray, row: int, right: float, look: Mapping[str, Any]) -> None:
    """A row at the top edge: marks where the rule rejects, an arrow and what is up there."""
    down = ScaledTranslation(0, -(9 + 12 * row) / 72, ax.figure.dpi_scale_trans)
    edge = blended_transform_factory(ax.transData, ax.transAxes) + down
    ax.plot(x, np.ones_like(x), **look, transform=edge)
    what = "infinite" if np.isinf(y).all() else f"{y[0]:.3g}" if y.size == 1 else "off the scale"
    leftwards = x.max() > 0.6 * right
    ax.annotate(
        rf"$\uparrow$ {what}" if y.size == 1 else rf"$\uparrow$ {what}: {y.size} positions",
        (x.min() if leftwards else x.max(), 1.0),
        xycoords=edge,
        xytext=(-6 if leftwards else 6, 0),
        textcoords="offset points",
        ha="right" if leftwards else "left",
        va="center",
        fontsize=8,
        color=QUIET,
    )


def _entries(panels: "Sequence[Axes]") -> tuple[list[Any], list[str]]:
    """Handles and names for one legend, each name once."""
    found: dict[str, Any] = {}
    for ax in panels:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    return list(found.values()), list(found)
