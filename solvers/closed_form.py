"""The bias-rejection problems in closed form, batched over leading axes, for any array library.

Letters used below, as in the source paper: p draft law, q target law, b acceptance probability, a = b p
accepted mass, R = 1 - sum a rejection probability, P residual law, r = R P residual mass, pi = a + r output
law. Laws are `[..., vocab]` in float64 and sum to 1; row quantities are `[...]`. Statement numbers "T1" and
so on refer to docs/theory.md; "Theorem" without one is Yin et al., NeurIPS 2024.
"""

from typing import NamedTuple

from array_api_compat import array_namespace

from solvers.arrays import ROUNDING, Array, mass, normalised, positive_part, safe_divide
from solvers.divergences import total_variation

LARGEST_PRICE = 700.0
"""exp(700) is the last round number below float64's overflow; a higher price is numerically the limit."""


MOST_STEPS = 200
"""Bisection alone narrows 700 nats of log c to rounding in 63 steps; Newton needs 5 to 10 on real laws."""


class RatioClip(NamedTuple):
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


def floor_level(masses: Array, target: Array, budget: Array) -> Array:
    """Solve sum [c q - m]_+ = budget for c by one sort; the smallest m/q fill up first.

    The left side is the maximum over sets S of c q(S) - m(S), attained on a prefix of the order, so
    c = min_k (M_k + budget) / Q_k over prefix sums: exact, no iteration (T2).
    """
    m, q = masses, target
    xp = array_namespace(m, q)
    ratio = safe_divide(m, q, xp.inf)
    order = xp.argsort(ratio, axis=-1)
    m_prefix = xp.cumulative_sum(xp.take_along_axis(m, order, axis=-1), axis=-1)
    q_prefix = xp.cumulative_sum(xp.take_along_axis(q, order, axis=-1), axis=-1)
    level = safe_divide(m_prefix + xp.expand_dims(budget, axis=-1), q_prefix, xp.inf)
    return xp.min(level, axis=-1)


def ceiling_level(draft: Array, target: Array, budget: Array) -> Array:
    """Solve sum [p - C q]_+ = budget for C by one sort; infinite when p puts more than budget off q's support.

    C = max_k (P_k - budget) / Q_k over prefix sums, largest p/q first (T2).
    """
    p, q = draft, target
    xp = array_namespace(p, q)
    # a token that neither law knows sorts last and changes no prefix
    ratio = safe_divide(p, q, xp.where(p > 0, xp.inf, -1.0))
    order = xp.argsort(-ratio, axis=-1)
    p_prefix = xp.cumulative_sum(xp.take_along_axis(p, order, axis=-1), axis=-1)
    q_prefix = xp.cumulative_sum(xp.take_along_axis(q, order, axis=-1), axis=-1)
    excess = p_prefix - xp.expand_dims(budget, axis=-1)
    level = safe_divide(excess, q_prefix, xp.where(excess > ROUNDING, xp.inf, -xp.inf))
    return xp.max(level, axis=-1)


def lenient_acceptance(draft: Array, target: Array, ceiling: Array) -> Array:
    """b = min(1, C q / p); 0 where the target has no mass, whatever C.  C broadcasts, `[..., 1]`."""
    p, q = draft, target
    xp = array_namespace(p, q)
    accepted = safe_divide(xp.minimum(ceiling_mass(q, ceiling), p), p, 1.0)
    return xp.where(q > 0, accepted, xp.zeros_like(p))


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
    rejection = positive_part(1.0 - mass(accepted))
    floor = floor_level(accepted, target, rejection)
    residual = positive_part(xp.expand_dims(floor, axis=-1) * target - accepted)
    return normalised(residual, target), floor


def ratio_clip_at_rejection(draft: Array, target: Array, rejection: Array) -> RatioClip:
    """The law that minimises every f-divergence to the target at rejection probability R (T1).

    pi = clip(p, c q, C q) with sum [p - C q]_+ = R = sum [c q - p]_+. Where R exceeds TV(p, q) the row is
    solved at TV, lossless. Where the draft puts L > R mass off the target's support, C is infinite and
    those tokens are accepted with probability 1 - R / L each.
    """
    p, q = draft, target
    xp = array_namespace(p, q)
    budget = xp.minimum(rejection + xp.zeros_like(p[..., 0]), total_variation(p, q))
    ceiling = ceiling_level(p, q, budget)
    ceiling = xp.where(ceiling > 1, ceiling, xp.ones_like(ceiling))
    floor = xp.minimum(floor_level(p, q, budget), xp.ones_like(ceiling))
    off_support = mass(xp.where(q > 0, xp.zeros_like(p), p))
    spared = positive_part(1.0 - safe_divide(budget, off_support, 1.0))
    spared = xp.where(xp.isfinite(ceiling), xp.zeros_like(spared), spared)  # a rounding must not leak
    acceptance = lenient_acceptance(p, q, xp.expand_dims(ceiling, axis=-1))
    acceptance = xp.where((q > 0) | (p <= 0), acceptance, xp.expand_dims(spared, axis=-1))
    residual = positive_part(xp.expand_dims(floor, axis=-1) * q - p)
    return RatioClip(acceptance, normalised(residual, q), floor, ceiling)


def ratio_clip_at_price(draft: Array, target: Array, price: Array | float) -> RatioClip:
    """Minimise KL(pi, q) + price R over all rules: pi = clip(p, c q, c e^price q), sum pi = 1 (T4).

    Price 0 is lossless; an infinite price gives the least rejection among laws of finite KL.
    """
    xp = array_namespace(draft, target)
    price = price + xp.zeros_like(draft[..., 0])
    spread = xp.exp(xp.where(price < LARGEST_PRICE, price, xp.zeros_like(price) + LARGEST_PRICE))
    floor = _floor_at_spread(draft, target, spread)
    ceiling = floor * spread
    acceptance = lenient_acceptance(draft, target, xp.expand_dims(ceiling, axis=-1))
    residual = positive_part(xp.expand_dims(floor, axis=-1) * target - draft)
    return RatioClip(acceptance, normalised(residual, target), floor, ceiling)


def _floor_at_spread(draft: Array, target: Array, spread: Array) -> Array:
    """Solve g(c) = sum clip(p, c q, c s q) = 1 on [1/s, 1] to 1e-14 in mass.

    Newton, safeguarded by bisection in log c. g is increasing and piecewise linear, so a Newton step from the
    solution's own piece lands on it; but g is neither convex nor concave, so a step is taken only inside the
    bracket and only while steps halve the error.
    """
    xp = array_namespace(draft, target)
    p, q, s = draft, target, xp.expand_dims(spread, axis=-1)
    low, high = 1.0 / spread, xp.ones_like(spread)
    c, previous = high, xp.zeros_like(high) + xp.inf
    for _ in range(MOST_STEPS):
        lower = xp.expand_dims(c, axis=-1) * q
        clipped = xp.minimum(xp.maximum(p, lower), s * lower)
        total = mass(clipped)
        error = xp.abs(total - 1.0)
        settled = error <= 1e-14
        if bool(xp.all(settled)):
            break
        # what is not p moves in proportion to c
        slope = (total - mass(xp.where(clipped == p, p, xp.zeros_like(p)))) / c
        low, high = xp.where(total < 1, c, low), xp.where(total < 1, high, c)
        newton = c - safe_divide(total - 1.0, slope, 0.0)
        trusted = (newton > low) & (newton < high) & (error <= previous / 2)
        c = xp.where(settled, c, xp.where(trusted, newton, xp.sqrt(low) * xp.sqrt(high)))
        previous = error
    return c
