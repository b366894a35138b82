"""Levels without a sort: against bracketed root finding, against the sorted front, in float32, in blocks, at prices."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import (
    BACKENDS,
    EXTREME_PAIRS,
    KINDS,
    MEASURES,
    law_pairs,
    oracle_ceiling,
    oracle_floor,
    output_of,
    random_pair,
    rejection_of,
    tv,
)
from tolerances import assert_at_most, assert_close, assert_law, tolerance

from solvers import sort_free
from solvers.arrays import to_numpy
from solvers.closed_form import ratio_clip, ratio_clip_at_price
from solvers.sort_free import ceiling_level, floor_level, levels_at_price
from solvers.sorted_front import SortedFront

every_kind = pytest.mark.parametrize("name", KINDS)
# a piecewise-linear f inverts its slope by bisection in every step: a second a pair
smooth_kind = pytest.mark.parametrize("name", [name for name in KINDS if name != "kinked"])
backend = pytest.mark.parametrize("convert", BACKENDS.values(), ids=BACKENDS.keys())
fractions = st.floats(0.02, 0.98)


def assert_relative(actual, expected, operation, dtype="float64"):
    """Levels are compared as ratios: near 0 and at 1e12 alike."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    same = (actual == expected) | (np.abs(actual - expected) <= tolerance(operation, dtype) * np.abs(expected))
    assert same.all(), f"{actual[~same][:3]} against {expected[~same][:3]}"


def sorted_levels(draft, target, budget):
    return SortedFront(draft, target, MEASURES["tv"]).levels(np.asarray(budget).reshape(-1, 1))


def zipf_pairs(vocab, rows, seed):
    """Laws like those of language models, their softmax taken in float32."""
    rng = np.random.default_rng(seed)
    logits = -1.2 * np.log(np.arange(1, vocab + 1)) + rng.normal(scale=1.0, size=(2, rows, vocab))
    laws = torch.softmax(torch.asarray(logits, dtype=torch.float32), dim=-1).numpy()
    return laws[0], laws[1]


# --- at a rejection ------------------------------------------------------------------------------------------


@given(pair=law_pairs(), fraction=fractions)
def test_levels_without_a_sort_equal_the_sorted_ones(pair, fraction):
    draft, target = pair
    budget = fraction * float(tv(draft, target))
    assume(budget > 1e-6)
    floor, ceiling = sorted_levels(draft[None], target[None], budget)
    off = draft[target == 0].sum()
    assume(abs(off - budget) > 1e-9)
    # a sum is right to 1e-16, and so is the budget: relative to it
    assert_close(floor_level(draft, target, np.asarray(budget)), floor.item(), "divergence")
    assert_close(ceiling_level(draft, target, np.asarray(budget)), ceiling.item(), "divergence")


@pytest.mark.parametrize("seed", range(6))
def test_float64_levels_are_right_to_twelve_digits(seed):
    draft, target = random_pair(seed, vocab=200)
    for fraction in (0.05, 0.5, 0.95):
        budget = fraction * float(tv(draft, target))
        assert_relative(floor_level(draft, target, np.asarray(budget)), oracle_floor(draft, target, budget), "level")
        ceiling = ceiling_level(draft, target, np.asarray(budget))
        assert_relative(ceiling, oracle_ceiling(draft, target, budget), "level")


