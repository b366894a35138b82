"""The divergence table: values, derivatives and conventions at zero."""

from collections.abc import Callable
from math import inf, log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, KINKED, law_pairs, random_pair, tv
from scipy.special import rel_entr
from tolerances import assert_at_most, assert_close

from solvers.divergences import DIVERGENCES, alpha_divergence, divergence_named, f_divergence
from solvers.errors import InputError
from tradeoff import solve_pareto

EVERY = {**DIVERGENCES, **{f"alpha={order:g}": alpha_divergence(order) for order in (-1, 0, 0.3, 0.5, 1, 1.5, 2, 3)}}
GENERATORS: dict[str, Callable[[float], float]] = {
    "tv": lambda t: abs(t - 1) / 2,
    "kl": lambda t: t * log(t) if t > 0 else 0.0,
    "reverse_kl": lambda t: -log(t) if t > 0 else inf,
    "chi2": lambda t: (t - 1) ** 2,
    "reverse_chi2": lambda t: (1 - t) ** 2 / t if t > 0 else inf,
    "hellinger": lambda t: 1 - sqrt(t),
    "js": lambda t: float(rel_entr(t, (1 + t) / 2) + rel_entr(1, (1 + t) / 2)) / 2,
    "alpha=-1": lambda t: (1 / t - 1) / 2 if t > 0 else inf,
    "alpha=0": lambda t: -log(t) if t > 0 else inf,
    "alpha=0.3": lambda t: (t**0.3 - 1) / (0.3 * -0.7),
    "alpha=0.5": lambda t: 4 * (1 - sqrt(t)),
    "alpha=1": lambda t: t * log(t) if t > 0 else 0.0,
    "alpha=1.5": lambda t: (t**1.5 - 1) / (1.5 * 0.5),
    "alpha=2": lambda t: (t**2 - 1) / 2,
    "alpha=3": lambda t: (t**3 - 1) / 6,
}
"""The textbook f of each divergence; the library's differ by a multiple of t - 1, which laws do not see."""
SLOPES_AT_INFINITY = {
    "tv": 0.5,
    "kl": inf,
    "reverse_kl": 0.0,
    "chi2": inf,
    "reverse_chi2": 1.0,
    "hellinger": 0.0,
    "js": log(2) / 2,
    "alpha=-1": 0.0,
    "alpha=0": 0.0,
    "alpha=0.3": 0.0,
    "alpha=0.5": 0.0,
    "alpha=1": inf,
    "alpha=1.5": inf,
    "alpha=2": inf,
    "alpha=3": inf,
}
every_divergence = pytest.mark.parametrize("name", EVERY)


def by_definition(name: str, output: np.ndarray, target: np.ndarray) -> float:
    """Sum q f(pi / q) token by token, with 0 f(0/0) = 0 and 0 f(x/0) = x f'(infinity)."""
    total = 0.0
    for x, q in zip(output.tolist(), target.tolist(), strict=True):
        if q > 0:
            total += q * GENERATORS[name](x / q)
        elif x > 0:
            total += x * SLOPES_AT_INFINITY[name]
    return total


@every_divergence
@given(pair=law_pairs())
def test_every_divergence_equals_its_definition_token_by_token(name, pair):
    output, target = pair
    assert_close(EVERY[name].value(output, target), by_definition(name, output, target), "divergence")


@every_divergence
@pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
def test_every_divergence_equals_its_definition_on_extreme_pairs(name, pair):
    if name == "alpha=3" and 0 < pair[1].min() < 1e-100:
        return  # the definition cubes a ratio of 1e150, which is beyond float64
    assert_close(EVERY[name].value(*pair), by_definition(name, *pair), "divergence")


@every_divergence
@given(pair=law_pairs())
def test_a_divergence_is_never_negative_and_zero_between_equal_laws(name, pair):
    output, target = pair
    assert EVERY[name].value(output, target) >= 0
    assert (EVERY[name].elements(output, target) >= 0).all()
    assert EVERY[name].value(target, target) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tv", 0.25),
        ("kl", 0.5 * log(2) + 0.5 * log(2 / 3)),
        ("reverse_kl", 0.25 * log(0.5) + 0.75 * log(1.5)),
        ("chi2", 0.0625 / 0.25 + 0.0625 / 0.75),
        ("hellinger", 1 - sqrt(0.125) - sqrt(0.375)),
        ("reverse_chi2", 0.0625 / 0.5 + 0.0625 / 0.5),
        ("js", (0.5 * log(0.5 / 0.375) + 0.5 * log(0.5 / 0.625) + 0.25 * log(0.25 / 0.375) + 0.75 * log(1.2)) / 2),
        ("alpha=3", (0.125 / 0.0625 + 0.125 / 0.5625 - 1) / 6),
    ],
)
def test_values_computed_by_hand(name, expected):
    value = EVERY[name].value(np.array([0.5, 0.5]), np.array([0.25, 0.75]))
    assert_close(value, expected, "mass")


