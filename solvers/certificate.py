"""Optimality certificates that need no second solver and trust none: everything is recomputed from the answer."""

import math
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from solvers.arrays import ROUNDING, Array, in_pieces, mass, positive_part, safe_divide
from solvers.closed_form import ceiling_mass
from solvers.divergences import Divergence, total_variation
from solvers.printing import lines, spread


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate:
    """What an answer is worth: its value, a bound that no answer beats, and by how much it breaks a constraint.

    Parameters
    ----------
    value
        D_f(output, target) of the answer, `[...]`; over a shared budget, the weighted mean.
    bound
        Dual value of its multipliers: no rule within the rejection budget, or with the answer's rejection where that is
        more, has less, `[...]`.
    price
        The multiplier of the budget, f'(C) - f'(c), `[...]`.
    infeasibility
        The largest violation of 0 <= acceptance <= 1, residual >= 0, sum residual = 1 and rejection <= budget, `[...]`.
    unique
        Whether every optimal rule is known to have this output law, `[...]`. With a strictly convex f they all have it
        on the target's support; elsewhere they may differ in which draft mass they keep. With another f, such as TV
        (Theorem 5), it is known only where nothing may be rejected, or where the output is the target and divergence 0
        means equal laws.
    """

    value: Array
    bound: Array
    price: Array
    infeasibility: Array
    unique: Array

    @property
    def gap(self) -> Array:
        """Value minus bound, `[...]`: at most this is lost to the best answer; zero, up to rounding, at an optimum.

        If it is below zero by more than rounding, something is no law or no rule, and nothing is proved.
        """
        xp = array_namespace(self.value)
        unattainable = ~xp.isfinite(self.value) & (self.value == self.bound)
        finite = xp.where(unattainable, xp.zeros_like(self.value), self.value)
        return finite - xp.where(unattainable, xp.zeros_like(self.bound), self.bound)

    def holds(self, tolerance: float = 1e-6) -> bool:
        """Whether every row is feasible and optimal: infeasibility and |gap| at most `tolerance` (1 + value)."""
        xp = array_namespace(self.value)
        finite = xp.isfinite(self.value)
        allowed = tolerance * (1.0 + xp.where(finite, xp.abs(self.value), xp.zeros_like(self.value)))
        return bool(xp.all((self.infeasibility <= tolerance) & (xp.abs(self.gap) <= allowed)))

    def __repr__(self) -> str:
        verdict = "holds" if self.holds() else "does NOT hold"
        unique = "the only optimal law" if bool(array_namespace(self.unique).all(self.unique)) else "not the only one"
        return lines(
            f"{type(self).__name__} {verdict}: value {spread(self.value)}, within {spread(self.gap)} of the optimum",
            f"infeasibility {spread(self.infeasibility)}; {unique}; .holds(tolerance)",
        )


