"""Several drafts of one position: the chance that all fall in a set, and the one law they amount to.

K tokens are drawn from the draft p, with replacement or without; mu(S) is the probability that all of them lie in
a set S of tokens. One of them can be emitted with law pi, except with probability R, iff pi(S) >= mu(S) - R for every
S (docs/theory.md T10, a). For either way of drawing, the sets that matter are the first tokens in the order of p / q
(T10, b): one sort, and running sums over it.

Laws are `[..., vocab]` in float64 and sum to 1; row quantities are `[...]`.
"""

import math

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from solvers.arrays import ROUNDING, Array, like, mass, normalised, positive_part, safe_divide, to_numpy
from solvers.certificate import Certificate
from solvers.divergences import Divergence, total_variation

STEP = 1 / 6
"""Step of the trapezoidal rule in log time. On laws of 6 to 12 tokens with masses down to 1e-150 and 2 to 10
drafts, gains are right to 8e-15 (relative) at 1/6, to 2e-13 at 1/4 and to 4e-9 at 1/3."""

EARLIEST, LATEST = -20.0, 45.0
"""By time exp(EARLIEST) two drafts have arrived with probability 4e-18; an event of rate w is missing at LATEST / w
with probability 3e-20."""


def left_after(draft: Array, law: Array) -> Array:
    """What a rejected draft leaves of a law q, [q - p]_+ normalised, `[..., vocab]`; q itself where it equals p.

    Repeated, it is recursive rejection: q_{m+1} = left_after(p, q_m), lossless for any number of drafts.
    """
    return normalised(positive_part(law - draft), law)


def least_rejection(draft: Array, output: Array, drafts: int, *, replacement: bool = True) -> Array:
    """Least rejection of any selection with this output law: max over sets S of mu(S) - output(S), `[...]`.

    The best sets are the first tokens in the order of draft / output, largest first. For output = target this is
    R_0 = 1 - alpha* (Hu et al., ICLR 2025, arXiv 2502.18779).
    """
    xp = array_namespace(draft, output)
    order = ranking(draft, output)
    gained = chance_gains(xp.take_along_axis(draft, order, axis=-1), drafts, replacement=replacement)
    # differences first: nearly equal laws must not lose theirs in sums near 1
    excess = xp.cumulative_sum(gained - xp.take_along_axis(output, order, axis=-1), axis=-1)
    return positive_part(xp.max(excess, axis=-1))


def effective_draft(draft: Array, target: Array, drafts: int, *, replacement: bool = True) -> Array:
    """Law s of the best way to pick one draft and never reject, for every f-divergence to the target (T10, c).

    With tokens sorted by draft / target, largest first, s / target is the slope of the least concave function above
    the points (target(S), mu(S)), S running through the first tokens. K drafts are worth exactly as much as one
    draft drawn from s: their front is the ratio clip of s and the target.
    """
    if drafts == 1:
        return draft
    p, q = (to_numpy(law).reshape(-1, law.shape[-1]) for law in (draft, target))
    order = ranking(p, q)
    gained = chance_gains(np.take_along_axis(p, order, axis=-1), drafts, replacement=replacement)
    rows = np.empty_like(p)
    for row, ranked, gains, masses in zip(rows, order, gained, q, strict=True):
        row[ranked] = gains
        known = ranked[masses[ranked] > 0]  # where the target has none, every law is equally far from it
        row[known] = _pooled(row[known], masses[known])
    return like(rows.reshape(tuple(draft.shape)), draft)


def chance_gains(draft: Array, drafts: int, *, replacement: bool = True) -> Array:
    """Gain of mu with every further token, in the order given: mu of the first k less mu of the first k - 1.

    Each gain is a sum of nonnegative terms, so a mass of 1e-150 has one that is right to twelve digits.

    Parameters
    ----------
    draft
        Law in the order the tokens join the set, `[..., vocab]`.
    drafts
        K, at least 1. Without replacement no more are drawn than the draft has tokens.
    replacement
        Whether drafts are independent, mu(S) = p(S)^K, or each is drawn from the draft off the others.
    """
    if drafts == 1:
        return draft
    if replacement:
        xp = array_namespace(draft)
        total = xp.cumulative_sum(draft, axis=-1)
        total = total / total[..., -1:]
        share = xp.clip(safe_divide(draft, total, 0.0), 0.0, 1.0)
        with np.errstate(divide="ignore"):  # the first token's share is 1, and the logarithm of 0 is right
            return -(total**drafts) * xp.expm1(drafts * xp.log1p(-share))
    host = to_numpy(draft)
    gains = [_gains_without_replacement(row, drafts) for row in host.reshape(-1, host.shape[-1])]
    return like(np.stack(gains).reshape(host.shape), draft)


