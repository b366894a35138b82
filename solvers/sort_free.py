"""The two thresholds of the ratio clip without a sort: a few sums over each row, in the row's own dtype.

The optimal law is pi = clip(p, c q, C q) (docs/theory.md T1). Its floor c and ceiling C are roots of monotone
sums over the vocabulary. One evaluation reads both rows once; the secant method of `solvers.roots` in log c (or
log C) and the logarithm of the sum needs four to ten of them.

Precision: rows stay in float32 or float64, sums of 32 terms are taken in their dtype and everything above in
float64. The sums are then exact to 1e-13 in float64; in float32 to 2e-6 at worst and 1e-8 typically (relative).
Levels are settled to 1e-14 and 1e-6 (relative), whatever the sums' error adds.
"""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
from array_api_compat import array_namespace, device

from solvers.arrays import ROUNDING, Array, like, on_host, to_numpy
from solvers.divergences import Divergence
from solvers.roots import monotone_root

BLOCK = 2**16
"""Elements worked on at a time on a CPU: temporaries stay in its cache, and memory does not grow with the batch."""

PARTIAL = 32
"""Terms summed in the rows' own dtype; a float64 sum of a float32 row takes three times as long."""

LARGEST_LOG = 700.0
"""Levels are sought between exp(-700) and exp(700), where float64 still holds them."""


def floor_level(masses: Array, target: Array, budget: Array) -> Array:
    """The largest c <= 1 with sum [c q - m]_+ <= budget.

    Parameters
    ----------
    masses, target
        m and q, `[..., vocab]`: m is the draft, or the accepted mass of a fixed acceptance.
    budget
        `[...]`, at least 0.
    """

    def solve(rows: _Rows, budget: np.ndarray) -> np.ndarray:
        at_one = rows.gained(np.ones_like(budget))
        wanted = np.minimum(budget, at_one)
        root = _log_root(
            lambda log_level: rows.gained(np.exp(log_level)),
            wanted,
            at_one,
            low=np.log(wanted / at_one),  # the sum is convex in c and 0 at c = 0
            slope=(1 + at_one) / 2 / at_one,
            step=rows.step,
        )
        return np.where(wanted > 0, np.exp(root), 1.0 if (wanted > 0).all() else rows.least_ratio())

    return _by_blocks(solve, masses, target, budget)


def ceiling_level(draft: Array, target: Array, budget: Array) -> Array:
    """The smallest C >= 1 with sum [p - C q]_+ <= budget; infinite when p puts more than that off q's support.

    Parameters
    ----------
    draft, target
        p and q, `[..., vocab]`.
    budget
        `[...]`, at least 0.
    """
    return _by_blocks(_ceiling, draft, target, budget)


def levels_at_price(draft: Array, target: Array, price: Array, divergence: Divergence) -> tuple[Array, Array]:
    """The levels of the law that minimises D_f(pi, q) + price R: f'(C) - f'(c) = price, sum pi = 1 (T4).

    Where leaking costs no more than the price (f'(infinity) - f'(c) <= price), C is infinite and the tokens off
    the target's support fill pi up to sum 1.

    Parameters
    ----------
    draft, target
        p and q, `[..., vocab]`.
    price
        `[...]`, at least 0, divergence per rejection; infinity allowed.

    Returns
    -------
    floor, ceiling
        c and C, `[...]`.
    """
    f = divergence

    def ceiling_of(floor: np.ndarray, price: np.ndarray) -> np.ndarray:
        level = np.maximum(f.ratio_at(f.slope(floor) + price), 1.0)
        return level if np.isfinite(f.slope_at_infinity) else np.minimum(level, np.exp(LARGEST_LOG))

    def solve(rows: _Rows, price: np.ndarray) -> np.ndarray:
        def total(log_floor: np.ndarray) -> np.ndarray:
            floor = np.exp(log_floor)
            return rows.clipped(floor, ceiling_of(floor, price))

        low = np.maximum(np.log(f.ratio_at(-price)), -LARGEST_LOG)
        start = np.maximum(low / 2, -0.5)
        # the draft's own sum, not 1: in float32 they differ by more than the level's error
        root = _log_root(total, rows.total(rows.draft), total(start), low=low, slope=0.5, start=start, step=rows.step)
        floor = np.minimum(np.exp(root), f.ratio_at(f.slope_at_infinity - price))
        if np.isfinite(f.slope_at_infinity):
            # f' is flat at large ratios and does not determine C; the rejection does
            return np.stack([floor, _ceiling(rows, rows.gained(floor))], axis=-1)
        return np.stack([floor, ceiling_of(floor, price)], axis=-1)

    levels = _by_blocks(solve, draft, target, price)
    return levels[..., 0], levels[..., 1]


