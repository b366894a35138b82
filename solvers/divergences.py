"""The f-divergences between an output law and a target law, in one table.

`D_f(output, target) = sum_x target f(output / target)`, f convex with f(1) = 0, zeros by the usual
conventions: `0 f(0/0) = 0` and `0 f(x/0) = x lim f(t)/t`. Adding k (t - 1) to f changes nothing between
laws, so each f here is the representative that is nowhere negative: every term of every sum is >= 0 and
nothing cancels when the laws nearly agree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from array_api_compat import array_namespace

from solvers.arrays import Array, mass, positive_part, safe_divide, safe_log
from solvers.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Divergence:
    """One f-divergence.

    Parameters
    ----------
    name
        Its key in `DIVERGENCES`.
    value
        `(output, target) -> D_f`, laws `[..., vocab]` to `[...]`, in nats where logarithms occur.
    derivative
        `t -> f'(t)` for `0 <= t <= infinity`, elementwise; the extreme values are limits.
    """

    name: str
    value: Callable[[Array, Array], Array]
    derivative: Callable[[Array], Array]


def total_variation(output: Array, target: Array) -> Array:
    """Half the L1 distance, sum [output - target]_+, f(t) = [t - 1]_+."""
    return mass(positive_part(output - target))


def kl(output: Array, target: Array) -> Array:
    """KL(output, target) = sum output log(output / target), f(t) = t log t - t + 1, in nats."""
    xp = array_namespace(output, target)
    zero = xp.zeros_like(output)
    log_ratio = xp.where(output > 0, safe_log(xp.where(output > 0, output, zero + 1.0)) - safe_log(target), zero)
    terms = xp.where(output > 0, output * log_ratio, zero)
    return mass(positive_part(terms - output + target))


def reverse_kl(output: Array, target: Array) -> Array:
    """KL(target, output) = sum target log(target / output), f(t) = t - 1 - log t, in nats."""
    return kl(target, output)


def chi2(output: Array, target: Array) -> Array:
    """Pearson's sum (output - target)^2 / target, f(t) = (t - 1)^2."""
    xp = array_namespace(output, target)
    difference = output - target
    off_support = xp.where(output > 0, xp.zeros_like(output) + xp.inf, xp.zeros_like(output))
    return mass(safe_divide(difference**2, target, off_support))


def hellinger(output: Array, target: Array) -> Array:
    """Squared Hellinger distance 1 - sum sqrt(output target), f(t) = (sqrt(t) - 1)^2 / 2."""
    xp = array_namespace(output, target)
    return mass((xp.sqrt(output) - xp.sqrt(target)) ** 2) / 2


def _step(ratio: Array) -> Array:
    xp = array_namespace(ratio)
    return xp.where(ratio > 1, xp.ones_like(ratio), xp.zeros_like(ratio))


def _reciprocal(ratio: Array) -> Array:
    return safe_divide(array_namespace(ratio).ones_like(ratio), ratio, math.inf)


DIVERGENCES: dict[str, Divergence] = {
    row.name: row
    for row in (
        Divergence(name="tv", value=total_variation, derivative=_step),
        Divergence(name="kl", value=kl, derivative=safe_log),
        Divergence(name="reverse_kl", value=reverse_kl, derivative=lambda t: 1.0 - _reciprocal(t)),
        Divergence(name="chi2", value=chi2, derivative=lambda t: 2.0 * (t - 1.0)),
        Divergence(name="hellinger", value=hellinger, derivative=lambda t: (1.0 - _reciprocal(t) ** 0.5) / 2),
    )
}


def divergence_named(name: str) -> Divergence:
    """Look a divergence up by name.

    Raises
    ------
    InputError
        The name is not in the table.
    """
    if name not in DIVERGENCES:
        raise InputError(f"divergence: expected one of {', '.join(DIVERGENCES)}; got {name!r}")
    return DIVERGENCES[name]
