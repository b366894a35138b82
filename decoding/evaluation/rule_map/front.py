"""The front below all rules: least mean divergence at every mean rejection, exactly, for many positions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from decoding.evaluation.positions.calibration import NOTHING
from solvers.divergences import Divergence, divergence_named
from solvers.sorted_front import HIGHEST_PRICE, SortedFront
from tradeoff.outcome.positions import Positions

SHARES = np.unique(np.concatenate([np.linspace(0, 1, 49), 0.5 ** np.arange(7, 19), 1 - 0.5 ** np.arange(7, 19)]))
"""Solved points of a front, as shares of its width: closer at the ends, where it is steep or where it nears zero."""

PRICES = np.geomspace(1e-9, 1e11, 81)
"""Where the prices of the points are looked for: four to a factor of ten."""

PILOT = 64
"""Positions on which the prices are chosen; how even the points are depends on it, not what they are."""

STEEPEST = 1e6
"""Of a tangent that is used as a bound: at a higher price a rounding of the rejection is worth more than 1e-10."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MapFront:
    """Solved points of one front, rejections ascending.

    Parameters
    ----------
    divergence
        Its name.
    rejection, least, price
        Mean rejection, least mean divergence there, and the price -d divergence / d rejection, each `[points]`. The
        first point is the least rejection of finite divergence, the last is lossless.
    """

    divergence: str
    rejection: np.ndarray
    least: np.ndarray
    price: np.ndarray

    def bound(self, rejection: np.ndarray) -> np.ndarray:
        """What no rule of this mean rejection can be below, by the tangents at the solved points, `[...]`."""
        used = self.price <= STEEPEST
        slack = self.rejection[used] - np.asarray(rejection)[..., None]
        return np.maximum((self.least[used] + self.price[used] * slack).max(axis=-1), 0.0)

    def at(self, rejection: np.ndarray) -> np.ndarray:
        """The front, interpolated between its tangents and its chords, `[...]`; infinite left of its first point."""
        wanted = np.asarray(rejection, dtype=np.float64)
        inside = np.clip(wanted, self.rejection[0], self.rejection[-1])
        chord = np.interp(inside, self.rejection, self.least)
        curve = chord
        if len(self.rejection) > 1:
            mean = np.gradient(self.least, self.rejection)
            slopes = np.where(self.price <= STEEPEST, -self.price, mean)
            curve = CubicHermiteSpline(self.rejection, self.least, slopes)(inside)
        curve = np.minimum(np.maximum(curve, self.bound(inside)), chord)
        # the first point is a mean as well: a rule that is there may miss it by a rounding
        return np.where(wanted < self.rejection[0] - 1e-12, np.inf, curve)

    def multiple(self, rejection: float, divergence: float) -> float | None:
        """How many times the least a divergence is; None where the least is nothing, or infinite."""
        least = float(self.at(np.asarray(rejection)))
        return divergence / least if NOTHING < least < math.inf else None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a row."""
        return {
            "divergence": self.divergence,
            "rejection": self.rejection.tolist(),
            "least": self.least.tolist(),
            "price": self.price.tolist(),
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "MapFront":
        """Read what `to_dict` gave."""
        columns = {name: np.asarray(row[name]) for name in ("rejection", "least", "price")}
        return cls(divergence=row["divergence"], **columns)


def solve_front(positions: Positions, name: str) -> MapFront:
    """Solve the front of all positions together, a chunk of rows in memory at a time.

    A common price at every position gives a point of it (T4): no search for the split of a mean is needed.

    Parameters
    ----------
    positions
        The laws.
    name
        Of the divergence.
    """
    measure = divergence_named(name)
    if not measure.strictly_convex:  # TV: one rejection buys one unit of it everywhere
        widest = float(positions.total_variation.mean())
        ends = np.array([0.0, widest])
        return MapFront(divergence=name, rejection=ends, least=ends[::-1].copy(), price=np.ones(2))
    prices = _chosen_prices(positions, measure)
    rejection, least, rows = np.zeros(len(prices)), np.zeros(len(prices)), 0
    for front in _sorted_fronts(positions, measure):
        split = front.rejection_at_price(np.broadcast_to(prices, (len(front.total_variation), len(prices))))
        rejection += split.sum(axis=0)
        least += front.least_divergence(split).sum(axis=0)
        rows += len(split)
    rejection, least = rejection / rows, least / rows
    kept = np.isfinite(least)
    _, first = np.unique(rejection[kept], return_index=True)  # ascending; of equal ones the highest price
    return MapFront(divergence=name, **_columns(rejection[kept][first], least[kept][first], prices[kept][first]))


def _columns(rejection: np.ndarray, least: np.ndarray, price: np.ndarray) -> dict[str, np.ndarray]:
    return {"rejection": rejection, "least": least, "price": price}


def _chosen_prices(positions: Positions, measure: Divergence) -> np.ndarray:
    """Prices, the highest first, at which mean rejections are about evenly spaced, and both ends."""
    pilot = _pilot(positions)
    total, rows = np.zeros(len(PRICES)), 0
    for front in _sorted_fronts(pilot, measure):
        found = front.rejection_at_price(np.broadcast_to(PRICES, (len(front.total_variation), len(PRICES))))
        total, rows = total + found.sum(axis=0), rows + len(found)
    rejection = total[::-1] / rows  # ascending: a higher price rejects less
    wanted = rejection[0] + SHARES[1:-1] * (rejection[-1] - rejection[0])
    inner = np.exp(np.interp(wanted, rejection, np.log(PRICES[::-1])))
    return np.array([HIGHEST_PRICE, *inner, 0.0])


def _pilot(positions: Positions) -> Positions:
    step = max(1, len(positions) // PILOT)
    rows = slice(0, None, step)
    return Positions(
        draft=positions.draft[rows, :],
        target=positions.target[rows, :],
        prompt=positions.prompt[rows],
        prompts=positions.prompts,
    )


def _sorted_fronts(positions: Positions, measure: Divergence) -> Iterator[SortedFront]:
    for chunk in positions.chunks():
        yield SortedFront(chunk.draft, chunk.target, measure)