def certify(
    draft: Array,
    target: Array,
    *,
    acceptance: Array,
    residual: Array,
    budget: Array,
    floor: Array,
    ceiling: Array,
    divergence: Divergence,
    weights: Array | None = None,
) -> Certificate:
    """Certify a rule against all rules that reject at most `budget`.

    Parameters
    ----------
    draft, target, acceptance, residual
        The laws and the rule, `[..., vocab]`, float64.
    budget
        R, `[...]`, or the weighted mean rejection of all rows when `weights` are given.
    floor, ceiling
        The multipliers c and C, `[...]`; wrong ones make the bound lower, never wrong, and no pair c <= C makes it 0.
    divergence
        Which one.
    weights
        `[...]` summing to 1 if the rows share the budget: value, bound and the rest are then about the mean.
    """
    xp = array_namespace(draft, target)
    budget = xp.asarray(budget)
    each_budget = budget + xp.zeros_like(draft[..., 0])

    def rows(*given: Array) -> tuple[Array, ...]:
        return _rows(*given, divergence=divergence)

    value, rejection, intercept, price, broken, off_support, only = in_pieces(
        rows, draft, target, acceptance, residual, each_budget, floor, ceiling
    )
    if weights is not None:
        broken = xp.where(xp.isfinite(weights) & (weights >= 0), broken, xp.zeros_like(broken) + xp.inf)
        lines = _lines_at_common_price(draft, target, floor, divergence, weights, (intercept, price), budget)
        # 0 times infinity is a row that does not occur
        value, rejection, intercept, off_support = (
            xp.sum(xp.where(weights > 0, weights * each, xp.zeros_like(weights)))
            for each in (value, rejection, lines[0], off_support)
        )
        price, broken, only = lines[1], xp.max(broken), xp.all(only)
    # what is spent beyond the budget is told as infeasibility; the bound is on rules that may spend as much
    allowed = xp.where(rejection > budget, rejection, budget + xp.zeros_like(rejection))
    spent = _times(price, allowed)
    known, zero = xp.isfinite(spent), xp.zeros_like(spent)
    # no divergence is negative, and a line of infinite slope says no more than that
    bound = positive_part(xp.where(known, intercept, zero) - xp.where(known, spent, zero))
    if not math.isfinite(divergence.slope_at_infinity):
        # no law within the budget stays on the target's support
        bound = xp.where(off_support > allowed + ROUNDING, xp.zeros_like(bound) + xp.inf, bound)
    return Certificate(
        value=value,
        bound=bound,
        price=price,
        infeasibility=_largest(broken, positive_part(rejection - budget)),
        unique=only,
    )


def _rows(
    draft: Array,
    target: Array,
    acceptance: Array,
    residual: Array,
    budget: Array,
    floor: Array,
    ceiling: Array,
    *,
    divergence: Divergence,
) -> tuple[Array, ...]:
    """Value, rejection, intercept, price, violation, mass off the support and uniqueness of every row, `[...]`."""
    xp = array_namespace(draft, target)
    accepted = acceptance * draft
    rejection = mass(draft - accepted)  # 0 where all is accepted; 1 - sum would be the rounding of the draft's sum
    output = positive_part(accepted + positive_part(xp.expand_dims(rejection, axis=-1)) * residual)
    value = divergence.value(output, target)
    broken = _largest(
        xp.max(positive_part(-acceptance), axis=-1),
        xp.max(positive_part(acceptance - 1.0), axis=-1),
        xp.max(positive_part(-residual), axis=-1),
        xp.abs(mass(residual) - 1.0),
    )
    # a maximum and a positive part are silent about NaN
    numbers = xp.all(xp.isfinite(acceptance) & xp.isfinite(residual), axis=-1) & xp.isfinite(budget)
    broken = xp.where(numbers, broken, xp.zeros_like(broken) + xp.inf)
    off_support = mass(xp.where(target > 0, xp.zeros_like(draft), draft))
    intercept, price = dual_line(draft, target, floor=floor, ceiling=ceiling, divergence=divergence)
    only = _known_unique(output, target, value, rejection, off_support, budget, divergence)
    return value, rejection, intercept, price, broken, off_support, only