@pytest.mark.parametrize("vocab", [3, 6, 33, 1000, 20000])
@pytest.mark.parametrize("convert", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_float32_levels_are_right_to_six_digits(vocab, convert):
    # few tokens make kinks: a secant step that jumps over one must not be the last
    draft, target = zipf_pairs(vocab, 16, seed=vocab)
    wide = [law.astype(np.float64) for law in (draft, target)]
    for fraction in (0.1, 0.5, 0.9):
        budget = fraction * tv(*wide)
        floor, ceiling = (each.ravel() for each in sorted_levels(wide[0], wide[1], budget))
        found = floor_level(convert(draft), convert(target), convert(budget))
        assert "float64" in str(found.dtype)
        assert_relative(to_numpy(found), floor, "level", "float32")
        found = ceiling_level(convert(draft), convert(target), convert(budget))
        assert_relative(to_numpy(found), ceiling, "level", "float32")


@pytest.mark.parametrize("seed", range(40))
def test_float32_levels_of_few_tokens_are_right_to_six_digits_whatever_the_kinks(seed):
    pair = random_pair(seed, vocab=2 + seed % 5)
    draft, target = (law.astype(np.float32) for law in pair)
    wide = [law.astype(np.float64) for law in (draft, target)]
    for fraction in (0.05, 0.3, 0.7, 0.95):
        budget = np.asarray(fraction * tv(*wide))
        assert_relative(
            floor_level(draft, target, budget), oracle_floor(wide[0], wide[1], float(budget)), "level", "float32"
        )
        ceiling = ceiling_level(draft, target, budget)
        assert_relative(ceiling, oracle_ceiling(wide[0], wide[1], float(budget)), "level", "float32")


@backend
def test_a_batch_of_any_shape_is_solved_row_by_row(convert):
    rng = np.random.default_rng(0)
    draft, target = rng.dirichlet(np.full(9, 0.5), size=(2, 2, 3))
    budget = 0.4 * tv(draft, target)
    batch = convert(draft), convert(target), convert(budget)
    price = levels_at_price(*batch[:2], convert(np.full((2, 3), 0.7)), MEASURES["js"])
    for found, alone in (
        (floor_level(*batch), floor_level),
        (ceiling_level(*batch), ceiling_level),
        (price[0], lambda p, q, _: levels_at_price(p, q, np.asarray(0.7), MEASURES["js"])[0]),
        (price[1], lambda p, q, _: levels_at_price(p, q, np.asarray(0.7), MEASURES["js"])[1]),
    ):
        assert type(found) is type(batch[0])
        assert tuple(found.shape) == (2, 3)
        for i, j in np.ndindex(2, 3):
            assert_close(to_numpy(found)[i, j], alone(draft[i, j], target[i, j], budget[i, j]), "price root")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [1, 64, 200, 1000])
def test_blocks_do_not_change_the_levels(monkeypatch, dtype, block):
    draft, target = (law.astype(dtype) for law in zipf_pairs(100, 7, seed=1))
    budget, price = 0.3 * tv(draft, target).astype(np.float64), np.full(7, 0.5)

    def everything():
        return [
            floor_level(draft, target, budget),
            ceiling_level(draft, target, budget),
            *levels_at_price(draft, target, price, MEASURES["kl"]),
        ]

    whole = everything()
    monkeypatch.setattr(sort_free, "BLOCK", block)
    for found, expected in zip(everything(), whole, strict=True):
        # sums over parts of a row are added in another order
        assert_relative(found, expected, "level", np.dtype(dtype).name)
        if block >= 100:
            assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
def test_a_budget_of_zero_takes_the_extreme_ratios_and_one_of_tv_takes_one(pair):
    draft, target = pair
    known = target > 0
    ratios = draft[known] / target[known]
    zero, widest = np.asarray(0.0), np.asarray(tv(draft, target))
    assert_close(floor_level(draft, target, zero), min(ratios.min(), 1.0), "mass")
    leaks = draft[~known].sum() > 0
    assert_close(ceiling_level(draft, target, zero), np.inf if leaks else max(ratios.max(), 1.0), "mass")
    for budget in (widest, np.asarray(1.0)):
        # where nothing lies between a level and 1, any level there spends the same
        floor, ceiling = (float(each(draft, target, budget)) for each in (floor_level, ceiling_level))
        assert floor <= 1 <= ceiling
        assert_close(np.maximum(floor * target - draft, 0).sum(), widest, "mass")
        assert_close(np.maximum(draft - ceiling * target, 0).sum(), widest, "mass")


def test_the_floor_takes_masses_that_do_not_sum_to_one():
    draft, target = random_pair(1, vocab=8)
    accepted = draft * np.random.default_rng(0).random(8)
    budget = 1 - accepted.sum()
    assert_relative(floor_level(accepted, target, np.asarray(budget)), oracle_floor(accepted, target, budget), "level")


def test_an_integer_or_half_precision_row_is_solved_in_float32():
    draft, target = (torch.asarray(law, dtype=torch.bfloat16) for law in random_pair(1, vocab=8))
    wide = [law.to(torch.float64).numpy() for law in (draft, target)]
    found = floor_level(draft, target, torch.tensor(0.1))
    assert_relative(float(found), oracle_floor(wide[0], wide[1], float(torch.tensor(0.1))), "level", "float32")


# --- at a price ----------------------------------------------------------------------------------------------