def floor_of_block(offered: Array, target: Array, price: Array, total: Array) -> Array:
    """Floor c of clip(offered, c q, c e^price q) with the sum `total`, in KL, where what is offered exceeds a law.

    Parameters
    ----------
    offered
        Masses `[..., vocab]` that sum to at least `total`; infinity is allowed.
    target
        q, `[..., vocab]`.
    price, total
        `[...]`; prices at most `LARGEST_LOG`.
    """

    def solve(rows: _Rows, given: np.ndarray) -> np.ndarray:
        price, wanted = given[:, 0], given[:, 1]

        def clipped(log_floor: np.ndarray) -> np.ndarray:
            return rows.clipped(np.exp(log_floor), np.exp(log_floor + price))

        # at c = 1 nothing is below q, at c = e^-price nothing above it
        start = np.maximum(-price / 2, -0.5)
        root = _log_root(clipped, wanted, clipped(start), low=-price, slope=0.5, start=start, step=rows.step)
        return np.exp(root)

    xp = array_namespace(price, total)
    return _by_blocks(solve, offered, target, xp.stack([price, total], axis=-1))


class _Rows:
    """Rows of two laws, `[n, vocab]`, and the monotone sums over them; levels come and sums go as numpy `[n]`."""

    def __init__(self, draft: Array, target: Array, block: int) -> None:
        self.xp = array_namespace(draft, target)
        self.draft, self.target = draft, target
        self.step = 1e-14 if draft.dtype == self.xp.float64 else 1e-6
        self.largest = 0.5 * float(self.xp.finfo(draft.dtype).max)
        vocab = draft.shape[1]
        self.parts = [
            (draft[:, at : min(at + block, vocab)], target[:, at : min(at + block, vocab)])
            for at in range(0, vocab, block)
        ]
        self.zero = self.xp.zeros_like(self.parts[0][0])

    def gained(self, floor: np.ndarray) -> np.ndarray:
        """Sum of [c q - p]_+."""
        level, total = self._level(floor), 0.0
        for draft, target in self.parts:
            difference = target * level
            difference -= draft  # in place: fresh memory costs more than the arithmetic
            total = total + self.total(self.xp.maximum(difference, self.zero[:, : draft.shape[1]]))
        return np.asarray(total)

    def lost(self, ceiling: np.ndarray) -> np.ndarray:
        """Sum of [p - C q]_+."""
        level, total = self._level(ceiling), 0.0
        for draft, target in self.parts:
            difference = target * level
            difference -= draft
            total = total - self.total(self.xp.minimum(difference, self.zero[:, : draft.shape[1]]))
        return np.asarray(total)

    def clipped(self, floor: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
        """Sum of clip(p, c q, C q)."""
        low, high, total = self._level(floor), self._level(ceiling), 0.0
        for draft, target in self.parts:
            raised = self.xp.maximum(draft, target * low)
            total = total + self.total(self.xp.minimum(raised, target * high))
        return np.asarray(total)

    @cached_property
    def full(self) -> bool:
        """Whether the target has mass on every token; where() is slow, and most targets need none."""
        return bool(self.xp.min(self.target) > 0)

    def off_support(self) -> np.ndarray:
        """Draft mass on tokens without target mass."""
        if self.full:
            return np.zeros(self.draft.shape[0])
        return self.total(self.xp.where(self.target > 0, self.xp.zeros_like(self.draft), self.draft))

    def least_ratio(self) -> np.ndarray:
        """Least p/q over the target's support."""
        return self._extreme(self.xp.min, np.minimum, math.inf)

    def largest_ratio(self) -> np.ndarray:
        """Largest p/q over the target's support."""
        return self._extreme(self.xp.max, np.maximum, -math.inf)

    def _extreme(self, extreme: Callable[..., Array], combine: Callable[..., np.ndarray], worst: float) -> np.ndarray:
        xp, found = self.xp, np.asarray(worst)
        for draft, target in self.parts:
            if self.full:
                ratio = draft / target
            else:
                known, one = target > 0, xp.ones_like(target)
                ratio = xp.where(known, draft / xp.where(known, target, one), worst * one)
            found = combine(found, to_numpy(extreme(ratio, axis=-1)).astype(np.float64))
        return found

    def total(self, masses: Array) -> np.ndarray:
        """Sum of every row in float64."""
        xp = self.xp
        if masses.dtype == xp.float64:
            return to_numpy(xp.sum(masses, axis=-1))
        rows, vocab = masses.shape
        whole = vocab - vocab % PARTIAL
        partial = xp.sum(xp.reshape(masses[:, :whole], (rows, PARTIAL, -1)), axis=1)
        total = to_numpy(xp.sum(partial, axis=-1, dtype=xp.float64))
        if whole < vocab:
            total = total + to_numpy(xp.sum(masses[:, whole:], axis=-1, dtype=xp.float64))
        return total

    def _level(self, level: np.ndarray) -> Array:
        # a level beyond the dtype would turn the target's zeros into NaN
        values = np.minimum(level, self.largest)[:, None]
        return self.xp.asarray(values, dtype=self.target.dtype, device=device(self.target))


def _ceiling(rows: _Rows, budget: np.ndarray) -> np.ndarray:
    at_one = rows.lost(np.ones_like(budget))
    wanted = np.minimum(budget, at_one)
    highest = np.maximum(rows.largest_ratio(), 1.0)  # there nothing is lost any more
    root = _log_root(
        lambda log_level: rows.lost(np.exp(-log_level)),
        wanted,
        at_one,
        low=-np.log(highest) - rows.step,
        slope=np.maximum(1 - at_one, 0.1) / 2 / at_one,
        step=rows.step,
    )
    level = np.where(wanted > 0, np.exp(-root), highest)
    return np.where(rows.off_support() > wanted + ROUNDING, np.inf, level)


def _log_root(
    function: Callable[[np.ndarray], np.ndarray],
    wanted: np.ndarray,
    at_start: np.ndarray,
    *,
    low: np.ndarray,
    slope: np.ndarray | float,
    step: float,
    start: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Solve function(x) = wanted on [low, 0] in logarithms, from function(start); rows that want 0 are skipped."""
    sought = wanted > 0
    target = np.log(np.where(sought, wanted, 1.0))
    root = monotone_root(
        lambda x: np.where(sought, np.log(function(x)) - target, 0.0),
        low=np.where(sought, low, 0.0),
        high=np.zeros_like(wanted),
        known=(np.zeros_like(wanted) + start, np.where(sought, np.log(at_start) - target, 0.0)),
        slope=slope,
        step=step,
    )
    return root.value


def _by_blocks(
    solve: "Callable[[_Rows, np.ndarray], np.ndarray]", draft: Array, target: Array, quantity: Array
) -> Array:
    """Apply `solve` to rows `[n, vocab]`, on a CPU a cache-sized block at a time; give `[...]` back."""
    xp = array_namespace(draft, target)
    leading, vocab = draft.shape[:-1], draft.shape[-1]
    dtype = xp.result_type(draft, target, xp.float32)
    first, second = (xp.reshape(xp.astype(each, dtype, copy=False), (-1, vocab)) for each in (draft, target))
    if on_host(draft):  # the same memory, and numpy has the lightest calls
        first, second = to_numpy(first), to_numpy(second)
    values = to_numpy(quantity).astype(np.float64)
    values = values.reshape(-1, *values.shape[len(leading) :])
    block = BLOCK if on_host(draft) else first.shape[0] * vocab
    rows, count = max(1, block // vocab), first.shape[0]
    with np.errstate(all="ignore"):
        levels = np.concatenate(
            [
                solve(_Rows(first[part, :], second[part, :], block), values[part])
                for part in (slice(at, min(at + rows, count)) for at in range(0, max(count, 1), rows))
            ]
        )
    return like(levels.reshape((*leading, *levels.shape[1:])), draft)
