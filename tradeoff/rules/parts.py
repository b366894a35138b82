"""What the rules are made of: acceptances, replacements, and the checks of their knobs."""

import math
from collections.abc import Callable
from numbers import Integral, Real

from array_api_compat import array_namespace, device

from solvers.arrays import Array, normalised, positive_part, safe_divide
from solvers.errors import InputError


def ratio(draft: Array, target: Array) -> Array:
    """Return target / draft, `[..., vocab]`; 1 for a token the draft never proposes."""
    return safe_divide(target, draft, 1.0)


def capped(acceptance: Array) -> Array:
    """Return min(1, acceptance)."""
    return array_namespace(acceptance).clip(acceptance, 0.0, 1.0)


def ordinary_residual(draft: Array, target: Array) -> Array:
    """[target - draft]_+, normalised, `[..., vocab]`: what lossless sampling draws after a rejection."""
    return normalised(positive_part(target - draft), target)


def greedy_law(law: Array) -> Array:
    """Point mass on the likeliest token, the first of several, `[..., vocab]`."""
    xp = array_namespace(law)
    tokens = xp.arange(law.shape[-1], device=device(law))
    return xp.astype(tokens == xp.argmax(law, axis=-1, keepdims=True), law.dtype)


def best_tokens(law: Array, count: int) -> Array:
    """Whether a token is among the `count` likeliest, `[..., vocab]`; all that tie with the last of them are."""
    xp = array_namespace(law)
    last = xp.sort(law, axis=-1)[..., -min(count, law.shape[-1]), None]
    return law >= last


def first_tokens(law: Array, count: int) -> Array:
    """Whether a token is among the `count` likeliest, `[..., vocab]`, and no more: of equal ones the lower index."""
    xp = array_namespace(law)
    rank = xp.argsort(xp.argsort(law, axis=-1, descending=True, stable=True), axis=-1)
    return rank < count


def highest(law: Array) -> Array:
    """Probability of the likeliest token, `[..., 1]`."""
    return array_namespace(law).max(law, axis=-1, keepdims=True)


def indicator(condition: Array, like: Array) -> Array:
    """1 where the condition holds, 0 elsewhere, in the type of `like`."""
    return array_namespace(like).astype(condition, like.dtype)


def between(name: str, value: float, low: float, high: float, meaning: str) -> None:
    """Check low <= value <= high.

    Raises
    ------
    InputError
        A value outside, or NaN.
    """
    _check(name, value, lambda number: low <= number <= high, f"a number in [{low:g}, {high:g}]", meaning)


def at_least(name: str, value: float, low: float, meaning: str) -> None:
    """Check low <= value < infinity.

    Raises
    ------
    InputError
        A value below, infinite or NaN.
    """
    _check(name, value, lambda number: low <= number < math.inf, f"a finite number >= {low:g}", meaning)


def whole(name: str, value: object) -> None:
    """Check that a value is a whole number >= 1.

    Raises
    ------
    InputError
        Another value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise InputError(f"{name}: expected a whole number >= 1; got {value}")


def price_at(prices: tuple[float, ...], place: int) -> float:
    """The price at a place of the block, from 0; a block longer than its prices goes on at the last."""
    return float(prices[min(place, len(prices) - 1)])


def check_prices(name: str, prices: tuple[object, ...], wanted: str, got: object) -> None:
    """Check that there is a price, and that each is a number >= 0; infinity is one.

    Raises
    ------
    InputError
        There is none, or one is no price.
    """
    good = all(isinstance(each, Real) and not isinstance(each, bool) and float(each) >= 0 for each in prices)
    if not prices or not good:
        raise InputError(f"{name}: expected {wanted}; got {got!r}; 0 is lossless")


def one_of(name: str, value: object, words: tuple[object, ...]) -> None:
    """Check that a value is one of the words.

    Raises
    ------
    InputError
        Another value.
    """
    if value not in words:
        raise InputError(f"{name}: expected {' or '.join(repr(word) for word in words)}; got {value!r}")


def _check(name: str, value: object, good: Callable[[float], bool], wanted: str, meaning: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not good(float(value)):
        raise InputError(f"{name}: expected {wanted}; got {value!s}; {meaning}")
