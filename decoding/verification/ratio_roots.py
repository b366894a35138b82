"""Two thresholds of the target's law: what a clip adds to the draft, and the floor that replaces what it rejects."""

from collections.abc import Callable

import torch
from torch import Tensor

from decoding.sampling import draw

BEYOND = 1e300
"""Stands for an infinite ratio: times the least positive float32 probability it is above any mass."""

STEPS = 64
"""Steps where the device cannot be asked whether the root has settled; hard pairs need up to 62, most of any 4."""

ROUNDING = 1e-14
"""Sides that differ by less, relatively, are equal; so are levels."""


def clipped(draft: Tensor, target: Tensor, floor: Tensor, ceiling: Tensor) -> Tensor:
    """clip(p, c q, C q) - p: what a clip adds to the draft, or takes from it.

    Parameters
    ----------
    draft, target
        p and q, `[..., vocab]`, float64.
    floor, ceiling
        c <= C, `[...]`, finite.
    """
    negative = -draft
    gained = torch.addcmul(negative, target, floor[..., None]).clamp_min_(0.0)
    return torch.minimum(gained, torch.addcmul(negative, target, ceiling[..., None]))


def lost(draft: Tensor, target: Tensor, ceiling: Tensor) -> Tensor:
    """[p - C q]_+: what a ceiling takes from the draft, `[..., vocab]`; `ceiling` `[...]`, finite."""
    return torch.addcmul(draft, target, ceiling[..., None], value=-1.0).clamp_min_(0.0)


def floor_for_loss(draft: Tensor, target: Tensor, loss: Tensor) -> Tensor:
    """The c in [0, 1] with sum [c q - p]_+ = loss, `[batch]`; 1 where the sum stays below.

    Parameters
    ----------
    draft, target
        p and q, `[batch, vocab]`, float64, from float32 laws.
    loss
        `[batch]`, float64, at least 0.
    """
    negative = -draft

    def sides(floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gained = torch.addcmul(negative, target, floor[:, None]).clamp_min_(0.0)
        return gained.sum(-1), loss, _where_positive(gained, target)

    at_one = (target - draft).clamp_min_(0.0).sum(-1)
    # the sum is convex in c and 0 at c = 0
    return _root(sides, torch.where(at_one > loss, loss / at_one, 1.0))


def floor_at_price(draft: Tensor, target: Tensor, price: Tensor) -> Tensor:
    """The c in [0, 1] with sum [c q - p]_+ = sum [p - c e^price q]_+, `[batch]`.

    Parameters
    ----------
    draft, target
        p and q, `[batch, vocab]`, float64, from float32 laws.
    price
        `[batch]`, float64, at least 0; infinity allowed.
    """
    negative, quotient = -draft, price.exp().clamp(max=BEYOND)

    def sides(floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gained = torch.addcmul(negative, target, floor[:, None]).clamp_min_(0.0)
        taken = lost(draft, target, floor * quotient)
        left, right = gained.sum(-1), taken.sum(-1)
        return left, right, _where_positive(gained, target) + quotient * _where_positive(taken, target)

    return _root(sides, 1.0 / quotient)


def _where_positive(masses: Tensor, target: Tensor) -> Tensor:
    """Target mass where `masses`, which are overwritten, are positive, `[batch]`."""
    # arithmetic on numbers is several times as fast as on truth values
    return masses.sign_().mul_(target).sum(-1)


def _root(sides: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], low: Tensor) -> Tensor:
    """Where a rising left side meets a falling right side on [low, 1], `[batch]`; 1 if it stays below.

    Newton's method from 1 down. Where its step leaves the bracket, or the last one did not halve the difference, the
    bracket is halved in logarithms.

    Parameters
    ----------
    sides
        Left side, right side and the slope of their difference at `[batch]`.
    low
        Below the root, or at it, `[batch]`.
    """
    high = torch.ones_like(low)
    level, before = high, torch.full_like(low, torch.inf)
    settled = torch.zeros_like(low, dtype=torch.bool)
    for _ in range(STEPS):
        left, right, slope = sides(level)
        excess = left - right
        low, high = torch.where(excess < 0, level, low), torch.where(excess >= 0, level, high)
        newton = level - excess / slope
        trusted = (newton >= low) & (newton <= high) & (excess.abs() <= before / 2)
        # not the root of the product, which may underflow
        following = torch.where(trusted, newton, low.sqrt() * high.sqrt())
        # a settled row stays, or a bisection would carry it off while others go on
        following = torch.where(settled | (excess.abs() <= ROUNDING * left), level, following)
        settled = settled | ((following - level).abs() <= ROUNDING * level)
        level, before = following, excess.abs()
        if draw.on_host(level) and bool(settled.all()):
            break
    return level