@every_divergence
def test_nearly_equal_laws_lose_no_digits_to_cancellation(name):
    # to second order every f-divergence is f''(1)/2 * chi-square; chi-square here is 2^-66
    curvature = {"chi2": 2.0, "reverse_chi2": 2.0, "hellinger": 0.25, "js": 0.25}
    target = np.array([0.5, 0.5])
    output = target + 2.0**-34 * np.array([1.0, -1.0])
    value = float(EVERY[name].value(output, target))
    chi2 = 2 * (2.0**-34) ** 2 / 0.5
    if name in ("tv", "chi2"):
        assert value == {"tv": 2.0**-34, "chi2": chi2}[name]
    elif name == "reverse_chi2":
        assert abs(value / chi2 - 1) <= 2**-32
    else:
        # a logarithm of 1 + 1e-10 is good to 1e-16 absolutely, so a divergence is good to 1e-16, not better
        assert abs(value - curvature.get(name, 1.0) / 2 * chi2) <= 2e-16
        assert value >= 0


@every_divergence
def test_the_derivative_is_the_slope_of_the_value(name):
    target = np.array([0.3, 0.7])
    for ratio in (0.05, 0.4, 0.9, 1.1, 2.0):
        step = 1e-6
        up = np.array([0.3 * (ratio + step), 0.7])
        down = np.array([0.3 * (ratio - step), 0.7])
        slope = (EVERY[name].value(up, target) - EVERY[name].value(down, target)) / (2 * step * 0.3)
        assert_close(EVERY[name].derivative(np.asarray(ratio)), slope, "search")


@pytest.mark.parametrize(
    ("name", "at_zero", "at_infinity"),
    [
        ("tv", 0.0, 1.0),
        ("kl", -inf, inf),
        ("reverse_kl", -inf, 1.0),
        ("chi2", -2.0, inf),
        ("reverse_chi2", -inf, 1.0),
        ("hellinger", -inf, 0.5),
        ("js", -inf, log(2) / 2),
        ("alpha=-1", -inf, 0.5),
        ("alpha=0.3", -inf, 1 / 0.7),
        ("alpha=1", -inf, inf),
        ("alpha=3", -0.5, inf),
    ],
)
def test_derivatives_at_zero_and_infinity_are_the_limits(name, at_zero, at_infinity):
    assert_close(EVERY[name].slope(np.array([0.0, inf])), [at_zero, at_infinity], "mass")


@every_divergence
def test_derivatives_never_decrease(name):
    ratios = np.concatenate([[0.0], np.logspace(-12, 12, 97), [inf]])
    slopes = EVERY[name].slope(ratios)
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


@every_divergence
def test_batches_of_torch_laws_give_one_value_per_row_equal_to_numpy(name):
    rng = np.random.default_rng(1)
    output, target = rng.dirichlet(np.ones(6), size=(2, 2, 3))
    value = EVERY[name].value(torch.asarray(output), torch.asarray(target))
    assert isinstance(value, torch.Tensor)
    assert_close(value, EVERY[name].value(output, target), "mass")
    assert value.shape == (2, 3)


@every_divergence
def test_function_is_the_generator_up_to_a_multiple_of_t_minus_1(name):
    measure = EVERY[name]
    ratios = np.array([0.01, 0.3, 0.9, 1.0, 1.2, 4.0, 100.0])
    ours, textbook = measure.function(ratios), np.array([GENERATORS[name](t) for t in ratios])
    tilt = (ours[-1] - textbook[-1]) / (ratios[-1] - 1)
    assert_close(ours, textbook + tilt * (ratios - 1), "divergence")
    assert measure.function(np.array([1.0]))[0] == 0
    assert measure.slope(np.array([1.0]))[0] == 0


