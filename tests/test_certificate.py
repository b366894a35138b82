"""The certificate is attained by optima, missed by anything else, and never above the optimum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, law_pairs, random_feasible_outputs, random_pair, tv
from tolerances import assert_at_most, assert_close

from solvers.certificate import dual_bound
from solvers.closed_form import ratio_clip_at_rejection
from solvers.divergences import DIVERGENCES
from tradeoff import solve_pareto
from tradeoff.pareto import ParetoPoint

every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
strictly_convex = pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "tv"])
extreme = pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())


def bound(name, draft, target, rejection, floor, ceiling):
    return float(
        dual_bound(
            draft,
            target,
            np.asarray(rejection),
            floor=np.asarray(floor),
            ceiling=np.asarray(ceiling),
            divergence=DIVERGENCES[name],
        )
    )


def exact(draft, target, rejection):
    clip = ratio_clip_at_rejection(draft, target, rejection)
    accepted = clip.acceptance * draft
    return accepted + (1 - accepted.sum()) * clip.residual, float(clip.floor), float(clip.ceiling)


def assert_attained(name, draft, target, rejection):
    output, floor, ceiling = exact(draft, target, rejection)
    value = float(DIVERGENCES[name].value(output, target))
    assert_close(bound(name, draft, target, rejection, floor, ceiling), value, "divergence")


# fractions of TV stop short of 0, where f' may be infinite and the bound says nothing (minus infinity)
@every_divergence
@given(pair=law_pairs(), fraction=st.floats(0.05, 0.95))
def test_the_ratio_clip_attains_the_bound(name, pair, fraction):
    draft, target = pair
    assert_attained(name, draft, target, fraction * float(tv(draft, target)))


@every_divergence
@extreme
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95])
def test_the_ratio_clip_attains_the_bound_on_extreme_pairs(name, pair, fraction):
    draft, target = pair
    assert_attained(name, draft, target, fraction * float(tv(draft, target)))


def test_the_bound_computed_by_hand():
    # draft (.7, .2, .1), target (.4, .4, .2), R = .15: pi = (.55, .3, .15)
    value = 0.55 * np.log(1.375) + 0.45 * np.log(0.75)
    draft, target = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    assert_close(bound("kl", draft, target, 0.15, 0.75, 1.375), value, "mass")


@every_divergence
@given(
    pair=law_pairs(),
    fraction=st.floats(0.05, 0.95),
    levels=st.tuples(st.floats(1e-3, 3.0), st.floats(1e-3, 3.0)),
)
def test_no_pair_of_levels_lifts_the_bound_above_the_optimum(name, pair, fraction, levels):
    draft, target = pair
    rejection = fraction * float(tv(draft, target))
    output, *_ = exact(draft, target, rejection)
    floor, ceiling = min(levels), max(levels)
    claimed = bound(name, draft, target, rejection, floor, ceiling)
    assert_at_most(claimed, float(DIVERGENCES[name].value(output, target)), "divergence")


@every_divergence
@given(pair=law_pairs(), fraction=st.floats(0.05, 0.95), seed=st.integers(0, 10**6))
def test_the_bound_is_below_every_feasible_law(name, pair, fraction, seed):
    draft, target = pair
    rejection = fraction * float(tv(draft, target))
    _, floor, ceiling = exact(draft, target, rejection)
    outputs = sum(random_feasible_outputs(np.random.default_rng(seed), draft, rejection, 100))
    values = DIVERGENCES[name].value(outputs, np.broadcast_to(target, draft.shape))
    assert_at_most(bound(name, draft, target, rejection, floor, ceiling), values, "divergence")


@strictly_convex
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("floor_scale", "ceiling_scale"), [(0.9, 1), (1.05, 1), (1, 1.2), (1, 0.9), (0.9, 1.1)])
def test_a_wrong_floor_or_ceiling_does_not_certify_the_optimum(name, seed, floor_scale, ceiling_scale):
    draft, target = random_pair(seed, vocab=8)
    rejection = 0.4 * float(tv(draft, target))
    output, floor, ceiling = exact(draft, target, rejection)
    value = float(DIVERGENCES[name].value(output, target))
    claimed = bound(name, draft, target, rejection, floor * floor_scale, ceiling * ceiling_scale)
    assert value - claimed > 1e-5


@strictly_convex
@pytest.mark.parametrize("seed", range(6))
def test_a_law_with_moved_mass_is_not_certified(name, seed):
    draft, target = random_pair(seed, vocab=8)
    output, floor, ceiling = exact(draft, target, 0.4 * float(tv(draft, target)))
    moved = output.copy()
    giver, taker = int(output.argmax()), int(output.argmin())
    moved[giver] -= 0.05
    moved[taker] += 0.05
    rejection = float(tv(draft, moved))
    gap = float(DIVERGENCES[name].value(moved, target)) - bound(name, draft, target, rejection, floor, ceiling)
    assert gap > 1e-4


def test_a_law_off_the_tv_front_is_not_certified_and_its_gap_is_its_distance_to_the_front():
    draft, target = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    uno = np.array([0.58, 0.28, 0.14])  # accept 5/7, 1, 1 and resample from the target: R = 0.2, bias 0.18
    assert_close(tv(uno, target) - bound("tv", draft, target, 0.2, 0.9, 1.1), 0.08, "mass")


@strictly_convex
def test_the_answer_for_one_price_is_not_certified_at_another(name):
    for seed in range(6):
        draft, target = random_pair(seed, vocab=8)
        widest = float(tv(draft, target))
        _, floor, ceiling = exact(draft, target, 0.4 * widest)
        output, *_ = exact(draft, target, 0.5 * widest)
        value = float(DIVERGENCES[name].value(output, target))
        assert value - bound(name, draft, target, 0.5 * widest, floor, ceiling) > 1e-5


@pytest.mark.parametrize("name", ["kl", "chi2"])
def test_a_leak_that_cannot_be_avoided_is_bounded_by_infinity(name):
    draft, target = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.5, 0.5])
    assert bound(name, draft, target, 0.2, 0.5, np.inf) == np.inf


@pytest.mark.parametrize("name", ["tv", "reverse_kl", "hellinger"])
def test_a_leak_is_certified_where_the_divergence_stays_finite(name):
    assert_attained(name, np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.5, 0.5]), 0.2)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "hellinger"])
def test_an_infinite_slope_makes_the_bound_vacuous_not_wrong(name):
    draft, target = np.array([0.7, 0.3]), np.array([0.4, 0.6])
    assert bound(name, draft, target, 0.1, 0.0, 2.0) == -np.inf


def _point(divergence, lower_bound):
    row = np.asarray(0.1)
    return ParetoPoint(
        rejection=row,
        divergence=np.asarray(divergence),
        acceptance=np.ones(2),
        residual=np.ones(2) / 2,
        output_law=np.ones(2) / 2,
        floor=row,
        ceiling=row,
        price=row,
        lower_bound=np.asarray(lower_bound),
    )


@pytest.mark.parametrize(
    ("divergence", "lower_bound", "gap"),
    [
        (0.5, 0.25, 0.25),
        (np.inf, np.inf, 0.0),
        (np.inf, 1.0, np.inf),
        (1.0, -np.inf, np.inf),
        pytest.param(
            np.inf,
            -np.inf,
            np.inf,
        ),
    ],
)
def test_the_optimality_gap_of_a_point_is_zero_only_when_proven(divergence, lower_bound, gap):
    assert float(_point(divergence, lower_bound).optimality_gap) == gap


@pytest.mark.parametrize("name", ["kl", "chi2"])
def test_the_lossless_end_of_masked_targets_is_certified(name):
    # the target is the draft under a mask: R = TV = the draft's mass off the support, equal but for rounding
    gaps = []
    for seed in range(200):
        draft, keep = random_pair(seed, vocab=10)
        target = np.where(keep > 0.05, draft, 0.0)
        front = solve_pareto(draft, target / target.sum(), divergence=name, rejection=0.0)
        gaps.append(float(front.at(rejection=front.total_variation).optimality_gap))
    assert_close(gaps, np.zeros(200), "divergence")
