"""The bias-rejection problems in closed form, batched over leading axes, for any array library.

Letters used below, as in the source paper: p draft law, q target law, b acceptance probability, a = b p
accepted mass, R = 1 - sum a rejection probability, P residual law, r = R P residual mass, pi = a + r output
law. Laws are `[..., vocab]` in float64 and sum to 1; row quantities are `[...]`. Statement numbers "T1" and
so on refer to docs/theory.md; "Theorem" without one is Yin et al., NeurIPS 2024.
"""

from typing import NamedTuple

from array_api_compat import array_namespace

from solvers.arrays import Array, mass, normalised, positive_part, safe_divide
from solvers.divergences import DIVERGENCES, Divergence, total_variation
from solvers.sort_free import LARGEST_LOG, ceiling_level, floor_level, floor_of_block, levels_at_price


class ClippedLaw(NamedTuple):
    """The law pi = clip(p, floor q, ceiling q), as acceptance and residual."""

    acceptance: Array  # [..., vocab]
    residual: Array  # [..., vocab]
    floor: Array  # [...]
    ceiling: Array  # [...]


def least_bias(draft: Array, target: Array, acceptance: Array) -> Array:
    """Least TV bias over all residual laws for a fixed acceptance: sum [b p - q]_+ (Theorem 4)."""
    return mass(positive_part(acceptance * draft - target))


def residual_capacity(draft: Array, target: Array, acceptance: Array) -> Array:
    """Upper bound [q - b p]_+ of Theorem 4's set: r is optimal iff 0 <= r <= capacity and sum r = R."""
    return positive_part(target - acceptance * draft)


def optimal_residual(draft: Array, target: Array, acceptance: Array) -> Array:
    """Decoding-OPT's residual law [q - b p]_+ / sum [q - b p]_+, a point of Theorem 4's optimal set."""
    return normalised(residual_capacity(draft, target, acceptance), target)


def tv_front(draft: Array, target: Array, rejection: Array) -> Array:
    """Least TV bias at rejection probability R: [TV(p, q) - R]_+ (Theorem 5)."""
    return positive_part(total_variation(draft, target) - rejection)


def lenient_acceptance(draft: Array, target: Array, ceiling: Array) -> Array:
    """b = min(1, C q / p); 0 where the target has no mass, whatever C.  C broadcasts, `[..., 1]`."""
    p, q = draft, target
    xp = array_namespace(p, q)
    accepted = safe_divide(xp.minimum(ceiling_mass(q, ceiling), p), p, 1.0)
    # C = p / q, times q, may fall short of p: a rejection by rounding would make an infinite divergence finite
    whole = accepted > 1.0 - 4.0 * xp.finfo(accepted.dtype).eps
    return xp.where(q > 0, xp.where(whole, xp.ones_like(accepted), accepted), xp.zeros_like(p))


def ceiling_mass(target: Array, ceiling: Array) -> Array:
    """C q, with infinity times zero read as zero."""
    xp = array_namespace(target)
    positive = target > 0
    product = ceiling * xp.where(positive, target, xp.ones_like(target))
    return xp.where(positive, product, xp.zeros_like(target))


def residual_fill(draft: Array, target: Array, acceptance: Array) -> tuple[Array, Array]:
    """Best residual for a fixed acceptance, for every f-divergence at once: pi = max(b p, c q) (T3).

    Returns
    -------
    residual, floor
        The law [c q - b p]_+ / R `[..., vocab]`, and c `[...]`, with sum [c q - b p]_+ = R.
    """
    accepted = acceptance * draft
    xp = array_namespace(accepted)
    floor = floor_level(accepted, target, positive_part(1.0 - mass(accepted)))
    residual = positive_part(xp.expand_dims(floor, axis=-1) * target - accepted)
    return normalised(residual, target), floor


