"""The f-divergences between an output law and a target law, in one table.

`D_f(output, target) = sum_x target f(output / target)`, f convex with f(1) = 0, zeros by the usual
conventions: `0 f(0/0) = 0` and `0 f(x/0) = x f'(infinity)`. Adding k (t - 1) to f changes nothing between
laws, so each f here is the representative with f'(1) = 0, which is nowhere negative: every term of every sum
is >= 0. Each term is computed from the difference of its two masses (`solvers.divergence_terms`), so nothing
cancels when the laws nearly agree.

One row of the table serves numpy, torch and every other array library, the certificate, and cvxpy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from solvers import divergence_terms as terms
from solvers.arrays import Array, like, mass, positive_part, to_numpy
from solvers.convexity import check_convex, flat_interval
from solvers.errors import InputError
from solvers.roots import monotone_root

LEAST_ORDER = 1e-200
"""Alpha orders nearer to 0 are 0: they differ by |order| log(ratio)^2 relative, and smaller ones would underflow."""

LEAST_PROGRAM_ORDER = 1e-3
"""cvxpy is not given alpha orders nearer to 0 or 1: its 1e-9 would be 1e-6 there and worse."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Divergence:
    """One f-divergence; make your own with `f_divergence`.

    Parameters
    ----------
    name
        Its key in `DIVERGENCES`.
    label
        For the axis of a figure, with the unit.
    terms
        `(x, y) -> y f(x / y)` elementwise for x, y > 0.
    derivative
        `t -> f'(t)` elementwise for 0 < t < infinity.
    inverse_derivative
        `u -> t` with f'(t) = u, elementwise for f'(0) < u < f'(infinity).
    at_zero, slope_at_zero, slope_at_infinity
        f(0), f'(0) and f'(infinity), as limits.
    strictly_convex
        Whether the best output law is unique.
    flat
        The interval around 1 where f = 0: longer than a point only where f is not strictly convex there.
    program
        `(cvxpy, x, y) -> sum y f(x / y)` as a disciplined convex expression in x, y > 0; None where there is none.
    """

    name: str
    label: str
    terms: Callable[[Array, Array], Array]
    derivative: Callable[[Array], Array]
    inverse_derivative: Callable[[Array], Array]
    at_zero: float
    slope_at_zero: float
    slope_at_infinity: float
    strictly_convex: bool = True
    flat: tuple[float, float] = (1.0, 1.0)
    program: Callable[[Any, Any, Any], Any] | None = None

    @property
    def zero_is_equality(self) -> bool:
        """Whether divergence 0 means equal laws: not so where f is flat on both sides of 1."""
        return 1.0 in self.flat  # both laws sum to 1: ratios that are all at most 1, or all at least 1, are 1

    def value(self, output: Array, target: Array) -> Array:
        """D_f(output, target) over the last axis, `[..., vocab]` to `[...]`; nats where logarithms occur."""
        return mass(self.elements(output, target))

    def elements(self, output: Array, target: Array) -> Array:
        """The summands target f(output / target), with the conventions at zero, elementwise."""
        xp = array_namespace(output, target)
        one = xp.ones_like(output + target)
        both = (output > 0) & (target > 0)
        with np.errstate(over="ignore"):  # infinity is the right answer
            terms = positive_part(self.terms(xp.where(both, output, one), xp.where(both, target, one)))
        off = _times(target, self.at_zero) + _times(output, self.slope_at_infinity)
        return xp.where(both, terms, xp.where((output > 0) | (target > 0), off, 0 * one))

    def function(self, ratio: Array) -> Array:
        """f(t) for 0 <= t < infinity, elementwise."""
        return self.elements(ratio, array_namespace(ratio).ones_like(ratio))

    def slope(self, ratio: Array) -> Array:
        """f'(t) for 0 <= t <= infinity, elementwise."""
        xp = array_namespace(ratio)
        inside = (ratio > 0) & xp.isfinite(ratio)
        one = xp.ones_like(ratio)
        ends = xp.where(ratio > 0, self.slope_at_infinity * one, self.slope_at_zero * one)
        with np.errstate(over="ignore"):
            return xp.where(inside, self.derivative(xp.where(inside, ratio, one)), ends)

    def ratio_at(self, slope: Array) -> Array:
        """The t with f'(t) = slope, elementwise; 0 or infinity where the slope is beyond every f'(t)."""
        xp = array_namespace(slope)
        inside = (slope > self.slope_at_zero) & (slope < self.slope_at_infinity)
        zero = xp.zeros_like(slope)
        ends = xp.where(slope <= self.slope_at_zero, zero, zero + math.inf)
        return xp.where(inside, self.inverse_derivative(xp.where(inside, slope, zero)), ends)


