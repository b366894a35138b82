"""The whole front from one sort: values, levels, prices and questions, between its breakpoints and beyond them."""

import numpy as np
import pytest
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
    tv,
)
from tolerances import assert_at_most, assert_close

from solvers.closed_form import ratio_clip_at_rejection
from solvers.divergences import DIVERGENCES
from solvers.sorted_front import SortedFront

every_kind = pytest.mark.parametrize("name", KINDS)
backend = pytest.mark.parametrize("convert", BACKENDS.values(), ids=BACKENDS.keys())
fractions = st.floats(0.02, 0.98)


def front_of(draft, target, name="kl"):
    return SortedFront(draft[None], target[None], MEASURES[name])


def value_of(draft, target, rejection, name):
    clip = ratio_clip_at_rejection(draft, target, rejection)
    return float(MEASURES[name].value(output_of(draft, clip.acceptance, clip.residual), target))


@every_kind
@given(pair=law_pairs(), fraction=fractions)
def test_the_least_divergence_is_that_of_the_ratio_clip(name, pair, fraction):
    draft, target = pair
    rejection = fraction * float(tv(draft, target))
    assume(rejection > 1e-6 or rejection == 0)
    found = front_of(pair[0], pair[1], name).least_divergence(np.full((1, 1), rejection)).item()
    assert_close(found, value_of(draft, target, rejection, name), "divergence")


@every_kind
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.7, 1.0])
def test_the_least_divergence_is_that_of_the_ratio_clip_on_extreme_pairs(name, fraction):
    for label, (draft, target) in EXTREME_PAIRS.items():
        if name == "alpha=3" and 0 < target.min() < 1e-100:
            continue  # the cube of a ratio of 1e150 is beyond float64
        rejection = fraction * float(tv(draft, target))
        found = front_of(draft, target, name).least_divergence(np.full((1, 1), rejection)).item()
        expected = value_of(draft, target, rejection, name)
        assert np.isclose(found, expected, rtol=1e-9, atol=1e-9), (label, found, expected)


@given(pair=law_pairs(), fraction=fractions)
def test_levels_agree_with_bracketed_root_finding(pair, fraction):
    draft, target = pair
    rejection = fraction * float(tv(draft, target))
    assume(rejection > 1e-6)
    floor, ceiling = front_of(*pair).levels(np.full((1, 1), rejection))
    assert_close(floor.item(), oracle_floor(draft, target, rejection), "divergence")
    if abs(draft[target == 0].sum() - rejection) > 1e-9:
        assert_close(ceiling.item(), oracle_ceiling(draft, target, rejection), "divergence")


def test_breakpoints_are_zero_tv_and_where_a_level_meets_a_ratio():
    # ratios 7/4, 1/2, 1/2: the ceiling starts at 7/4 and meets none before 1, the floor starts at 1/2
    front = front_of(np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2]))
    assert_close(np.unique(front.breakpoints().round(12)), [0.0, 0.3], "mass")
    # ratios 3, 2, 2/5, 1/5: the ceiling meets 2 after (3 - 2) 0.1, the floor meets 2/5 after (2/5 - 1/5) 0.5
    front = front_of(np.array([0.3, 0.4, 0.2, 0.1]), np.array([0.1, 0.2, 0.2, 0.5]))
    found = np.unique(front.breakpoints().round(12))
    assert_close(front.total_variation.item(), 0.4, "mass")
    for expected in (0.0, 0.1, 0.4):
        assert np.abs(found - expected).min() < 1e-12


@given(pair=law_pairs())
def test_between_breakpoints_both_levels_are_straight(pair):
    front = front_of(*pair)
    points = front.breakpoints()
    assert points.shape == (1, 2 * pair[0].shape[0] + 2)
    assert points[0, 0] == 0
    assert points[0, -1] == front.total_variation.item()
    assert (np.diff(points) >= 0).all()
    left, right = points[0, :-1], points[0, 1:]
    wide = right - left > 1e-6
    assume(wide.any())
    at = [(1 - share) * left[wide] + share * right[wide] for share in (0.1, 0.5, 0.9)]
    floors, ceilings = zip(*(front.levels(each[None]) for each in at), strict=True)
    assert_close(floors[1], (floors[0] + floors[2]) / 2, "divergence")
    assert (np.isfinite(ceilings[0]) == np.isfinite(ceilings[2])).all()
    finite = np.isfinite(ceilings[0])
    scale = np.maximum(ceilings[0][finite], 1.0)
    assert_close(ceilings[1][finite] / scale, (ceilings[0] + ceilings[2])[finite] / 2 / scale, "search")


@every_kind
def test_the_front_falls_from_the_drafts_divergence_to_zero_and_is_convex(name):
    for seed in range(8):
        draft, target = random_pair(seed, vocab=8, masked=seed % 4 == 3)
        front = front_of(draft, target, name)
        rejections = np.linspace(0, 1, 41)[None] * front.total_variation
        values = front.least_divergence(rejections)[0]
        assert_close(values[0], MEASURES[name].value(draft, target), "divergence")
        assert_close(values[-1], 0.0, "divergence")
        values = values[np.isfinite(values)]
        assert (np.diff(values) <= 1e-12).all()
        assert (np.diff(values, 2) >= -1e-9).all()


