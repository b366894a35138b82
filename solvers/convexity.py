"""What is asked of a user's own f before it becomes a divergence: that it is convex, and where it is flat around 1."""

import math
from collections.abc import Callable

import numpy as np

from solvers.arrays import Array
from solvers.errors import InputError

POINTS = 2**13
"""Even points per kind: 0.3% from one to the next over twelve decades, and as many at random between them."""


def check_convex(name: str, function: Callable[[Array], Array], derivative: Callable[[Array], Array]) -> None:
    """Check that f is finite and convex, and f' its slope, at many ratios between 1e-6 and 1e6.

    Between two points a convex f lies below its chord and the chord's slope between those of f at its ends, so a dip
    shows as soon as one point of it is met. No finite number of points sees every dip.

    Raises
    ------
    InputError
        Numbers that are not finite, a derivative that decreases or is not the slope of f.
    """
    ratios = _ratios()
    with np.errstate(all="ignore"):
        values, slopes = (np.asarray(each(ratios), dtype=np.float64) for each in (function, derivative))
    if not (np.isfinite(values).all() and np.isfinite(slopes).all()):
        raise InputError(f"{name}: expected f and f' finite on (0, infinity); got NaN or infinity between 1e-6 and 1e6")
    # 1e-6 is what the digits of a formula are allowed; a difference of values also rounds
    widths, slack = np.diff(ratios), 1e-6 * (1 + np.abs(slopes))
    rounding = 16 * np.finfo(np.float64).eps * np.maximum(np.abs(values[1:]), np.abs(values[:-1])) / widths
    if (np.diff(slopes) < -slack[1:]).any():
        raise InputError(f"{name}: expected a convex f; its derivative decreases; check the formula")
    chords = np.diff(values) / widths
    low, high = slopes[:-1] - slack[:-1] - rounding, slopes[1:] + slack[1:] + rounding
    if ((chords < low) | (chords > high)).any():
        raise InputError(f"{name}: expected the derivative of f; it is not the slope of f; check the formula")


def _ratios() -> np.ndarray:
    """Even and random points in log t, and points that close in on 1, where ratios of near laws are."""
    around = np.outer([-1.0, 1.0], np.logspace(-6, -0.5, POINTS // 4)).ravel()
    logarithms = [
        np.linspace(-6, 6, POINTS) * math.log(10),
        np.random.default_rng(0).uniform(-6, 6, POINTS) * math.log(10),
        np.log1p(around),
        [0.0],
    ]
    ratios = np.sort(np.exp(np.concatenate(logarithms)))
    # two points too near say nothing but rounding
    return ratios[np.append(True, np.diff(ratios) > 1e-7 * ratios[1:])]


def flat_interval(derivative: Callable[[Array], Array], slope: float) -> tuple[float, float]:
    """The interval around 1 where f' is `slope`, its value at 1, up to rounding; (1, 1) where it is a point."""

    def beyond(ratio: float, sign: int) -> bool:
        with np.errstate(all="ignore"):
            return not sign * (float(np.asarray(derivative(np.array([ratio])))[0]) - slope) <= rounding

    def end(inside: float, outside: float, sign: int) -> float:
        while True:
            wide = not 0.5 <= outside / inside <= 2
            middle = math.sqrt(inside * outside) if wide else (inside + outside) / 2
            if middle in (inside, outside):
                return inside
            inside, outside = (inside, middle) if beyond(middle, sign) else (middle, outside)

    rounding = 8 * float(np.finfo(np.float64).eps) * abs(slope)
    low = end(1.0, 1e-150, -1) if beyond(1e-150, -1) else 0.0
    high = end(1.0, 1e150, 1) if beyond(1e150, 1) else math.inf
    # what is shorter is the rounding of f' near 1
    return low if low < 1 - 1e-12 else 1.0, high if high > 1 + 1e-12 else 1.0