def _gains_without_replacement(draft: np.ndarray, drafts: int) -> np.ndarray:
    """The gains of one row, from independent arrival times.

    Draws without replacement are tokens in the order of independent exponential times with rates p. With H the tokens
    so far, x the next one and w the mass of those after x, x is among the first K and these lie in H + x iff the K-th
    arrival in H + x precedes all others and x does not come after it. At time t the K-th is x itself, with density
    p e^{-pt} Pr(N_H(t) = K - 1), or x came before and it is the (K - 1)-th of H; then all others are late with
    probability e^{-wt}. The integral over t is a trapezoidal sum in log t.
    """
    gains = np.zeros_like(draft)
    support = np.flatnonzero(draft)
    if support.size <= drafts:  # all of them are drawn
        gains[support[-1]] = 1.0
        return gains
    rates = draft[support]
    later = np.append(np.cumsum(rates[:0:-1])[::-1], 0.0)
    log_times = np.arange(EARLIEST, math.log(LATEST) - math.log(rates.min()), STEP)
    count = np.zeros((drafts, log_times.size))  # Pr(N_H(t) = j)
    density = np.zeros((drafts, log_times.size))  # t times that of the j-th arrival in H at t; there is no 0-th
    count[0] = 1.0
    for token, rate, others in zip(support, rates, later, strict=True):
        expected = _expected(rate, log_times)
        waits, came = np.exp(-expected), -np.expm1(-expected)
        arrives = expected * waits
        completed = arrives * count[-1] + came * density[-1]
        gains[token] = STEP * np.dot(np.exp(-_expected(others, log_times)), completed)
        density[1:] = waits * density[1:] + came * density[:-1] + arrives * count[:-1]
        count[1:] = waits * count[1:] + came * count[:-1]
        count[0] *= waits
    return gains


def _expected(rate: float, log_times: np.ndarray) -> np.ndarray:
    """Expected arrivals, rate times time; times alone may be beyond float64."""
    if rate <= 0:
        return np.zeros_like(log_times)
    return np.exp(np.minimum(math.log(rate) + log_times, 700.0))


def _pooled(gains: NDArray[np.float64], target: NDArray[np.float64]) -> np.ndarray:
    """Masses in proportion to the target within pools, so that gains / target do not increase from pool to pool.

    Antitonic regression of gains / target with weights target; its pools are the pieces of the concave majorant.
    """
    from scipy.optimize import isotonic_regression  # scipy loads on use

    if not gains.size:
        return gains
    starts = isotonic_regression(gains / target, weights=target, increasing=False).blocks[:-1]
    level = np.add.reduceat(gains, starts) / np.add.reduceat(target, starts)
    return target * np.repeat(level, np.diff(np.append(starts, gains.size)))


def ranking(draft: Array, other: Array) -> Array:
    """Tokens by draft / other, largest first; one without either mass is harmless in any place, and comes early."""
    xp = array_namespace(draft, other)
    return xp.argsort(safe_divide(draft, other, xp.inf), axis=-1, descending=True, stable=True)


