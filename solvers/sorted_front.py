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

from solvers.arrays import ROUNDING, Array, like, mass, positive_part, to_numpy
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
        xp = array_namespace(draft, target)
        self.divergence = divergence
        self.total_variation = to_numpy(total_variation(draft, target))[:, None]
        self.free_rejection = self._free_rejection(draft, target)
        known, zero = target > 0, xp.zeros_like(draft)
        self.off_support = to_numpy(mass(xp.where(known, zero, draft)))[:, None]
        ratio = xp.where(known, draft / xp.where(known, target, zero + 1.0), zero + xp.inf)
        terms = xp.where(known, divergence.elements(draft, target), zero)
        order = xp.argsort(ratio, axis=-1)
        ratio, terms, target = (xp.take_along_axis(each, order, axis=-1) for each in (ratio, terms, target))
        # a token off the support has no q to move a level: any finite ratio will do
        highest = xp.max(xp.where(xp.isfinite(ratio), ratio, zero), axis=-1, keepdims=True)
        ratio = xp.minimum(ratio, highest)
        self._floor = _side(ratio, target, xp.where(ratio < 1, terms, zero), zero[:, :1])
        ratio, target, terms = (xp.flip(each, axis=-1) for each in (ratio, target, terms))
        self._ceiling = _side(ratio, target, xp.where(ratio > 1, terms, zero), like(self.off_support, draft))

    def _free_rejection(self, draft: Array, target: Array) -> np.ndarray:
        """The least rejection at divergence 0: TV, unless f is flat on both sides of 1."""
        if self.divergence.zero_is_equality:
            return self.total_variation
        low, high = self.divergence.flat
        gained = mass(positive_part(low * target - draft))
        lost = mass(positive_part(draft - high * target)) if np.isfinite(high) else 0 * gained
        return np.minimum(np.maximum(to_numpy(gained), to_numpy(lost))[:, None], self.total_variation)

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
        """The rejection that minimises divergence + price * rejection; TV, which is lossless, where it costs nothing."""
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
        ends = [np.zeros_like(self.total_variation), self.total_variation]
        inner = [np.minimum(to_numpy(side.budget), self.total_variation) for side in (self._floor, self._ceiling)]
        return np.sort(np.concatenate([*inner, *ends], axis=-1), axis=-1)

    def _leaked(self, rejection: np.ndarray) -> np.ndarray:
        """Draft mass off the target's support that is not rejected; a rounding is no leak, unless nothing is rejected."""
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
        floor, ceiling = (_place(side, rejection, sign) for side, sign in ((self._floor, 1), (self._ceiling, -1)))
        return (
            floor._replace(level=np.minimum(floor.level, 1.0)),
            ceiling._replace(level=np.maximum(ceiling.level, 1.0)),
        )


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
