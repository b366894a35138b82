"""The root finder on smooth, kinked, flat, jumping and infinite functions, every element by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from tolerances import assert_close

from solvers.roots import MOST_STEPS, monotone_root

ZERO, ONE = np.zeros(()), np.ones(())

SMOOTH = {
    "line": lambda x: x - 0.3,
    "cubic": lambda x: (x - 0.3) ** 3 + (x - 0.3),
    "exponential": lambda x: np.expm1(30 * (x - 0.3)),
    "logarithm": lambda x: np.log(x / 0.3),
    "steep": lambda x: np.arctan(1e6 * (x - 0.3)),
    "flat around its root": lambda x: (x - 0.3) ** 3,
}
KINKED = {
    "piecewise linear": lambda x: np.maximum(x - 0.5, 0) + 0.1 * (x - 0.3),
    "concave pieces": lambda x: np.minimum(10 * (x - 0.3), x - 0.3),
    "jump": lambda x: np.where(x < 0.3, -1.0, 2.0),
    "infinite on both sides": lambda x: np.where(x < 0.3, -np.inf, np.inf),
    "infinite on one side": lambda x: np.where(x < 0.3, -np.inf, x),
}


@pytest.mark.parametrize("function", [*SMOOTH.values(), *KINKED.values()], ids=[*SMOOTH, *KINKED])
def test_a_crossing_is_found_to_rounding(function):
    assert_close(monotone_root(function, low=ZERO, high=ONE).value, 0.3, "root")


@pytest.mark.parametrize("function", [*SMOOTH.values(), *KINKED.values()], ids=[*SMOOTH, *KINKED])
def test_the_final_bracket_contains_the_crossing_and_the_function_has_its_signs_there(function):
    root = monotone_root(function, low=ZERO, high=ONE)
    assert root.low <= root.high
    assert root.low == 0 or function(root.low) <= 0
    assert root.high == 1 or function(root.high) >= 0
    slack = 1e-5  # a cube is zero within rounding that far from its root
    assert root.low - slack <= 0.3 <= root.high + slack


def test_a_flat_stretch_of_zeros_ends_inside_it():
    root = monotone_root(lambda x: np.maximum(x - 0.6, 0) + np.minimum(x - 0.2, 0), low=ZERO, high=ONE)
    assert 0.2 - 1e-15 <= root.value <= 0.6 + 1e-15


@pytest.mark.parametrize(("sign", "end"), [(1.0, 0.0), (-1.0, 1.0)])
def test_a_function_without_a_crossing_ends_at_the_end_where_it_would_be(sign, end):
    root = monotone_root(lambda x: sign + 0 * x, low=ZERO, high=ONE)
    assert_close(root.value, end, "root")
    assert (root.low, root.high)[int(end)] == end, "the end itself was never moved"


@given(places=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8), steepness=st.floats(0.1, 100))
def test_elements_do_not_influence_each_other(places, steepness):
    wanted = np.array(places)

    def function(x):
        return np.expm1(steepness * (x - wanted))

    together = monotone_root(function, low=np.zeros(len(places)), high=np.ones(len(places)))
    for at, place in enumerate(places):
        alone = monotone_root(lambda x, place=place: np.expm1(steepness * (x - place)), low=ZERO, high=ONE)
        assert together.value[at] == alone.value
        assert together.low[at] <= place <= together.high[at] + 1e-15


@given(
    place=st.floats(0.001, 0.999),
    kink=st.floats(0.001, 0.999),
    slopes=st.tuples(st.floats(0.01, 50), st.floats(0.01, 50)),
)
def test_piecewise_linear_roots_agree_with_brentq(place, kink, slopes):
    def function(x):
        bent = np.where(x < kink, slopes[0] * (x - kink), slopes[1] * (x - kink))
        at_place = slopes[0 if place < kink else 1] * (place - kink)
        return bent - at_place

    expected = brentq(lambda x: float(function(x)), 0.0, 1.0, xtol=1e-15)
    assert_close(monotone_root(function, low=ZERO, high=ONE).value, expected, "root")


def test_a_known_point_and_slope_save_evaluations_and_do_not_change_the_root():
    calls = []

    def function(x):
        calls.append(float(x))
        return np.expm1(x - 0.3)

    plain = monotone_root(function, low=ZERO, high=ONE)
    without, known = len(calls), (np.asarray(0.31), np.expm1(np.asarray(0.01)))
    calls.clear()
    helped = monotone_root(function, low=ZERO, high=ONE, known=known, slope=1.0)
    assert_close(helped.value, plain.value, "root")
    assert 0.31 not in calls
    assert len(calls) < without


def test_a_known_point_far_from_the_root_with_a_bad_slope_does_no_harm():
    for slope in (1e-9, 1.0, 1e9, -1.0):
        root = monotone_root(
            lambda x: np.expm1(x - 0.3),
            low=ZERO,
            high=ONE,
            known=(np.asarray(0.9), np.expm1(np.asarray(0.6))),
            slope=slope,
        )
        assert_close(root.value, 0.3, "root")


def test_a_step_takes_the_last_secant_unseen():
    for step in (1e-3, 1e-6):
        calls = []

        def function(x, calls=calls):
            calls.append(float(x))
            return np.expm1(x - 0.3)

        root = monotone_root(function, low=ZERO, high=ONE, step=step)
        assert float(root.value) not in calls
        assert abs(float(root.value) - 0.3) <= step  # in fact of the order of the product of the last two steps
        assert len(calls) < 10


def test_a_small_step_on_a_steep_stretch_is_not_the_last():
    # steep up to 0.6, where the secant step is 1e-16, and gentle up to the root at 0.8
    root = monotone_root(lambda x: np.where(x < 0.6, -1e20 * (1 - x), x - 0.8), low=ZERO, high=ONE, step=1e-15)
    assert_close(root.value, 0.8, "root")
    # a price of 1e20 that falls like 1 / x^2
    root = monotone_root(lambda x: 4.0 - 1e20 / (1 + 1e20 * x) ** 2 - 1 / x, low=ZERO, high=ONE, step=1e-15)
    assert_close(root.value, 0.25, "root")


def test_bisection_alone_ends_within_the_limit_of_steps_on_the_widest_bracket():
    calls = []

    def function(x):
        calls.append(x)
        return np.where(x < 0.3, -1.0, 1.0)

    root = monotone_root(function, low=np.asarray(-700.0), high=np.asarray(700.0))
    assert_close(root.value, 0.3, "root")
    assert len(calls) < MOST_STEPS


def test_the_callers_bracket_is_left_alone():
    low, high = np.zeros(3), np.ones(3)
    monotone_root(lambda x: x - 0.3, low=low, high=high)
    assert low.tolist() == [0, 0, 0]
    assert high.tolist() == [1, 1, 1]


def test_an_empty_batch_has_no_roots():
    assert monotone_root(lambda x: x, low=np.zeros((0,)), high=np.ones((0,))).value.shape == (0,)