def _times(masses: Array, factor: float) -> Array:
    """Mass times a number that may be infinite, with 0 * infinity = 0."""
    xp = array_namespace(masses)
    if math.isfinite(factor):
        return masses * factor
    return xp.where(masses > 0, xp.zeros_like(masses) + factor, xp.zeros_like(masses))


def total_variation(output: Array, target: Array) -> Array:
    """Half the L1 distance, sum [output - target]_+, f(t) = [t - 1]_+."""
    return mass(positive_part(output - target))


def _program(cp: Any, x: Any, y: Any, terms: Callable[[Any, Any], Any], share: float = 0.5) -> Any:
    """Sum y f(x / y) for cvxpy, every term in x / y^share and y^(1 - share).

    A solver wants the entries of a cone of like size, and neither (x, y) nor (x / y, 1) are. On 190 pairs with masses
    down to 1e-12, three problems each, one set of solver settings, KL misses the optimum by more than 1e-6 (relative)
    5 times in (x, y) and never with a share of 1/2.
    """
    scale = y**share
    return cp.sum(cp.multiply(scale, terms(cp.multiply(1 / scale, x), y / scale)))


def _alpha_program(cp: Any, x: Any, y: Any, order: float) -> Any:
    """Sum of the alpha-divergence of any order but 0 and 1, for cvxpy."""
    a = order
    if a == 2:
        return cp.sum_squares(cp.multiply(x - y, y**-0.5)) / 2

    def terms(u: Any, v: Any) -> Any:
        # power cones are exact at every order; at these two, few second-order cones are too, and steadier
        power = cp.power(u, a, approx=a in (0.5, 1.5))
        return cp.multiply(v ** (1 - a), power) / (a * (a - 1)) - u / (a - 1) + v / a

    # at order -1, on 7 pairs of 200 to 1000 tokens: off by more than 1e-6 in 9 problems of 21 at 1/2, in none at 2/3
    return _program(cp, x, y, terms, share=2 / 3 if a < 0 else 1 / 2)


DIVERGENCES: dict[str, Divergence] = {
    row.name: row
    for row in (
        Divergence(
            name="tv",
            label="TV(output, target)",
            terms=lambda x, y: positive_part(x - y),
            derivative=lambda t: array_namespace(t).where(t > 1, 0 * t + 1.0, 0 * t),
            inverse_derivative=lambda u: 0 * u + 1.0,
            at_zero=0.0,
            slope_at_zero=0.0,
            slope_at_infinity=1.0,
            strictly_convex=False,
            flat=(0.0, 1.0),
            program=lambda cp, x, y: cp.sum(cp.pos(x - y)),
        ),
        Divergence(
            name="kl",
            label="KL(output, target), nats",
            terms=terms.kl,
            derivative=terms.log,
            inverse_derivative=terms.exp,
            at_zero=1.0,
            slope_at_zero=-math.inf,
            slope_at_infinity=math.inf,
            program=lambda cp, x, y: _program(cp, x, y, cp.kl_div),
        ),
        Divergence(
            name="reverse_kl",
            label="KL(target, output), nats",
            terms=lambda x, y: terms.kl(y, x),
            derivative=lambda t: (t - 1.0) / t,
            inverse_derivative=lambda u: 1.0 / (1.0 - u),
            at_zero=math.inf,
            slope_at_zero=-math.inf,
            slope_at_infinity=1.0,
            program=lambda cp, x, y: _program(cp, x, y, lambda u, v: cp.kl_div(v, u)),
        ),
        Divergence(
            name="chi2",
            label="chi-square(output, target)",
            terms=lambda x, y: (x - y) * ((x - y) / y),
            derivative=lambda t: 2.0 * (t - 1.0),
            inverse_derivative=lambda u: 1.0 + u / 2.0,
            at_zero=1.0,
            slope_at_zero=-2.0,
            slope_at_infinity=math.inf,
            program=lambda cp, x, y: 2 * _alpha_program(cp, x, y, 2.0),
        ),
        Divergence(
            name="reverse_chi2",
            label="chi-square(target, output)",
            terms=lambda x, y: (x - y) * ((x - y) / x),
            derivative=lambda t: -terms.expm1(-2.0 * terms.log(t)),
            inverse_derivative=lambda u: (1.0 - u) ** -0.5,
            at_zero=math.inf,
            slope_at_zero=-math.inf,
            slope_at_infinity=1.0,
            program=lambda cp, x, y: 2 * _alpha_program(cp, x, y, -1.0),
        ),
        Divergence(
            name="hellinger",
            label="squared Hellinger(output, target)",
            terms=lambda x, y: ((x - y) / (terms.sqrt(x) + terms.sqrt(y))) ** 2 / 2,
            derivative=lambda t: -terms.expm1(-terms.log(t) / 2) / 2,
            inverse_derivative=lambda u: (1.0 - 2.0 * u) ** -2.0,
            at_zero=0.5,
            slope_at_zero=-math.inf,
            slope_at_infinity=0.5,
            program=lambda cp, x, y: _alpha_program(cp, x, y, 0.5) / 4,
        ),
        Divergence(
            name="js",
            label="Jensen-Shannon(output, target), nats",
            terms=terms.js,
            derivative=lambda t: -terms.log1p((1.0 - t) / t / 2) / 2,
            inverse_derivative=lambda u: 1.0 / (1.0 + 2.0 * terms.expm1(-2.0 * u)),
            at_zero=math.log(2) / 2,
            slope_at_zero=-math.inf,
            slope_at_infinity=math.log(2) / 2,
            program=lambda cp, x, y: _program(
                cp, x, y, lambda u, v: (cp.kl_div(u, (u + v) / 2) + cp.kl_div(v, (u + v) / 2)) / 2
            ),
        ),
    )
}


