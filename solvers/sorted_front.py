"""The whole front of a pair of laws from one sort: afterwards every question costs a binary search.

Tokens sorted by p/q from either end, the level of the ratio clip moves from one ratio to the next, and between two
of them everything is elementary (docs/theory.md T2): with S the tokens already at the level,

    sum over S of (c q - p) = R   is linear in c,      D = q(S) f(c) + (what lies between the level and ratio 1).

Nothing here cancels: budgets are running sums of (next ratio - ratio) q(S) >= 0, and what lies inside is summed from
ratio 1 outwards.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from solvers.arrays import ROUNDING, Array, like, mass, positive_part, row_pieces, to_numpy
from solvers.divergences import Divergence, total_variation
from solvers.roots import monotone_root

HIGHEST_PRICE = 1e300
"""A finite stand-in for an infinite price."""


class _Side(NamedTuple):
    """Tokens of one side, the most extreme ratio first; `[rows, vocab]`, token k being the last at the level."""

    ratio: Array
    budget: Array  # the rejection at which the level reaches this ratio
    target: Array  # q(S)
    inside: Array  # sum of q f(p/q) over the tokens between the level and ratio 1


class _Place(NamedTuple):
    """What a side holds at some rejections, `[rows, queries]`, on the host."""

    level: np.ndarray
    target: np.ndarray
    inside: np.ndarray


class SortedFront:
    """Least divergence, levels and price at any rejection, for rows of laws.

    Parameters
    ----------
    draft, target
        Laws `[rows, vocab]`, float64.
    divergence
        A row of `solvers.divergences.DIVERGENCES`, or one like it.

    Notes
    -----
    Queries and answers are numpy arrays `[rows, queries]` on the host, rejections between 0 and the row's TV.
    """

    def __init__(self, draft: Array, target: Array, divergence: Divergence) -> None:
        self.divergence = divergence
        # sorting takes ten arrays like a law; what is kept of them is four
        pieces = [_sorted_rows(draft[rows, :], target[rows, :], divergence) for rows in row_pieces(draft)]
        self._sides = [piece.sides for piece in pieces]
        columns = zip(*(piece.numbers for piece in pieces), strict=True)
        self.total_variation, self.off_support, self.free_rejection = (
            np.concatenate(column)[:, None] for column in columns
        )
        self._vocab = draft.shape[1]

    def levels(self, rejection: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Floor and ceiling; the ceiling is infinite below the draft's mass off the target's support."""
        floor, ceiling = self._places(rejection)
        return floor.level, np.where(self._leaked(rejection) > 0, np.inf, ceiling.level)

    def price(self, rejection: np.ndarray) -> np.ndarray:
        """f'(C) - f'(c), the rate at which one more rejection lowers the divergence."""
        floor, ceiling = self.levels(rejection)
        with np.errstate(all="ignore"):
            return self.divergence.slope(ceiling) - self.divergence.slope(floor)

    def least_divergence(self, rejection: np.ndarray) -> np.ndarray:
        """The front itself."""
        f, leaked = self.divergence, self._leaked(rejection)
        with np.errstate(all="ignore"):
            value = sum(
                # in masses: f of a ratio of 1e150 may overflow where q f does not
                f.elements(side.level * side.target, side.target) + side.inside
                for side in self._places(rejection)
            )
            return value + np.where(leaked > 0, leaked * f.slope_at_infinity, 0.0)

    def rejection_at_price(self, price: np.ndarray) -> np.ndarray:
        """The rejection that minimises divergence + price * rejection; at price 0 TV, which is lossless."""
        finite = np.minimum(price, HIGHEST_PRICE)
        return np.where(
            price > 0, self._root(lambda rejection: finite - self.price(rejection), price), self.total_variation
        )

    def is_straight(self) -> bool:
        """Whether all fronts are lines of one slope, as in TV, so that it does not matter which row rejects."""
        if self.divergence.strictly_convex:
            return False
        steepest, flattest = (self.price(share * self.total_variation) for share in (0.0, 1 - 1e-9))
        open_rows = self.total_variation > 0
        return not open_rows.any() or float(np.ptp(np.concatenate([steepest[open_rows], flattest[open_rows]]))) == 0

    def rejection_at_divergence(self, divergence: np.ndarray) -> np.ndarray:
        """The least rejection whose divergence is at most this; 0, the draft itself, if the draft's is."""
        root = self._root(lambda rejection: divergence - self.least_divergence(rejection), divergence)
        # the front is flat at its end, where many rejections have a divergence of 0 within rounding
        root = np.where(divergence > 0, np.minimum(root, self.free_rejection), self.free_rejection)
        return np.where(np.isinf(divergence), 0.0, root)

    def breakpoints(self) -> np.ndarray:
        """Rejections between which both levels are linear, ascending, from 0 to TV, `[rows, 2 vocab + 2]`.

        A row with fewer repeats its TV.
        """
        points = np.repeat(self.total_variation, 2 * self._vocab + 2, axis=1)
        points[:, 0] = 0.0
        start = 0
        for sides in self._sides:
            column, rows = 1, sides[0].budget.shape[0]
            for side in sides:
                length = side.budget.shape[1]
                points[start : start + rows, column : column + length] = to_numpy(side.budget)
                column += length
            start += rows
        return np.sort(np.minimum(points, self.total_variation), axis=-1)

    def _leaked(self, rejection: np.ndarray) -> np.ndarray:
        """Draft mass off the target's support that is not rejected; a rounding is no leak but at rejection 0."""
        left = self.off_support - rejection
        return np.where(left > np.where(rejection > 0, ROUNDING, 0.0), left, 0.0)

    def _root(self, function: Callable[[np.ndarray], np.ndarray], wanted: np.ndarray) -> np.ndarray:
        low = np.zeros(np.broadcast_shapes(self.total_variation.shape, wanted.shape))
        # rows that reject nothing are told at once: bisection would walk through all small numbers
        with np.errstate(all="ignore"):
            high = np.where(function(low) >= 0, 0.0, self.total_variation)
        # no last step unseen: a price may fall from 1e20 to 10 within a rounding, and gently from there on
        root = monotone_root(function, low=low, high=high).value
        # at the end of a leak the price jumps: on its wrong side by a rounding, the leak may cost infinity
        at_leak = (self.off_support > ROUNDING) & (np.abs(root - self.off_support) <= 2 * ROUNDING)
        return np.where(at_leak, np.minimum(self.off_support, self.total_variation), root)

    def _places(self, rejection: np.ndarray) -> tuple[_Place, _Place]:
        found: tuple[list[_Place], list[_Place]] = [], []
        wanted = rejection + np.zeros_like(self.total_variation)
        start = 0
        for sides in self._sides:
            rows = wanted[start : start + sides[0].budget.shape[0]]
            start += rows.shape[0]
            for places, side, sign in zip(found, sides, (1, -1), strict=True):
                places.append(_place(side, rows, sign))
        floor, ceiling = (_Place(*(np.concatenate(each) for each in zip(*places, strict=True))) for places in found)
        return (
            floor._replace(level=np.minimum(floor.level, 1.0)),
            ceiling._replace(level=np.maximum(ceiling.level, 1.0)),
        )