def ratio_clip(draft: Array, target: Array, floor: Array, ceiling: Array) -> ClippedLaw:
    """The rule whose output law is clip(p, c q, C q), for levels that keep its sum at 1 (T1).

    Where C is infinite because the draft puts L > R mass off the target's support, those tokens are accepted
    with probability 1 - R / L each.
    """
    p, q = draft, target
    xp = array_namespace(p, q)
    residual = positive_part(xp.expand_dims(floor, axis=-1) * q - p)
    off_support = mass(xp.where(q > 0, xp.zeros_like(p), p))
    spared = positive_part(1.0 - safe_divide(mass(residual), off_support, 1.0))
    spared = xp.where(xp.isfinite(ceiling), xp.zeros_like(spared), spared)  # a rounding must not leak
    acceptance = lenient_acceptance(p, q, xp.expand_dims(ceiling, axis=-1))
    acceptance = xp.where((q > 0) | (p <= 0), acceptance, xp.expand_dims(spared, axis=-1))
    return ClippedLaw(acceptance, normalised(residual, q), floor, ceiling)


def ratio_clip_at_rejection(draft: Array, target: Array, rejection: Array | float) -> ClippedLaw:
    """The law that minimises every f-divergence to the target at rejection probability R (T1).

    pi = clip(p, c q, C q) with sum [p - C q]_+ = R = sum [c q - p]_+. Where R exceeds TV(p, q) the row is
    solved at TV, lossless.
    """
    budget = rejection + array_namespace(draft).zeros_like(draft[..., 0])
    return ratio_clip(draft, target, floor_level(draft, target, budget), ceiling_level(draft, target, budget))


def ratio_clip_at_price(
    draft: Array, target: Array, price: Array | float, divergence: Divergence = DIVERGENCES["kl"]
) -> ClippedLaw:
    """Minimise D_f(pi, q) + price R over all rules: pi = clip(p, c q, C q), f'(C) - f'(c) = price, sum pi = 1 (T4).

    Price 0 is lossless; an infinite price gives the least rejection among laws of finite divergence.
    """
    price = price + array_namespace(draft).zeros_like(draft[..., 0])
    return ratio_clip(draft, target, *levels_at_price(draft, target, price, divergence))


def block_clip(draft: Array, target: Array, weight: Array, price: Array | float) -> Array:
    """The law clip(p / w, c q, c e^price q) of a position that a drafted block reaches with weight w (T16).

    Parameters
    ----------
    draft, target
        p and q, `[..., vocab]`.
    weight
        w, `[...]`, in [0, 1]: the probability that the prefix is accepted. p / w is a measure of mass at least 1; at
        w = 0 it is infinite wherever p is positive.
    price
        At least 0, nats per rejection, a number or `[...]`; 0 gives q, infinity the limit.

    Returns
    -------
    law
        `[..., vocab]`.
    """
    xp = array_namespace(draft, target)
    weight = xp.zeros_like(draft[..., 0]) + weight
    weight = xp.where(
        weight < 4 * xp.finfo(draft.dtype).smallest_normal, xp.zeros_like(weight), weight
    )  # p / w is finite
    wide = xp.astype(weight, xp.float64)  # e^700 is none of float32
    spread = xp.clip(xp.zeros_like(wide) + price, 0.0, LARGEST_LOG)
    infinite = xp.where(draft > 0, xp.full_like(draft, float("inf")), xp.zeros_like(draft))
    offered = safe_divide(draft, xp.expand_dims(weight, axis=-1), infinite)
    floor = floor_of_block(offered, target, spread, mass(xp.astype(draft, xp.float64)))
    largest = 0.5 * float(xp.finfo(draft.dtype).max)
    ceiling = xp.clip(floor * xp.exp(spread), 0.0, largest)
    levels = (xp.astype(each, draft.dtype) for each in (floor, ceiling))
    floor, ceiling = (xp.expand_dims(each, axis=-1) for each in levels)
    clipped = xp.minimum(xp.maximum(offered, floor * target), ceiling_mass(target, ceiling))
    return xp.where(xp.expand_dims(spread, axis=-1) > 0, clipped, target)