@every_divergence
def test_the_value_at_zero_is_the_limit(name):
    measure = EVERY[name]
    near = float(measure.function(np.array(1e-200)))
    if measure.at_zero == inf:
        assert near > 100
    else:
        assert_close(near, measure.at_zero, "divergence")
    assert measure.function(np.array(0.0)) == measure.at_zero


@every_divergence
def test_a_ratio_is_found_from_its_slope(name):
    measure = EVERY[name]
    if name == "tv":
        slopes = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
        assert measure.ratio_at(slopes).tolist() == [0.0, 0.0, 1.0, inf, inf]
        return
    ratios = np.logspace(-4, 4, 33)
    slopes = measure.slope(ratios)
    # a slope near its limit says little about the ratio: compared as slopes
    assert_close(measure.slope(measure.ratio_at(slopes)), slopes, "mass")
    near = (ratios > 0.01) & (ratios < 100)
    assert_close(measure.ratio_at(slopes)[near], ratios[near], "divergence")
    beyond = np.array([measure.slope_at_zero, measure.slope_at_infinity])
    assert measure.ratio_at(beyond).tolist() == [0.0, inf]


# --- alpha ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "name", "factor"),
    [(1, "kl", 1.0), (0, "reverse_kl", 1.0), (2, "chi2", 0.5), (-1, "reverse_chi2", 0.5), (0.5, "hellinger", 4.0)],
)
@given(pair=law_pairs())
def test_known_orders_of_alpha_are_rows_of_the_table(order, name, factor, pair):
    known, alpha = DIVERGENCES[name], alpha_divergence(order)
    assert_close(alpha.value(*pair), factor * known.value(*pair), "divergence")
    ratios = np.array([0.1, 0.5, 1.0, 2.0, 7.0])
    assert_close(alpha.slope(ratios), factor * known.slope(ratios), "divergence")
    assert alpha.slope_at_infinity == factor * known.slope_at_infinity
    assert alpha.at_zero == factor * known.at_zero


@pytest.mark.parametrize(("order", "name"), [(0, "reverse_kl"), (1, "kl")])
@pytest.mark.parametrize("step", [1e-3, -1e-3, 1e-8, -1e-8, 1e-13, -1e-13])
def test_alpha_is_continuous_at_the_orders_where_its_formula_divides_by_zero(order, name, step):
    for seed in range(4):
        pair = random_pair(seed, vocab=8)
        value, known = alpha_divergence(order + step).value(*pair), DIVERGENCES[name].value(*pair)
        assert abs(value - known) <= 100 * abs(step) * (1 + known)


@given(pair=law_pairs(), order=st.floats(-3, 4))
def test_reversing_the_laws_mirrors_the_order(pair, order):
    output, target = ((law + 0.01) / (1 + 0.01 * law.shape[0]) for law in pair)
    mirrored = alpha_divergence(1 - order).value(target, output)
    assert_close(alpha_divergence(order).value(output, target), mirrored, "divergence")


@pytest.mark.parametrize("order", [inf, -inf, float("nan")])
def test_an_order_that_is_not_finite_is_an_error(order):
    with pytest.raises(InputError, match="alpha: expected a finite order; got"):
        alpha_divergence(order)


def test_alpha_is_looked_up_by_its_order():
    assert divergence_named("alpha=0.3").name == "alpha=0.3"
    assert divergence_named("alpha=1") is DIVERGENCES["kl"]
    assert divergence_named(DIVERGENCES["js"]) is DIVERGENCES["js"]
    with pytest.raises(InputError, match="got 'alpha=half'"):
        divergence_named("alpha=half")


# --- your own ------------------------------------------------------------------------------------------------

OWN: dict[str, tuple[Callable, Callable, dict]] = {
    "kl": (
        lambda t: t * t.log() if isinstance(t, torch.Tensor) else t * np.log(t),
        lambda t: (t.log() if isinstance(t, torch.Tensor) else np.log(t)) + 1,
        {"at_zero": 0.0},
    ),
    "chi2": (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1), {}),
    "reverse_chi2": (lambda t: (1 - t) ** 2 / t, lambda t: 1 - t**-2.0, {}),
    "hellinger": (lambda t: 1 - t**0.5, lambda t: -0.5 * t**-0.5, {}),
    "alpha=3": (lambda t: (t**3 - 1) / 6, lambda t: t**2 / 2, {}),
    "tv": (lambda t: abs(t - 1) / 2, lambda t: (t > 1) * 1.0 - 0.5, {}),
}