def alpha_divergence(order: float) -> Divergence:
    """The alpha-divergence, f(t) = (t^a - a t + a - 1) / (a (a - 1)).

    Order 1 is KL(output, target), 0 is KL(target, output), 2 is half of chi-square, -1 half of chi-square(target,
    output), 1/2 four times the squared Hellinger distance (Cressie and Read 1984; Amari 2009).

    Parameters
    ----------
    order
        Any finite a.

    Raises
    ------
    InputError
        An order that is not finite.
    """
    if not isinstance(order, int | float | np.number) or not abs(order) < 1e300:
        raise InputError(f"alpha: expected a finite order; got {repr(order)[:80]}")
    a = float(order)
    if a == 1.0 or abs(a) < LEAST_ORDER:
        return DIVERGENCES["kl" if a == 1 else "reverse_kl"]
    name = f"alpha={int(a)}" if a == int(a) else f"alpha={a!r}"
    # as powers the program is a small difference of large numbers there
    solvable = min(abs(a), abs(a - 1)) >= LEAST_PROGRAM_ORDER
    return Divergence(
        name=name,
        label=f"{name} divergence(output, target)",
        terms=lambda x, y: terms.alpha(x, y, a),
        derivative=lambda t: terms.expm1((a - 1) * terms.log(t)) / (a - 1),
        inverse_derivative=lambda u: terms.exp(terms.log1p((a - 1) * u) / (a - 1)),
        at_zero=1 / a if a > 0 else math.inf,
        slope_at_zero=-1 / (a - 1) if a > 1 else -math.inf,
        slope_at_infinity=math.inf if a > 1 else 1 / (1 - a),
        program=(lambda cp, x, y: _alpha_program(cp, x, y, a)) if solvable else None,
    )


