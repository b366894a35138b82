"""The divergence table: values, derivatives and conventions at zero."""

from math import inf, log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from laws import EXTREME_PAIRS, law_pairs, tv
from scipy.special import rel_entr
from tolerances import assert_at_most, assert_close

from solvers.divergences import DIVERGENCES, divergence_named
from solvers.errors import InputError

GENERATORS = {
    "tv": lambda t: abs(t - 1) / 2,
    "kl": lambda t: t * log(t) if t > 0 else 0.0,
    "reverse_kl": lambda t: -log(t) if t > 0 else inf,
    "chi2": lambda t: (t - 1) ** 2,
    "hellinger": lambda t: 1 - sqrt(t),
}
"""The textbook f of each divergence; the library's differ by a multiple of t - 1, which laws do not see."""
SLOPES_AT_INFINITY = {"tv": 0.5, "kl": inf, "reverse_kl": 0.0, "chi2": inf, "hellinger": 0.0}


def by_definition(name: str, output: np.ndarray, target: np.ndarray) -> float:
    """Sum q f(pi / q) token by token, with 0 f(0/0) = 0 and 0 f(x/0) = x f'(infinity)."""
    total = 0.0
    for x, q in zip(output.tolist(), target.tolist(), strict=True):
        if q > 0:
            total += q * GENERATORS[name](x / q)
        elif x > 0:
            total += x * SLOPES_AT_INFINITY[name]
    return total


@pytest.mark.parametrize("name", DIVERGENCES)
@given(pair=law_pairs())
def test_every_divergence_equals_its_definition_token_by_token(name, pair):
    output, target = pair
    assert_close(DIVERGENCES[name].value(output, target), by_definition(name, output, target), "divergence")


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
def test_every_divergence_equals_its_definition_on_extreme_pairs(name, pair):
    assert_close(DIVERGENCES[name].value(*pair), by_definition(name, *pair), "divergence")


@pytest.mark.parametrize("name", DIVERGENCES)
@given(pair=law_pairs())
def test_a_divergence_is_never_negative_and_zero_between_equal_laws(name, pair):
    output, target = pair
    assert DIVERGENCES[name].value(output, target) >= 0
    assert DIVERGENCES[name].value(target, target) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tv", 0.25),
        ("kl", 0.5 * log(2) + 0.5 * log(2 / 3)),
        ("reverse_kl", 0.25 * log(0.5) + 0.75 * log(1.5)),
        ("chi2", 0.0625 / 0.25 + 0.0625 / 0.75),
        ("hellinger", 1 - sqrt(0.125) - sqrt(0.375)),
    ],
)
def test_values_computed_by_hand(name, expected):
    value = DIVERGENCES[name].value(np.array([0.5, 0.5]), np.array([0.25, 0.75]))
    assert_close(value, expected, "mass")


@pytest.mark.parametrize("name", DIVERGENCES)
def test_nearly_equal_laws_lose_no_digits_to_cancellation(name):
    # to second order every f-divergence is f''(1)/2 * chi-square; chi-square here is 2^-66
    curvature = {"kl": 1.0, "reverse_kl": 1.0, "chi2": 2.0, "hellinger": 0.25}
    target = np.array([0.5, 0.5])
    output = target + 2.0**-34 * np.array([1.0, -1.0])
    value = float(DIVERGENCES[name].value(output, target))
    chi2 = 2 * (2.0**-34) ** 2 / 0.5
    if name in ("tv", "chi2"):
        assert value == {"tv": 2.0**-34, "chi2": chi2}[name]
    else:
        # a logarithm of 1 + 1e-10 is good to 1e-16 absolutely, so a divergence is good to 1e-16, not better
        assert abs(value - curvature[name] / 2 * chi2) <= 2e-16
        assert value >= 0


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_derivative_is_the_slope_of_the_value(name):
    target = np.array([0.3, 0.7])
    for ratio in (0.05, 0.4, 0.9, 1.1, 2.0):
        step = 1e-6
        up = np.array([0.3 * (ratio + step), 0.7])
        down = np.array([0.3 * (ratio - step), 0.7])
        slope = (DIVERGENCES[name].value(up, target) - DIVERGENCES[name].value(down, target)) / (2 * step * 0.3)
        assert_close(DIVERGENCES[name].derivative(np.asarray(ratio)), slope, "search")


@pytest.mark.parametrize(
    ("name", "at_zero", "at_infinity"),
    [
        ("tv", 0.0, 1.0),
        ("kl", -inf, inf),
        ("reverse_kl", -inf, 1.0),
        ("chi2", -2.0, inf),
        ("hellinger", -inf, 0.5),
    ],
)
def test_derivatives_at_zero_and_infinity_are_the_limits(name, at_zero, at_infinity):
    ends = DIVERGENCES[name].derivative(np.array([0.0, inf]))
    assert ends.tolist() == [at_zero, at_infinity]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_derivatives_never_decrease(name):
    ratios = np.concatenate([[0.0], np.logspace(-12, 12, 97), [inf]])
    slopes = DIVERGENCES[name].derivative(ratios)
    assert (slopes[1:] >= slopes[:-1]).all()


@given(pair=law_pairs())
def test_kl_and_tv_agree_with_scipy_and_the_l1_norm(pair):
    output, target = pair
    assert_close(DIVERGENCES["kl"].value(output, target), rel_entr(output, target).sum(), "divergence")
    assert_close(DIVERGENCES["tv"].value(output, target), tv(output, target), "mass")


@given(pair=law_pairs())
def test_divergences_satisfy_pinsker_and_the_hellinger_inequalities(pair):
    output, target = pair
    half_l1 = DIVERGENCES["tv"].value(output, target)
    hellinger = DIVERGENCES["hellinger"].value(output, target)
    assert_at_most(2 * half_l1**2, DIVERGENCES["kl"].value(output, target), "mass")
    assert_at_most(DIVERGENCES["kl"].value(output, target), DIVERGENCES["chi2"].value(output, target), "divergence")
    assert_at_most(hellinger, half_l1, "mass")


@pytest.mark.parametrize("name", DIVERGENCES)
def test_batches_of_torch_laws_give_one_value_per_row_equal_to_numpy(name):
    rng = np.random.default_rng(1)
    output, target = rng.dirichlet(np.ones(6), size=(2, 2, 3))
    value = DIVERGENCES[name].value(torch.asarray(output), torch.asarray(target))
    assert isinstance(value, torch.Tensor)
    assert_close(value, DIVERGENCES[name].value(output, target), "mass")
    assert value.shape == (2, 3)


def test_an_unknown_divergence_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match="tv, kl, reverse_kl, chi2, hellinger; got 'wasserstein'"):
        divergence_named("wasserstein")
