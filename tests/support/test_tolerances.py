"""The assertion helpers fail when they should."""

import numpy as np
import pytest
from tolerances import assert_at_most, assert_close, assert_law, tolerance


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1.0 + 1e-11, 1.0),
        ([0.5, 0.5], [0.5, 0.6]),
        (np.nan, np.nan),
        (np.inf, 1.0),
        (1.0, np.inf),
        (np.inf, -np.inf),
        ([1.0], 1.0),
    ],
)
def test_assert_close_fails_on_what_is_not_close(actual, expected):
    with pytest.raises(AssertionError):
        assert_close(actual, expected, "mass")


def test_assert_close_accepts_rounding_and_equal_infinities():
    assert_close([1.0 + 1e-15, np.inf], [1.0, np.inf], "mass")


@pytest.mark.parametrize(("smaller", "larger"), [(1.0, 0.9), (np.inf, 1.0), (np.nan, 1.0), (0.0, -np.inf)])
def test_assert_at_most_fails_on_what_is_larger(smaller, larger):
    with pytest.raises(AssertionError):
        assert_at_most(smaller, larger, "mass")


def test_assert_at_most_accepts_equal_and_infinite_bounds():
    assert_at_most([1.0, 1.0, -np.inf, np.inf], [1.0, np.inf, 0.0, np.inf], "mass")


@pytest.mark.parametrize("law", [[0.5, 0.6], [1.1, -0.1], [np.nan, 1.0], [[1.0, 0.0], [0.0, 0.9]]])
def test_assert_law_fails_on_what_is_not_a_law(law):
    with pytest.raises(AssertionError):
        assert_law(law)


def test_a_tolerance_that_is_not_in_the_table_is_an_error():
    with pytest.raises(KeyError):
        tolerance("guess")