@pytest.mark.parametrize("name", OWN)
@given(pair=law_pairs())
def test_a_divergence_of_ones_own_equals_the_row_of_the_same_f(name, pair):
    function, derivative, ends = OWN[name]
    own = f_divergence(function, derivative, name="mine", **ends)
    assert_close(own.value(*pair), EVERY[name].value(*pair), "divergence")
    on_torch = own.value(*(torch.asarray(law) for law in pair))
    assert isinstance(on_torch, torch.Tensor)
    assert_close(on_torch, EVERY[name].value(*pair), "divergence")


@pytest.mark.parametrize("name", OWN)
def test_the_ends_and_slopes_of_ones_own_divergence_are_those_of_the_row_of_the_same_f(name):
    function, derivative, ends = OWN[name]
    own, row = f_divergence(function, derivative, name="mine", **ends), EVERY[name]
    for field in ("at_zero", "slope_at_zero", "slope_at_infinity"):
        assert_close(getattr(own, field), getattr(row, field), "mass")
    ratios = np.array([0.0, 0.01, 0.5, 1.0, 3.0, 100.0, inf])
    assert_close(own.slope(ratios), row.slope(ratios), "mass")
    slopes = row.slope(np.array([0.02, 0.5, 3.0, 50.0]))
    assert_close(own.ratio_at(slopes), row.ratio_at(slopes), "divergence")
    assert_close(own.ratio_at(torch.asarray(slopes)), row.ratio_at(slopes), "divergence")


@pytest.mark.parametrize("name", ["kl", "chi2", "hellinger"])
def test_the_front_of_ones_own_divergence_is_the_front_of_the_row_of_the_same_f(name):
    function, derivative, ends = OWN[name]
    own = f_divergence(function, derivative, strictly_convex=True, **ends)
    pair = random_pair(1, vocab=8)
    ours, table = (solve_pareto(*pair, divergence=each, rejection=0.1) for each in (own, name))
    assert_close(ours.divergence, table.divergence, "divergence")
    for question in ({"rejection": 0.2}, {"divergence": 0.01}, {"price": 0.1}):
        assert_close(ours.at(**question).output_law, table.at(**question).output_law, "divergence")
        assert ours.at(**question).certificate.holds(1e-9)


def test_a_piecewise_linear_f_is_worth_what_its_pieces_say():
    # ratios 3, 1/4, 1 and 3/2: f = [2 + 1, 1/4, 0, 1/2]
    output, target = np.array([0.3, 0.1, 0.15, 0.45]), np.array([0.1, 0.4, 0.15, 0.3])
    assert_close(KINKED.elements(output, target), [0.3, 0.1, 0.0, 0.15], "mass")
    assert KINKED.slope(np.array([0.0, 0.4, 0.6, 1.5, 2.5, inf])).tolist() == [-1, -1, 0, 1, 2, 2]
    assert_close(KINKED.ratio_at(np.array([-0.5, 0.5, 1.5])), [0.5, 1.0, 2.0], "mass")
    assert not KINKED.strictly_convex


@pytest.mark.parametrize(
    ("function", "derivative", "ends", "message"),
    [
        (lambda t: t**2, lambda t: 2 * t, {}, r"expected f\(1\) = 0; got 1; subtract it"),
        (lambda t: -((t - 1) ** 2), lambda t: -2 * (t - 1), {}, "expected a convex f; its derivative decreases"),
        (lambda t: (t - 1) ** 2, lambda t: t - 1, {}, "expected the derivative of f; it is not the slope of f"),
        (lambda t: t * np.log(t), lambda t: np.log(t) + 1, {}, "gives NaN at its end; pass at_zero="),
        (lambda t: np.sqrt(t - 1), lambda t: 1 / t, {"at_zero": 1.0}, "expected f and f' finite"),
        (lambda t: np.log(t - 0.5), lambda t: 1 / t, {"at_zero": 1.0}, "mine: expected f"),
    ],
)
def test_what_is_no_convex_function_and_its_slope_is_an_error(function, derivative, ends, message):
    with pytest.raises(InputError, match=message) as caught:
        f_divergence(function, derivative, name="mine", **ends)
    assert str(caught.value).startswith("mine: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_divergence_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match="tv, kl, .*, js or alpha=<order>; got 'wasserstein'"):
        divergence_named("wasserstein")
