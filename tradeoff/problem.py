"""The one door where laws are checked: (draft, target) in, a validated float64 problem out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj

from solvers.arrays import Array, mass
from solvers.errors import InputError

SUM_TOLERANCE = 2e-5
"""How far a law may be from sum 1: float32 softmax over 150k tokens strays by about 1e-6, a law that was
truncated and not renormalised by 1e-4 and more. Half-precision laws get two units of their own rounding."""


SMALLEST_MASS = float(np.finfo(np.float64).tiny)
"""Subnormal masses count as zero: their reciprocals, hence likelihood ratios, are beyond float64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A draft law and a target law that can be trusted.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`, float64, non-negative, summing to 1 (rescaled from within the tolerance).
    dtype
        The floating type laws are given back in.
    """

    draft: Array
    target: Array
    dtype: object

    def restored(self, law: Array) -> Array:
        """Give a law back in the caller's own floating type."""
        return array_namespace(law).astype(law, self.dtype)


def validated(draft: Array, target: Array) -> Problem:
    """Check a pair of laws and convert it to float64.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]` of equal shape, both numpy (or nested lists) or both of one other array library.

    Raises
    ------
    InputError
        Unlike libraries or shapes, no vocabulary, NaN, infinity, negative mass, a sum that is not 1.
    """
    draft, target = _as_array(draft, "draft"), _as_array(target, "target")
    try:
        xp = array_namespace(draft, target)
    except TypeError:
        raise InputError(
            f"draft and target: expected one array library; got {type(draft).__name__} and "
            f"{type(target).__name__}; convert one of them"
        ) from None
    if draft.shape != target.shape:
        raise InputError(
            f"draft and target: expected equal shapes [..., vocab]; got {tuple(draft.shape)} and "
            f"{tuple(target.shape)}; cut both laws to their common vocabulary first"
        )
    if draft.ndim == 0 or 0 in draft.shape:
        raise InputError(f"laws: expected at least one token, [..., vocab]; got shape {tuple(draft.shape)}")
    dtype = xp.result_type(draft, target)
    floating = xp.isdtype(dtype, "real floating")
    if not floating and not xp.isdtype(dtype, "integral"):
        raise InputError(f"laws: expected real numbers; got {dtype}; pass probabilities")
    return Problem(
        draft=_checked(draft, "draft"),
        target=_checked(target, "target"),
        dtype=dtype if floating else xp.float64,
    )


def _as_array(law: Any, name: str) -> Array:
    if is_array_api_obj(law):
        return law
    try:
        return np.asarray(law)
    except ValueError:
        raise InputError(f"{name} law: expected rows of equal length, [..., vocab]; got ragged nested lists") from None


def _checked(law: Array, name: str) -> Array:
    xp = array_namespace(law)
    resolution = xp.finfo(law.dtype).eps if xp.isdtype(law.dtype, "real floating") else 0.0
    law = xp.astype(law, xp.float64)
    if not bool(xp.all(xp.isfinite(law))):
        raise InputError(f"{name} law: expected finite probabilities; got NaN or infinity; check its logits")
    if bool(xp.any(law < 0)):
        raise InputError(
            f"{name} law: expected probabilities >= 0; got {float(xp.min(law)):.3g}; pass probabilities, not logits"
        )
    total = mass(law, keepdims=True)
    tolerance = max(SUM_TOLERANCE, 2.0 * float(resolution))
    if bool(xp.any(xp.abs(total - 1.0) > tolerance)):
        worst = float(xp.max(xp.abs(total - 1.0)))
        raise InputError(
            f"{name} law: expected probabilities that sum to 1 within {tolerance:.0e}; a row misses it by "
            f"{worst:.6g}; divide by the sum if that is what you mean"
        )
    law = law / total
    return xp.where(law < SMALLEST_MASS, xp.zeros_like(law), law)


def checked_rejection(rejection: Any, total_variation: Array) -> Array:
    """Check rejection budgets against the pair's TV and broadcast them to its rows, `[...]`.

    Raises
    ------
    InputError
        NaN, below 0, or above TV(draft, target), where there is no bias left to trade.
    """
    xp = array_namespace(total_variation)
    # through plain numbers, so that a numpy or list budget meets torch laws on any device
    try:
        plain = rejection.tolist() if hasattr(rejection, "tolist") else np.asarray(rejection, dtype=np.float64).tolist()
    except (TypeError, ValueError):
        raise InputError(f"rejection: expected a number or numbers; got {rejection!r}") from None
    wanted = xp.asarray(plain, dtype=xp.float64, device=device(total_variation)) + xp.zeros_like(total_variation)
    if bool(xp.any(~(wanted >= 0))):
        raise InputError(f"rejection: expected a probability between 0 and TV(draft, target); got {rejection}")
    # a budget equal to the TV may come out of a float32 sum
    if bool(xp.any(wanted > total_variation + SUM_TOLERANCE)):
        least = float(xp.min(total_variation))
        raise InputError(
            f"rejection: expected at most TV(draft, target) = {least:.6g}, where decoding is already lossless; "
            f"got {float(xp.max(wanted)):.6g}; ask for less"
        )
    return xp.minimum(wanted, total_variation)
