"""The one tolerance table, by operation and dtype, and the assertions that use it."""

from typing import Any

import numpy as np

TOLERANCES: dict[tuple[str, str], float] = {
    # A mass is a sum of at most a few hundred numbers below 1, each rounded at 1e-16; levels c and C divide by
    # sums of the target, so they are compared relatively.
    ("mass", "float64"): 1e-12,
    # A full vocabulary: 151936 terms in a running sum lose sqrt(151936) * 1e-16 = 4e-14 typically, 2e-11 at worst.
    ("mass of a large vocabulary", "float64"): 1e-10,
    # Logarithms of ratios down to 1e-12, and C up to 1e12 in chi-square: relative to 1 + |value|.
    ("divergence", "float64"): 1e-9,
    # The root of the price form is settled to 1e-14 in mass; near a flat piece the levels are less certain.
    ("price root", "float64"): 1e-11,
    # The objective of an interior-point solver that stops at 1e-9 to 1e-10, with a margin for its conditioning.
    ("interior point objective", "float64"): 1e-6,
    # Its multipliers converge with the square root of the gap, and the KL slope moves by R-error * curvature.
    ("interior point multiplier", "float64"): 2e-3,
    # A one-dimensional search by function values alone cannot place a flat minimum better than sqrt(1e-16).
    ("search", "float64"): 1e-6,
    # Numbers near 1 settle within two units in their last place; a function that is flat around its root, x^3, is
    # zero in float64 from 1e-5 on, but secants and bisection get closer.
    ("root", "float64"): 1e-13,
    # Sums of 32 float32 terms and float64 above them: 2e-6 at worst for a sum, 1e-8 typically, and the last step of
    # a level is 1e-6 before it is taken. Compared relatively.
    ("level", "float32"): 2e-6,
    # A float64 level settles when its next step would be 1e-14; its sum is rounded at 1e-16 for each term.
    ("level", "float64"): 1e-12,
    # At a price the whole law must sum to what the draft sums to: the levels divide the sum's error by the mass that
    # is clipped, a tenth of 1 and more in the tests.
    ("price level", "float32"): 2e-5,
    # A rule handed back in float32 is off by half a unit at each token, the same relative size in its divergence,
    # times the slope of f at ratios of 1e-6, which grows like a logarithm or is bounded for all but chi-square.
    ("certificate", "float32"): 1e-6,
    # Enumeration of laws on a grid: what lies between two neighbours of the best is second order in their distance.
    ("grid", "float64"): 1e-4,
    # Values handed back in a smaller type carry one rounding to it: half a unit in the last place, below 1.
    ("handed back", "float64"): 1e-15,
    ("handed back", "float32"): 2.0**-24,
    ("handed back", "float16"): 2.0**-11,
    ("handed back", "bfloat16"): 2.0**-8,
}


def tolerance(operation: str, dtype: str = "float64") -> float:
    """Look a tolerance up; an operation that is not in the table is a mistake in the test."""
    return TOLERANCES[operation, dtype]


def assert_close(actual: Any, expected: Any, operation: str, dtype: str = "float64") -> None:
    """Assert |actual - expected| <= tolerance * (1 + |expected|) elementwise; equal infinities are close."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape}"
    assert not np.isnan(actual).any(), f"nan in {actual}"
    same = actual == expected
    finite = np.isfinite(actual) & np.isfinite(expected)
    distance = np.abs(np.where(finite, actual, 0.0) - np.where(finite, expected, 0.0))
    allowed = tolerance(operation, dtype) * (1.0 + np.abs(np.where(finite, expected, 0.0)))
    good = same | (finite & (distance <= allowed))
    assert good.all(), f"{operation}: {actual[~good][:3]} against {expected[~good][:3]}"


def assert_at_most(smaller: Any, larger: Any, operation: str, dtype: str = "float64") -> None:
    """Assert smaller <= larger + tolerance * (1 + |larger|) elementwise, infinities included."""
    smaller, larger = np.broadcast_arrays(np.asarray(smaller, np.float64), np.asarray(larger, np.float64))
    assert not np.isnan(smaller).any(), "nan"
    assert not np.isnan(larger).any(), "nan"
    slack = tolerance(operation, dtype) * (1.0 + np.abs(np.where(np.isfinite(larger), larger, 0.0)))
    good = smaller <= larger + slack
    assert good.all(), f"{operation}: {smaller[~good][:3]} above {larger[~good][:3]}"


def assert_law(law: Any, operation: str = "mass", dtype: str = "float64") -> None:
    """Assert that every row is non-negative and sums to 1."""
    law = np.asarray(law, dtype=np.float64)
    assert (law >= 0).all(), f"negative mass {law.min()}"
    assert_close(law.sum(axis=-1), np.ones(law.shape[:-1]), operation, dtype)