@every_kind
@given(pair=law_pairs(), fraction=fractions)
def test_the_price_is_a_subgradient_of_the_front(name, pair, fraction):
    front = front_of(pair[0], pair[1], name)
    rejection = fraction * front.total_variation
    price, value = front.price(rejection), front.least_divergence(rejection)
    assume(np.isfinite(price).all() and price.item() < 1e6)
    others = np.linspace(0, 1, 21)[None] * front.total_variation
    assert_at_most(value - price * (others - rejection), front.least_divergence(others), "divergence")
    assert price.item() >= 0


@every_kind
@given(pair=law_pairs(), fraction=fractions)
def test_a_rejection_is_found_from_its_divergence_and_from_its_price(name, pair, fraction):
    front = front_of(pair[0], pair[1], name)
    rejection = fraction * front.total_variation
    value, price = front.least_divergence(rejection), front.price(rejection)
    if not (rejection.item() > 1e-3 and np.isfinite(value).all() and 1e-3 < price.item() < 1e6):
        return  # flat or steep: the rejection cannot be told from its divergence
    assert_close(front.rejection_at_divergence(value), rejection, "search")
    again = front.rejection_at_price(price)
    cost = [front.least_divergence(each) + price * each for each in (rejection, again)]
    assert_close(cost[1], cost[0], "divergence")


def test_the_ends_of_the_questions_are_the_ends_of_the_front():
    for pair in EXTREME_PAIRS.values():
        front = front_of(*pair)
        widest = front.total_variation
        assert front.rejection_at_divergence(np.zeros((1, 1))).item() == widest.item()
        assert front.rejection_at_divergence(np.full((1, 1), np.inf)).item() == 0
        assert front.rejection_at_divergence(2 * front.least_divergence(np.zeros((1, 1))) + 1).item() == 0
        assert_close(front.least_divergence(front.rejection_at_price(np.zeros((1, 1)))).item(), 0.0, "divergence")
        dear = front.rejection_at_price(np.full((1, 1), np.inf)).item()
        assert_close(dear, pair[0][pair[1] == 0].sum(), "mass")


@backend
def test_rows_and_queries_are_answered_elementwise_on_the_host(convert):
    draft, target = np.random.default_rng(0).dirichlet(np.full(6, 0.5), size=(2, 3))
    front = SortedFront(convert(draft), convert(target), MEASURES["kl"])
    rejection = np.array([0.1, 0.5, 0.9]) * tv(draft, target)[:, None]
    found = (
        *front.levels(rejection),
        front.least_divergence(rejection),
        front.price(rejection),
        front.rejection_at_price(front.price(rejection)),
        front.rejection_at_divergence(front.least_divergence(rejection)),
        front.breakpoints()[:, :3],
    )
    assert all(type(each) is np.ndarray and each.shape == (3, 3) for each in found)
    for row in range(3):
        alone = front_of(draft[row], target[row])
        expected = (*alone.levels(rejection[row : row + 1]), alone.least_divergence(rejection[row : row + 1]))
        for each, one in zip(found[:3], expected, strict=True):
            assert_close(each[row], one[0], "mass")
    assert_close(found[4], rejection, "search")
    assert_close(found[5], rejection, "search")


def test_rejections_below_rounding_of_a_leak_are_found_where_nothing_leaks():
    draft, target = np.array([[0.7, 0.2, 0.1]]), np.array([[0.4, 0.4, 0.2]])
    front = SortedFront(draft, target, DIVERGENCES["kl"])
    nothing = np.zeros((1, 1))
    for rejection in (1e-9, 1e-11, 1e-12, 1e-13):
        # near R = 0 the front is its tangent; its value at 0 has sixteen digits, of which the difference keeps some
        wanted = front.least_divergence(nothing) - rejection * front.price(nothing)
        assert abs(float(front.rejection_at_divergence(wanted)[0, 0]) / rejection - 1) < 2e-16 / rejection


def test_rows_are_worked_on_in_pieces_that_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    draft, target = rng.dirichlet(np.full(40, 0.2), size=(2, 9))
    whole = SortedFront(draft, target, DIVERGENCES["kl"])
    monkeypatch.setattr("solvers.arrays.PIECE", 80)
    pieces = SortedFront(draft, target, DIVERGENCES["kl"])
    assert len(pieces._sides) == 5
    wanted = np.linspace(0, 1, 7) * whole.total_variation
    for name in ("least_divergence", "price"):
        np.testing.assert_array_equal(getattr(pieces, name)(wanted), getattr(whole, name)(wanted))
    np.testing.assert_array_equal(pieces.breakpoints(), whole.breakpoints())