def certify_drafts(
    draft: Array,
    target: Array,
    *,
    output: Array,
    budget: Array,
    drafts: int,
    replacement: bool,
    divergence: Divergence,
) -> Certificate:
    """Certify an output law against all selections from K drafts that reject at most `budget`.

    With s = output / target and T_1, T_2, ... the tokens of its largest one, two, ... values, every law pi within reach
    has pi(T_k) >= mu(T_k) - R, and convexity gives (T10, d)

        D(pi, target) >= D(output, target) - sum_k (f'(s_k) - f'(s_{k+1})) (output(T_k) - mu(T_k) + R).

    Parameters
    ----------
    draft, target, output
        Laws `[..., vocab]`, float64.
    budget
        R, `[...]`.
    drafts, replacement
        How drafts are drawn.
    divergence
        Which one.

    Returns
    -------
    Certificate
        `price` is f'(s_1) - f'(s_last); `infeasibility` includes the rejection that the law needs beyond the budget.
    """
    xp = array_namespace(draft, target, output)
    slope, order = _sorted_slopes(target, output, divergence)
    gained = chance_gains(xp.take_along_axis(draft, order, axis=-1), drafts, replacement=replacement)
    # a budget that is not enough shows in the infeasibility; here it would only lift the bound
    slack = positive_part(_slack(xp.take_along_axis(output, order, axis=-1), gained, xp.expand_dims(budget, axis=-1)))
    with np.errstate(invalid="ignore"):
        drop = slope[..., :-1] - slope[..., 1:]
        # an infinite slope where nothing could be moved costs nothing
        lost = mass(xp.where((drop > 0) & ~(xp.isinf(drop) & (xp.abs(slack) <= ROUNDING)), drop * slack, 0 * slack))
        price = slope[..., 0] - slope[..., -1]
    value = divergence.value(output, target)
    finite, zero = xp.isfinite(value), xp.zeros_like(value)
    off_support = least_leak(draft, target, drafts, replacement=replacement)
    # every law within reach has output off the target's support, or none where only the target has mass
    leaks, misses = off_support > budget + ROUNDING, (budget <= 0) & xp.any((draft <= 0) & (target > 0), axis=-1)
    unattainable = (leaks & math.isinf(divergence.slope_at_infinity)) | (misses & math.isinf(divergence.at_zero))
    bound = xp.where(finite & xp.isfinite(lost), positive_part(xp.where(finite, value, zero) - lost), zero)
    broken = xp.max(xp.stack([xp.max(positive_part(-output), axis=-1), xp.abs(mass(output) - 1.0)]), axis=0)
    overspent = positive_part(least_rejection(draft, output, drafts, replacement=replacement) - budget)
    numbers = xp.all(xp.isfinite(output), axis=-1) & xp.isfinite(budget)
    determined = (off_support <= budget + ROUNDING) & divergence.strictly_convex
    return Certificate(
        value=value,
        bound=xp.where(unattainable, zero + xp.inf, bound),
        price=price,
        infeasibility=xp.where(numbers, xp.maximum(broken, overspent), zero + xp.inf),
        unique=finite & (determined | ((total_variation(output, target) <= ROUNDING) & divergence.zero_is_equality)),
    )


def least_leak(draft: Array, target: Array, drafts: int, *, replacement: bool = True) -> Array:
    """Probability that all drafts are off the target's support, `[...]`."""
    xp = array_namespace(draft, target)
    order = ranking(draft, target)
    gained = chance_gains(xp.take_along_axis(draft, order, axis=-1), drafts, replacement=replacement)
    return mass(xp.where(xp.take_along_axis(target, order, axis=-1) > 0, xp.zeros_like(gained), gained))


def _slack(output: Array, gained: Array, budget: Array) -> Array:
    """Output(T_k) - mu(T_k) + R of the first k tokens, but not of all, summed from the end that has less mass."""
    xp = array_namespace(output, gained)
    total, excess = xp.cumulative_sum(output, axis=-1)[..., :-1], output - gained
    above = xp.cumulative_sum(excess, axis=-1)[..., :-1]
    below = -xp.flip(xp.cumulative_sum(xp.flip(excess, axis=-1), axis=-1), axis=-1)[..., 1:]
    return xp.where(total <= 0.5, above, below) + budget


def _sorted_slopes(target: Array, output: Array, divergence: Divergence) -> tuple[Array, Array]:
    """f'(output / target), largest first, with its order; off the target's support any slope up to f'(inf) will do."""
    xp = array_namespace(target, output)
    known = target > 0
    ratio = safe_divide(output, target, 0.0)
    leaks = xp.any(~known & (output > 0), axis=-1, keepdims=True)
    highest = xp.max(ratio, axis=-1, keepdims=True)
    ratio = xp.where(known, ratio, xp.where(leaks, xp.zeros_like(highest) + xp.inf, highest))
    order = xp.argsort(ratio, axis=-1, descending=True, stable=True)
    return divergence.slope(xp.take_along_axis(ratio, order, axis=-1)), order
