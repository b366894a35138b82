"""Array-library neutral helpers: one text runs on numpy and on torch, on any device.

Everything in `solvers` works on trusted float64 laws along the last axis; `tradeoff.problem` is the door
where input is checked and converted.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, to_device

if TYPE_CHECKING:

    class _Completed(Any):
        """What arrays of every library have, for editors; whatever else a library's own arrays have is let pass."""

        shape: tuple[int, ...]
        ndim: int
        dtype: Any
        device: Any

        def __getitem__(self, key: Any) -> "Array": ...
        def __add__(self, other: Any) -> "Array": ...
        def __sub__(self, other: Any) -> "Array": ...
        def __mul__(self, other: Any) -> "Array": ...
        def __truediv__(self, other: Any) -> "Array": ...
        def __float__(self) -> float: ...

    Array: TypeAlias = _Completed | Any
else:
    Array = Any
"""An array of any library that `array_api_compat` knows; laws are `[..., vocab]`, row quantities `[...]`."""


ROUNDING = 1e-12
"""Masses that differ by less count as equal: a running sum over 150k tokens strays by about 1e-13."""


def without_gradient(array: Array) -> Array:
    """The same numbers, off the graph of a tensor that requires grad: levels are solved for outside of it."""
    return array.detach() if getattr(array, "requires_grad", False) else array


def to_numpy(array: Array) -> np.ndarray:
    """The same numbers as a numpy array on the host."""
    if is_numpy_array(array):
        return array
    array = without_gradient(array)
    return np.asarray(array if on_host(array) else to_device(array, "cpu"))


def on_host(array: Array) -> bool:
    """Whether the numbers are in the host's memory; libraries agree on the letters of its name and on no more."""
    return "cpu" in str(device(array)).lower()


def like(values: np.ndarray, array: Array) -> Array:
    """Host numbers as float64 of another array's library and device."""
    if is_numpy_array(array):
        return np.asarray(values, dtype=np.float64)
    xp = array_namespace(array)
    return xp.asarray(values, dtype=xp.float64, device=device(array))


def positive_part(array: Array) -> Array:
    """Return `max(array, 0)` elementwise."""
    xp = array_namespace(array)
    return xp.where(array > 0, array, xp.zeros_like(array))


def safe_divide(numerator: Array, denominator: Array, otherwise: Array | float) -> Array:
    """Return `numerator / denominator` where the denominator is positive, `otherwise` elsewhere."""
    xp = array_namespace(numerator, denominator)
    positive = denominator > 0
    # numpy warns of x / 0 even where the quotient is then discarded
    quotient = numerator / xp.where(positive, denominator, xp.ones_like(denominator))
    return xp.where(positive, quotient, xp.zeros_like(quotient) + otherwise)


PIECE = 2**20
"""Masses worked on at a time on a CPU, 8 MB: temporaries do not grow with the number of rows."""


def row_pieces(laws: Array) -> Iterator[slice]:
    """Cut the rows of `[rows, vocab]` into slices of `PIECE` masses, more on a device, where calls cost more."""
    count = laws.shape[0]
    rows = max(1, (PIECE if on_host(laws) else 64 * PIECE) // laws.shape[1])
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def in_pieces(function: Callable[..., tuple[Array, ...]], *arrays: Array) -> tuple[Array, ...]:
    """Apply a function of laws `[..., vocab]` and row quantities `[...]` a piece at a time; the first is a law.

    What it returns is one law or number to a row, too.
    """
    leading = tuple(arrays[0].shape[:-1])
    xp = array_namespace(arrays[0])
    flat = [xp.reshape(each, (-1, *each.shape[len(leading) :])) for each in arrays]
    pieces = list(row_pieces(flat[0]))
    if len(pieces) == 1:
        return function(*arrays)
    parts = [function(*(each[rows, ...] for each in flat)) for rows in pieces]
    joined = []
    for index in range(len(parts[0])):
        whole = xp.concat([part[index] for part in parts], axis=0)
        joined.append(xp.reshape(whole, (*leading, *whole.shape[1:])))
    return tuple(joined)


def mass(array: Array, *, keepdims: bool = False) -> Array:
    """Sum over the vocabulary axis."""
    return array_namespace(array).sum(array, axis=-1, keepdims=keepdims)


def normalised(masses: Array, otherwise: Array) -> Array:
    """Scale every row of masses to sum 1; a row without mass becomes the row of `otherwise`.

    A residual without mass belongs to a position that never rejects, so any law would do; callers give the
    target, which keeps even a rounding-level rejection harmless.
    """
    total = mass(masses, keepdims=True)
    return safe_divide(masses, total, otherwise)