class _SortedRows(NamedTuple):
    """The floor's and the ceiling's side of some rows, and TV, mass off the support and free rejection, `[rows]`."""

    sides: tuple[_Side, _Side]
    numbers: tuple[np.ndarray, np.ndarray, np.ndarray]


def _sorted_rows(draft: Array, target: Array, divergence: Divergence) -> _SortedRows:
    xp = array_namespace(draft, target)
    known, zero = target > 0, xp.zeros_like(draft)
    off_support = mass(xp.where(known, zero, draft))
    numbers = total_variation(draft, target), off_support, _free_rejection(draft, target, divergence)
    ratio = xp.where(known, draft / xp.where(known, target, zero + 1.0), zero + xp.inf)
    terms = xp.where(known, divergence.elements(draft, target), zero)
    order = xp.argsort(ratio, axis=-1)
    ratio, terms, target = (xp.take_along_axis(each, order, axis=-1) for each in (ratio, terms, target))
    # a token off the support has no q to move a level: any finite ratio will do
    highest = xp.max(xp.where(xp.isfinite(ratio), ratio, zero), axis=-1, keepdims=True)
    ratio = xp.minimum(ratio, highest)
    floor = _side(ratio, target, xp.where(ratio < 1, terms, zero), zero[:, :1])
    ratio, target, terms = (xp.flip(each, axis=-1) for each in (ratio, target, terms))
    ceiling = _side(ratio, target, xp.where(ratio > 1, terms, zero), xp.expand_dims(off_support, axis=-1))
    sides = _up_to_one(floor, floor.ratio < 1), _up_to_one(ceiling, ceiling.ratio > 1)
    return _SortedRows(sides, tuple(to_numpy(each) for each in numbers))  # type: ignore[arg-type]