def dual_line(
    draft: Array, target: Array, *, floor: Array, ceiling: Array, divergence: Divergence
) -> tuple[Array, Array]:
    """The line D >= intercept - price R below the front, whatever 0 <= c <= C with C > 0 (T5).

    With s = clip(p / q, c, C), convexity gives q f(pi/q) >= q f(s) + f'(s)(pi - q s), and moving mass R
    changes sum f'(s) pi by at most (f'(C) - f'(c)) R, so for every law pi with TV(p, pi) <= R

        D_f(pi, q) >= sum q f(s) + sum f'(s)(p - q s) - (f'(C) - f'(c)) R.

    The line touches the front where c and C are the levels of the ratio clip at R. The price is infinite where
    f'(c) or f'(C) is: such a line says something at R = 0 only. Levels that are no such pair, as c > C or NaN, prove
    nothing: their line is 0, below which no divergence is.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`.
    floor, ceiling
        c and C, `[...]`.
    divergence
        A row of `solvers.divergences.DIVERGENCES`.

    Returns
    -------
    intercept, price
        `[...]`, in the divergence's own unit.
    """
    p, q, f = draft, target, divergence
    xp = array_namespace(p, q)
    zero = xp.zeros_like(p)
    valid = (floor >= 0) & (floor <= ceiling) & (ceiling > 0) & xp.isfinite(floor)
    floor, ceiling = (xp.where(valid, each, xp.ones_like(each)) for each in (floor, ceiling))
    c, big_c = xp.expand_dims(floor, axis=-1), xp.expand_dims(ceiling, axis=-1)
    slope = f.slope(xp.minimum(xp.maximum(safe_divide(p, q, xp.inf), c), big_c))
    clipped = xp.where(q > 0, xp.minimum(xp.maximum(p, c * q), ceiling_mass(q, big_c)), zero)
    moved = p - clipped
    # an infinite slope where nothing moves costs nothing
    linear = mass(xp.where(moved == 0, zero, xp.where(moved == 0, zero, slope) * moved))
    with np.errstate(invalid="ignore"):
        price = f.slope(ceiling) - f.slope(floor)
    price = xp.where(xp.isnan(price), xp.zeros_like(price) + xp.inf, price)  # both slopes infinite
    return xp.where(valid, f.value(clipped, q) + linear, xp.zeros_like(linear)), price


def _known_unique(
    output: Array,
    target: Array,
    value: Array,
    rejection: Array,
    off_support: Array,
    budget: Array,
    divergence: Divergence,
) -> Array:
    """Whether no other law within the budget can have this value, were it the least, row by row."""
    if divergence.strictly_convex:
        lossless = value <= ROUNDING
        return array_namespace(value).isfinite(value) & (
            lossless | (rejection <= ROUNDING) | (off_support <= rejection + ROUNDING)
        )
    lossless = (total_variation(output, target) <= ROUNDING) & divergence.zero_is_equality
    return array_namespace(value).isfinite(value) & (lossless | (budget <= ROUNDING))


def _lines_at_common_price(
    draft: Array,
    target: Array,
    floor: Array,
    divergence: Divergence,
    weights: Array,
    lines: tuple[Array, Array],
    budget: Array,
) -> tuple[Array, Array]:
    """Intercepts of lines below every row's front that fall no faster than one price, `[...]`, and that price.

    A row's own line will do where its price is the common one, or less because nothing is rejected there. At a
    kink of its front (R = its mass off the support) its levels allow a range of prices: there the ceiling is the
    one that belongs to its floor at the common price.
    """
    intercept, price = lines
    xp, f = array_namespace(price), divergence
    zero = xp.zeros_like(price)
    usable = (weights > 0) & (xp.isfinite(price) | (budget <= 0))
    common = xp.max(xp.where(usable, price, zero))
    slope = f.slope(floor)
    finite = xp.isfinite(slope) & xp.isfinite(common)
    raised = f.ratio_at(xp.where(finite, slope, zero) + xp.where(finite, common, zero))
    other, dearer = in_pieces(
        lambda draft, target, floor, ceiling: dual_line(draft, target, floor=floor, ceiling=ceiling, divergence=f),
        *(draft, target, floor, xp.maximum(raised, xp.ones_like(raised))),
    )
    fits = finite & (dearer <= common + ROUNDING * (1.0 + common))
    # no divergence is negative: the line 0 always fits
    own = xp.where(usable, intercept, zero)
    intercept = xp.maximum(xp.maximum(own, xp.where(fits, other, zero)), zero)
    return intercept, xp.maximum(common, xp.max(xp.where(fits & (weights > 0), dearer, zero)))


def _times(price: Array, budget: Array) -> Array:
    """Price times budget; an infinite price of no rejection costs nothing."""
    xp = array_namespace(price)
    budget = budget + xp.zeros_like(price)
    return xp.where(budget > 0, xp.where(budget > 0, price, xp.zeros_like(price)) * budget, xp.zeros_like(price))


def _largest(*violations: Array) -> Array:
    xp = array_namespace(*violations)
    return xp.max(xp.stack(violations, axis=0), axis=0)
