"""An optimality certificate that needs no second solver: a lower bound from two multipliers."""

from array_api_compat import array_namespace

from solvers.arrays import ROUNDING, Array, mass, safe_divide
from solvers.closed_form import ceiling_mass
from solvers.divergences import Divergence


def dual_bound(
    draft: Array, target: Array, rejection: Array, *, floor: Array, ceiling: Array, divergence: Divergence
) -> Array:
    """Bound D_f(pi, q) from below over every law pi with TV(p, pi) <= R, whatever 0 <= c <= C with C > 0 (T5).

    With s = clip(p / q, c, C), convexity gives q f(pi/q) >= q f(s) + f'(s)(pi - q s), and moving mass R
    changes sum f'(s) pi by at most (f'(C) - f'(c)) R, so

        D_f(pi, q) >= sum q f(s) + sum f'(s)(p - q s) - (f'(C) - f'(c)) R.

    The bound is attained by the ratio clip at R. It is minus infinity (vacuous) where f'(c) or f'(C) is
    not finite, and plus infinity where the draft puts more than R off the target's support and f charges
    infinitely for that.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`.
    rejection, floor, ceiling
        R, c and C, `[...]`.
    divergence
        A row of `solvers.divergences.DIVERGENCES`.

    Returns
    -------
    Array
        `[...]`, in the divergence's own unit.
    """
    p, q, f = draft, target, divergence
    xp = array_namespace(p, q)
    zero, infinity = xp.zeros_like(p), xp.zeros_like(floor) + xp.inf
    c, big_c = xp.expand_dims(floor, axis=-1), xp.expand_dims(ceiling, axis=-1)
    slope = f.derivative(xp.minimum(xp.maximum(safe_divide(p, q, xp.inf), c), big_c))
    clipped = xp.where(q > 0, xp.minimum(xp.maximum(p, c * q), ceiling_mass(q, big_c)), zero)
    moved = p - clipped
    # an infinite slope where nothing moves, or an infinite price of no rejection, costs nothing
    linear = mass(xp.where(moved == 0, zero, xp.where(moved == 0, zero, slope) * moved))
    price = xp.where(rejection > 0, f.derivative(ceiling) - f.derivative(floor), xp.zeros_like(floor))
    bounded = xp.isfinite(price)
    bound = f.value(clipped, q) + linear - xp.where(bounded, price, xp.zeros_like(price)) * rejection
    off_support = mass(xp.where(q > 0, zero, p))
    unattainable = (off_support > rejection + ROUNDING) & ~xp.isfinite(f.derivative(infinity))
    return xp.where(unattainable, infinity, xp.where(bounded, bound, -infinity))