def _free_rejection(draft: Array, target: Array, divergence: Divergence) -> Array:
    """The least rejection at divergence 0: TV, unless f is flat on both sides of 1."""
    xp, widest = array_namespace(draft), total_variation(draft, target)
    if divergence.zero_is_equality:
        return widest
    low, high = divergence.flat
    gained = mass(positive_part(low * target - draft))
    lost = mass(positive_part(draft - high * target)) if np.isfinite(high) else xp.zeros_like(gained)
    return xp.minimum(xp.maximum(gained, lost), widest)


def _up_to_one(side: _Side, beyond: Array) -> _Side:
    """The tokens a level can reach, on its own side of ratio 1, and one more: together one vocabulary, not two."""
    xp = array_namespace(beyond)
    length = min(int(xp.max(xp.sum(xp.astype(beyond, xp.int64), axis=-1))) + 1, beyond.shape[1])
    # a slice alone would keep all in memory
    return _Side(*(xp.asarray(each[:, :length], copy=True) for each in side))


def _side(ratio: Array, target: Array, terms: Array, start: Array) -> _Side:
    xp = array_namespace(ratio)
    cumulative = xp.cumulative_sum(target, axis=-1)
    increments = xp.abs(ratio[:, 1:] - ratio[:, :-1]) * cumulative[:, :-1]
    budget = xp.cumulative_sum(xp.concat([start, increments], axis=-1), axis=-1)
    # summed from ratio 1 outwards, without the token itself
    outwards = xp.flip(xp.cumulative_sum(xp.flip(terms[:, 1:], axis=-1), axis=-1), axis=-1)
    return _Side(ratio, budget, cumulative, xp.concat([outwards, xp.zeros_like(start)], axis=-1))


def _place(side: _Side, rejection: np.ndarray, sign: int) -> _Place:
    """Find the piece by binary search; inside it the level moves by (R - budget) / q(S)."""
    xp = array_namespace(side.budget)
    wanted = like(rejection, side.budget)
    low = xp.zeros(wanted.shape, dtype=xp.int64, device=device(wanted))
    last = side.budget.shape[-1] - 1
    high = low + last
    for _ in range(last.bit_length()):
        middle = (low + high + 1) // 2
        reached = xp.take_along_axis(side.budget, middle, axis=-1) <= wanted
        low, high = xp.where(reached, middle, low), xp.where(reached, high, xp.maximum(middle - 1, low))
    ratio, budget, target, inside = (to_numpy(xp.take_along_axis(each, low, axis=-1)) for each in side)
    following = to_numpy(xp.take_along_axis(side.ratio, xp.where(low < last, low + 1, low), axis=-1))
    following = np.where(to_numpy(low) < last, following, sign * np.inf)
    with np.errstate(all="ignore"):
        moved = np.where(target > 0, np.maximum(rejection - budget, 0.0) / target, 0.0)
    level = ratio + sign * moved
    return _Place((np.minimum if sign > 0 else np.maximum)(level, following), target, inside)