def f_divergence(
    function: Callable[[Array], Array],
    derivative: Callable[[Array], Array],
    *,
    name: str = "custom",
    at_zero: float | None = None,
    slope_at_zero: float | None = None,
    slope_at_infinity: float | None = None,
    strictly_convex: bool = False,
) -> Divergence:
    """Make a divergence of your own convex f.

    D(output, target) = sum target f(output / target). Between laws that nearly agree it has the digits that your f has
    near 1, about 1e-16 of its values there; the rows of the table have twelve digits everywhere.

    f and f' are checked at some 20,000 ratios from 1e-6 to 1e6, denser around 1: f' must not decrease, and every chord
    must lie between the slopes at its ends. What lies wholly between two of them, or beyond, is not seen.

    Parameters
    ----------
    function, derivative
        f and a nondecreasing f', elementwise on float64 arrays of the library the laws come in; f(1) = 0.
        Operators and methods that numpy and torch share serve both.
    name
        For tables and figures.
    at_zero, slope_at_zero, slope_at_infinity
        f(0), f'(0), f'(infinity); by default what `function` and `derivative` return there.
    strictly_convex
        Say so if it is: certificates then state that the best law is unique.
        Where f is flat around 1, other laws than the target have divergence 0, and less rejection than TV has it too.

    Raises
    ------
    InputError
        f(1) is not 0, an end that cannot be evaluated, a derivative that decreases or is not the slope of f, or that
        is constant near 1 with `strictly_convex`.
    """
    for each in (function, derivative):
        if not callable(each) or isinstance(each, type):
            raise InputError(f"{name}: expected functions of an array, f and f'; got {type(each).__name__}")
    for key, end in (("at_zero", at_zero), ("slope_at_zero", slope_at_zero), ("slope_at_infinity", slope_at_infinity)):
        if end is not None and not isinstance(end, int | float | np.number):
            raise InputError(f"{name}: expected {key}= a number; got {type(end).__name__}")
    with np.errstate(all="ignore"):
        ends, one = np.array([0.0, math.inf]), np.array([1.0])
        f_one, slope_one = (float(np.asarray(each(one))[0]) for each in (function, derivative))
        found = (np.asarray(function(ends[:1]))[0], *np.asarray(derivative(ends)))
    given = (at_zero, slope_at_zero, slope_at_infinity)
    labels = ("at_zero", "slope_at_zero", "slope_at_infinity")
    limits = {key: float(f if g is None else g) for key, g, f in zip(labels, given, found, strict=True)}
    for key, limit in limits.items():
        if math.isnan(limit):
            raise InputError(f"{name}: f or f' gives NaN at its end; pass {key}=, a number or infinity")
    if not abs(f_one) <= 1e-12:
        raise InputError(f"{name}: expected f(1) = 0; got {f_one:.6g}; subtract it")
    check_convex(name, function, derivative)
    flat = flat_interval(derivative, slope_one)
    if strictly_convex and flat != (1.0, 1.0):
        raise InputError(
            f"{name}: expected a strictly convex f; got one that is straight from {flat[0]:.6g} to {flat[1]:.6g}; "
            "leave strictly_convex out"
        )

    def shifted(ratio: Array) -> Array:
        return derivative(ratio) - slope_one

    return Divergence(
        name=name,
        label=f"{name}(output, target)",
        terms=lambda x, y: y * (function(x / y) - f_one) - slope_one * (x - y),
        derivative=shifted,
        inverse_derivative=lambda slope: _inverse(shifted, slope),
        at_zero=limits["at_zero"] - f_one + slope_one,
        slope_at_zero=limits["slope_at_zero"] - slope_one,
        slope_at_infinity=limits["slope_at_infinity"] - slope_one,
        strictly_convex=strictly_convex,
        flat=flat,
    )


def _inverse(derivative: Callable[[Array], Array], slope: Array) -> Array:
    """Solve f'(t) = slope in log t."""

    def residual(log_ratio: np.ndarray) -> np.ndarray:
        return to_numpy(derivative(like(np.exp(log_ratio), slope))) - wanted

    wanted = to_numpy(slope)
    root = monotone_root(residual, low=np.full(wanted.shape, -700.0), high=np.full(wanted.shape, 700.0))
    return like(np.exp(root.value), slope)


def divergence_named(divergence: "str | Divergence") -> Divergence:
    """Look a divergence up: a name of `DIVERGENCES`, "alpha=0.5" for any order, or a `Divergence` itself.

    Raises
    ------
    InputError
        The name is not in the table.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if isinstance(divergence, str) and divergence in DIVERGENCES:
        return DIVERGENCES[divergence]
    prefix, _, order = str(divergence).partition("=")
    if prefix == "alpha":
        try:
            number = float(order)
        except ValueError:
            number = None  # told below
        if number is not None:
            return alpha_divergence(number)
    raise InputError(f"divergence: expected one of {', '.join(DIVERGENCES)} or alpha=<order>; got {divergence!r}")
