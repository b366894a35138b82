"""The one door where laws are checked: (draft, target) in, a validated float64 problem out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj

from solvers.arrays import Array, mass, without_gradient
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
        The floating type laws are given back in: the caller's, but float32 at least. A rule in bfloat16 or float16
        is not the rule that was solved for: its acceptance alone is off by 1e-3.
    """

    draft: Array
    target: Array
    dtype: object

    def restored(self, law: Array) -> Array:
        """Give a law back in the caller's own floating type."""
        return array_namespace(law).astype(law, self.dtype)


def validated(draft: Array, target: Array, *, normalise: bool = False, draft_name: str = "draft") -> Problem:
    """Check a pair of laws and convert it to float64.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]` of equal shape, both numpy (or nested lists) or both of one other array library.
    normalise
        Accept rows of any positive sum and divide by it.
    draft_name
        What messages call the first law.

    Raises
    ------
    InputError
        Unlike libraries, devices or shapes, no vocabulary, NaN, infinity, negative mass, a sum that is not 1.
    """
    draft, target = _as_array(draft, draft_name), _as_array(target, "target")
    try:
        xp = array_namespace(draft, target)
    except TypeError:
        raise InputError(
            f"{draft_name} and target: expected one array library; got {type(draft).__name__} and "
            f"{type(target).__name__}; convert one of them"
        ) from None
    if draft.shape != target.shape:
        raise InputError(
            f"{draft_name} and target: expected equal shapes [..., vocab]; got {tuple(draft.shape)} and "
            f"{tuple(target.shape)}; cut both laws to their common vocabulary first"
        )
    if device(draft) != device(target):
        raise InputError(
            f"{draft_name} and target: expected one device; got {device(draft)} and {device(target)}; move one of them"
        )
    if draft.ndim == 0 or 0 in draft.shape:
        raise InputError(f"laws: expected at least one token, [..., vocab]; got shape {tuple(draft.shape)}")
    dtype = xp.result_type(draft, target)
    if xp.isdtype(dtype, "bool"):
        raise InputError("laws: expected real numbers; got booleans; pass probabilities")
    floating = xp.isdtype(dtype, "real floating")
    if not floating and not xp.isdtype(dtype, "integral"):
        raise InputError(f"laws: expected real numbers; got {dtype}; pass probabilities")
    return Problem(
        draft=_checked(draft, draft_name, normalise),
        target=_checked(target, "target", normalise),
        dtype=xp.result_type(dtype, xp.float32) if floating else xp.float64,
    )


def _as_array(law: Any, name: str) -> Array:
    if is_array_api_obj(law):
        return without_gradient(law)
    try:
        return np.asarray(law)
    except ValueError:
        raise InputError(f"{name} law: expected rows of equal length, [..., vocab]; got ragged nested lists") from None


def _checked(law: Array, name: str, normalise: bool) -> Array:
    xp = array_namespace(law)
    resolution = xp.finfo(law.dtype).eps if xp.isdtype(law.dtype, "real floating") else 0.0
    law = xp.astype(law, xp.float64, copy=False)
    if not bool(xp.all(xp.isfinite(law))):
        raise InputError(f"{name} law: expected finite probabilities; got NaN or infinity; check its logits")
    if bool(xp.any(law < 0)):
        raise InputError(
            f"{name} law: expected probabilities >= 0; got {float(xp.min(law)):.3g}; pass probabilities, not logits"
        )
    with np.errstate(over="ignore"):  # an infinite sum is told below
        total = mass(law, keepdims=True)
    if normalise and not bool(xp.all((total > 0) & xp.isfinite(total))):
        raise InputError(f"{name} law: expected rows with a positive sum; got a row of zeros or one that overflows")
    tolerance = max(SUM_TOLERANCE, 2.0 * float(resolution))
    if not normalise and bool(xp.any(xp.abs(total - 1.0) > tolerance)):
        worst = float(total[xp.abs(total - 1.0) == xp.max(xp.abs(total - 1.0))][0])
        raise InputError(
            f"{name} law: expected probabilities that sum to 1 within {tolerance:.0e}; got a row that sums to "
            f"{worst:.8g}; if its masses are right up to scale, pass normalise=True"
        )
    law = law / total
    tiny = law < SMALLEST_MASS
    # most laws have zeros at most, which need no copy
    return xp.where(tiny, xp.zeros_like(law), law) if bool(xp.any(tiny & (law > 0))) else law


def checked_probabilities(values: Any, name: str, like: Array) -> Array:
    """Check one probability per token, float64 in the laws' own library and shape.

    Raises
    ------
    InputError
        What is no array of real numbers, another shape, a number outside [0, 1], NaN.
    """
    xp = array_namespace(like)
    kind = str(getattr(values, "dtype", ""))
    if "complex" in kind:
        raise InputError(f"{name}: expected real numbers; got {kind}; pass probabilities")
    try:
        chosen = xp.asarray(without_gradient(values), dtype=xp.float64, device=device(like))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: expected an array of probabilities; got {type(values).__name__}") from None
    if chosen.shape != like.shape:
        raise InputError(
            f"{name}: expected one probability per token, shape {tuple(like.shape)}; got {tuple(chosen.shape)}"
        )
    if not bool(xp.all((chosen >= 0) & (chosen <= 1))):
        raise InputError(f"{name}: expected probabilities in [0, 1]; got one outside, or NaN; clip them first")
    return chosen


def checked_numbers(values: Any, name: str, like: Array, *, most: float = float("inf")) -> Array:
    """Check numbers between 0 and `most` and broadcast them to the shape of `like`.

    Raises
    ------
    InputError
        No numbers, NaN, below 0, above `most`, a shape that does not broadcast.
    """
    xp = array_namespace(like)
    # through plain numbers, so that a numpy or list budget meets torch laws on any device
    try:
        plain = values.tolist() if hasattr(values, "tolist") else np.asarray(values, dtype=np.float64).tolist()
        numbers = np.asarray(plain, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: expected a number or numbers; got {repr(values)[:80]}") from None
    if not ((numbers >= 0) & (numbers <= most)).all():
        limit = "at least 0" if most == float("inf") else f"between 0 and {most:g}"
        raise InputError(f"{name}: expected {limit}; got {values}")
    try:
        numbers = np.broadcast_to(numbers, tuple(like.shape)).copy()
    except ValueError:
        raise InputError(
            f"{name}: expected one number, or one to a row of shape {tuple(like.shape)}; got shape {numbers.shape}"
        ) from None
    return xp.asarray(numbers, dtype=xp.float64, device=device(like))