@smooth_kind
@given(pair=law_pairs(), price=st.floats(1e-3, 30))
def test_the_price_lies_between_the_slopes_at_floor_and_ceiling_and_the_law_sums_to_one(name, pair, price):
    draft, target = pair
    measure = MEASURES[name]
    assume(float(tv(draft, target)) > 1e-3)  # what is best then is 1e-20, and 1 - 1e-20 is 1
    floor, ceiling = (float(each) for each in levels_at_price(draft, target, np.asarray(price), measure))
    clip = ratio_clip(draft, target, np.asarray(floor), np.asarray(ceiling))
    output = output_of(draft, clip.acceptance, clip.residual)
    assert_law(output, "price root")
    assert_law(clip.residual)
    assert 0 <= floor <= 1 <= ceiling
    # no other rejection is worth its price
    front = SortedFront(draft[None], target[None], measure)
    rivals = np.linspace(0, 1, 21)[None] * front.total_variation
    rejection = float(rejection_of(draft, clip.acceptance))
    cost = float(measure.value(output, target)) + price * rejection
    assert_at_most(cost, front.least_divergence(rivals) + price * rivals, "divergence")
    inside = 1e-6 < rejection < float(tv(draft, target)) - 1e-6 and abs(rejection - draft[target == 0].sum()) > 1e-6
    # a token of 1e-12 in the target moves C by 1e-4 for a rounding of R, and costs nothing
    if measure.strictly_convex and inside and np.isfinite(ceiling) and target[target > 0].min() > 1e-4:
        spread = measure.slope(np.asarray(ceiling)) - measure.slope(np.asarray(floor))
        assert_close(spread, price, "search")


@pytest.mark.parametrize("name", [name for name, each in MEASURES.items() if np.isfinite(each.slope_at_infinity)])
def test_a_leak_that_costs_no_more_than_the_price_has_the_floor_of_the_boundary(name):
    measure = MEASURES[name]
    draft, target = np.array([0.6, 0.2, 0.1, 0.1]), np.array([0.0, 0.2, 0.5, 0.3])
    floor, ceiling = levels_at_price(draft, target, np.asarray(1.3), measure)
    boundary = measure.ratio_at(np.asarray(measure.slope_at_infinity - 1.3))
    if np.maximum(float(boundary) * target - draft, 0).sum() < 0.6:
        assert ceiling == np.inf
        assert_close(floor, boundary, "price root")


@every_kind
def test_price_zero_is_lossless_and_an_infinite_price_rejects_least(name):
    for seed in range(8):
        draft, target = random_pair(seed, vocab=6, masked=seed % 4 == 3)
        free = ratio_clip_at_price(draft, target, 0.0, MEASURES[name])
        assert_close(output_of(draft, free.acceptance, free.residual), target, "price root")
        dear = ratio_clip_at_price(draft, target, np.inf, MEASURES[name])
        least = 0.0 if np.isfinite(MEASURES[name].slope_at_infinity) else draft[target == 0].sum()
        assert_close(rejection_of(draft, dear.acceptance), least, "price root")


@every_kind
@pytest.mark.parametrize("price", [0.0, 1e-9, 0.3, 1.0, 50.0, 1e6, np.inf])
def test_the_price_form_of_every_divergence_is_a_law_on_extreme_pairs(name, price):
    for label, (draft, target) in list(EXTREME_PAIRS.items())[:: 4 if name == "kinked" else 1]:
        clip = ratio_clip_at_price(draft, target, price, MEASURES[name])
        assert ((clip.acceptance >= 0) & (clip.acceptance <= 1)).all(), label
        assert_law(clip.residual)
        assert_law(output_of(draft, clip.acceptance, clip.residual), "price root")


@every_kind
def test_the_price_form_agrees_with_the_sorted_front(name):
    measure = MEASURES[name]
    for seed in range(2, 4) if name == "kinked" else range(8):
        draft, target = random_pair(seed, vocab=7, masked=seed % 4 == 3)
        front = SortedFront(draft[None], target[None], measure)
        for price in (0.05, 0.4, 1.5, 4.0):
            clip = ratio_clip_at_price(draft, target, price, measure)
            rejection = float(rejection_of(draft, clip.acceptance))
            value = float(measure.value(output_of(draft, clip.acceptance, clip.residual), target))
            best = front.rejection_at_price(np.full((1, 1), price))
            expected = float(front.least_divergence(best).item()) + price * best.item()
            assert_close(value + price * rejection, expected, "divergence")
            if measure.strictly_convex:
                assert_close(rejection, best.item(), "search")


@pytest.mark.parametrize("name", ["kl", "hellinger", "chi2"])
def test_float32_levels_at_a_price_are_right_to_five_digits(name):
    for vocab in (4, 1000, 20000):
        draft, target = zipf_pairs(vocab, 8, seed=vocab)
        wide = [law.astype(np.float64) for law in (draft, target)]
        wide = [law / law.sum(-1, keepdims=True) for law in wide]
        price = np.full(8, 0.4)
        for found, expected in zip(
            levels_at_price(draft, target, price, MEASURES[name]),
            levels_at_price(wide[0], wide[1], price, MEASURES[name]),
            strict=True,
        ):
            assert_relative(found, expected, "price level", "float32")
