"""T4: the price form against a search, against the front, and as the best split over positions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, law_pairs, output_of, random_pair, rejection_of, tv
from scipy.optimize import minimize_scalar
from tolerances import assert_at_most, assert_close, assert_law

from solvers.closed_form import (
    ratio_clip_at_price,
    ratio_clip_at_rejection,
)
from solvers.divergences import DIVERGENCES

kl = DIVERGENCES["kl"].value

RANDOM_PAIRS = [random_pair(seed, vocab=6, masked=seed % 4 == 3) for seed in range(12)]
extreme = pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())


@given(pair=law_pairs(), price=st.floats(0.01, 30))
def test_the_price_form_spends_the_price_between_floor_and_ceiling_and_sums_to_one(pair, price):
    draft, target = pair
    clip = ratio_clip_at_price(draft, target, price)
    assert_close(np.log(clip.ceiling / clip.floor), price, "price root")
    assert_close(np.clip(draft, clip.floor * target, clip.ceiling * target).sum(), 1.0, "price root")


@given(pair=law_pairs(), price=st.floats(0.01, 30))
def test_the_price_form_is_the_fronts_law_at_its_own_rejection(pair, price):
    draft, target = pair
    clip = ratio_clip_at_price(draft, target, price)
    by_rejection = ratio_clip_at_rejection(draft, target, rejection_of(draft, clip.acceptance))
    assert_close(
        output_of(draft, clip.acceptance, clip.residual),
        output_of(draft, by_rejection.acceptance, by_rejection.residual),
        "price root",
    )


@pytest.mark.parametrize("price", [0.05, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("pair", RANDOM_PAIRS)
def test_the_price_form_equals_a_search_over_rejections(pair, price):
    draft, target = pair

    def cost(rejection):
        clip = ratio_clip_at_rejection(draft, target, rejection)
        return float(kl(output_of(draft, clip.acceptance, clip.residual), target)) + price * rejection

    least = float(draft[target == 0].sum())
    bounds = (least + 1e-12, float(tv(draft, target)))
    found: Any = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    clip = ratio_clip_at_price(draft, target, price)
    rejection = float(rejection_of(draft, clip.acceptance))
    value = float(kl(output_of(draft, clip.acceptance, clip.residual), target)) + price * rejection
    searched = min(float(found.fun), cost(bounds[0]), cost(bounds[1]))
    assert_close(value, searched, "search")


def test_price_zero_is_lossless_and_an_infinite_price_accepts_all_that_the_target_knows():
    for draft, target in RANDOM_PAIRS:
        free = ratio_clip_at_price(draft, target, 0.0)
        assert_close(output_of(draft, free.acceptance, free.residual), target, "price root")
        assert_close(rejection_of(draft, free.acceptance), tv(draft, target), "price root")
        dear = ratio_clip_at_price(draft, target, np.inf)
        assert_close(rejection_of(draft, dear.acceptance), draft[target == 0].sum(), "price root")


def test_a_higher_price_never_rejects_more():
    prices = np.concatenate([[0.0], np.logspace(-3, 2.8, 40), [np.inf]])
    for draft, target in [*RANDOM_PAIRS, *EXTREME_PAIRS.values()]:
        rejections = [rejection_of(draft, ratio_clip_at_price(draft, target, price).acceptance) for price in prices]
        assert (np.diff(rejections) <= 1e-12).all()


@extreme
@pytest.mark.parametrize("price", [0.0, 1e-9, 1.0, 50.0, 699.0, 1e6, np.inf])
def test_the_price_form_is_a_law_on_extreme_pairs(pair, price):
    draft, target = pair
    clip = ratio_clip_at_price(draft, target, price)
    assert ((clip.acceptance >= 0) & (clip.acceptance <= 1)).all()
    assert_law(clip.residual)
    output = output_of(draft, clip.acceptance, clip.residual)
    assert np.isfinite(kl(output, target))
    known = target > 0
    spread = clip.ceiling * target[known]
    assert_close(output[known], np.clip(draft[known], clip.floor * target[known], spread), "price root")


def test_one_common_price_has_the_least_total_kl_at_its_total_rejection():
    pairs = [random_pair(seed, vocab=8) for seed in range(100, 106)]
    clips = [ratio_clip_at_price(draft, target, 0.7) for draft, target in pairs]
    spent = np.array([rejection_of(draft, clip.acceptance) for (draft, _), clip in zip(pairs, clips, strict=True)])

    def total(rejections):
        value = 0.0
        for (draft, target), rejection in zip(pairs, rejections, strict=True):
            clip = ratio_clip_at_rejection(draft, target, rejection)
            value += float(kl(output_of(draft, clip.acceptance, clip.residual), target))
        return value

    best, widest = total(spent), np.array([tv(*pair) for pair in pairs])
    rng = np.random.default_rng(2)
    for scale in (1.0, 0.1, 1e-3):
        for _ in range(60):
            step = scale * rng.normal(size=len(pairs))
            moved = spent + 0.05 * (step - step.mean())
            if (moved > 0).all() and (moved < widest).all():
                assert_at_most(best, total(moved), "price root")
