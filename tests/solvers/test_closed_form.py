"""The closed forms against hand computation, root finding, enumeration of sets and random competitors."""

from fractions import Fraction
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import (
    EXTREME_PAIRS,
    law_pairs,
    oracle_ceiling,
    oracle_floor,
    output_of,
    random_feasible_outputs,
    random_pair,
    rejection_of,
    tv,
)
from tolerances import assert_at_most, assert_close, assert_law

from solvers.closed_form import (
    least_bias,
    lenient_acceptance,
    optimal_residual,
    ratio_clip_at_price,
    ratio_clip_at_rejection,
    residual_capacity,
    residual_fill,
    tv_front,
)
from solvers.divergences import DIVERGENCES
from solvers.sort_free import ceiling_level, floor_level
from solvers.sorted_front import SortedFront

kl = DIVERGENCES["kl"].value

DRAFT = np.array([0.7, 0.2, 0.1])
TARGET = np.array([0.4, 0.4, 0.2])
RANDOM_PAIRS = [random_pair(seed, vocab=6, masked=seed % 4 == 3) for seed in range(12)]
extreme = pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
fractions = st.floats(0.05, 0.95)


# --- Theorem 4: a fixed acceptance ---------------------------------------------------------------------------


def random_fill(rng, capacity, amount):
    """Fill `amount` into the capacities in a random order: a vertex of Theorem 4's set."""
    filled, left = np.zeros_like(capacity), amount
    for token in rng.permutation(capacity.shape[0]):
        filled[token] = min(capacity[token], left)
        left -= filled[token]
    assert left <= 1e-12
    return filled


@given(pair=law_pairs(), seed=st.integers(0, 10**6))
def test_every_residual_within_the_capacity_attains_the_least_bias(pair, seed):
    draft, target = pair
    rng = np.random.default_rng(seed)
    acceptance = rng.random(draft.shape[0])
    accepted, rejection = acceptance * draft, float(rejection_of(draft, acceptance))
    capacity = residual_capacity(draft, target, acceptance)
    weight = rng.random()
    residual = weight * random_fill(rng, capacity, rejection) + (1 - weight) * random_fill(rng, capacity, rejection)
    assert_close(tv(accepted + residual, target), least_bias(draft, target, acceptance), "mass")


@pytest.mark.parametrize("pair", RANDOM_PAIRS)
def test_a_residual_outside_the_capacity_has_more_bias(pair):
    draft, target = pair
    rng = np.random.default_rng(5)
    for _ in range(20):
        acceptance = rng.random(draft.shape[0])
        accepted, rejection = acceptance * draft, float(rejection_of(draft, acceptance))
        capacity = residual_capacity(draft, target, acceptance)
        residual = random_fill(rng, capacity, rejection)
        giver, taker = int(residual.argmax()), int((capacity - residual).argmin())
        if giver == taker:
            continue
        excess = 0.5 * residual[giver]
        residual[giver] -= excess
        residual[taker] += excess
        outside = max(residual[taker] - capacity[taker], 0)
        assert outside > 1e-6
        assert_close(tv(accepted + residual, target), least_bias(draft, target, acceptance) + outside, "mass")


@given(pair=law_pairs(), seed=st.integers(0, 10**6))
def test_no_residual_law_beats_the_least_bias(pair, seed):
    draft, target = pair
    rng = np.random.default_rng(seed)
    acceptance = rng.random(draft.shape[0])
    residuals = rng.dirichlet(np.full(draft.shape[0], 0.5), size=200)
    outputs = output_of(draft, acceptance, residuals)
    assert_at_most(least_bias(draft, target, acceptance), tv(outputs, target), "mass")


@given(pair=law_pairs(), seed=st.integers(0, 10**6))
def test_the_two_forms_of_theorem_4_agree(pair, seed):
    draft, target = pair
    acceptance = np.random.default_rng(seed).random(draft.shape[0])
    paper = np.abs(target - acceptance * draft).sum() / 2 - rejection_of(draft, acceptance) / 2
    assert_close(least_bias(draft, target, acceptance), paper, "mass")


@given(pair=law_pairs(), epsilon=st.floats(0, 1))
def test_decoding_opts_residual_lies_in_theorem_4s_set(pair, epsilon):
    draft, target = pair
    acceptance = np.minimum(1, (target + epsilon) / np.where(draft > 0, draft, 1))
    residual = rejection_of(draft, acceptance) * optimal_residual(draft, target, acceptance)
    capacity = residual_capacity(draft, target, acceptance)
    assert_law(optimal_residual(draft, target, acceptance))
    assert_at_most(residual, capacity, "mass")
    accepted = acceptance * draft
    assert_close(tv(accepted + residual, target), least_bias(draft, target, acceptance), "mass")


def test_an_acceptance_below_the_lossless_one_has_no_bias_and_one_optimal_residual():
    acceptance = 0.5 * np.minimum(1, TARGET / DRAFT)
    capacity = residual_capacity(DRAFT, TARGET, acceptance)
    assert_close(least_bias(DRAFT, TARGET, acceptance), 0.0, "mass")
    assert_close(capacity.sum(), rejection_of(DRAFT, acceptance), "mass")


def test_a_residual_without_mass_becomes_the_target():
    assert optimal_residual(TARGET, TARGET, np.ones(3)).tolist() == TARGET.tolist()


# --- Theorem 5: the TV front ---------------------------------------------------------------------------------


@given(pair=law_pairs(), fraction=st.floats(0, 1))
def test_rejection_and_least_bias_add_up_to_the_total_variation(pair, fraction):
    draft, target = pair
    rejection = fraction * tv(draft, target)
    clip = ratio_clip_at_rejection(draft, target, rejection)
    bias = tv(output_of(draft, clip.acceptance, clip.residual), target)
    assert_close(bias + rejection, tv(draft, target), "mass")
    assert_close(tv_front(draft, target, rejection), bias, "mass")


def test_the_tv_front_is_zero_beyond_the_total_variation():
    assert float(tv_front(DRAFT, TARGET, np.asarray(0.9))) == 0.0


@given(pair=law_pairs(), lift=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_any_acceptance_above_the_lossless_one_reaches_the_tv_front(pair, lift, seed):
    draft, target = pair
    lossless = np.minimum(1, target / np.where(draft > 0, draft, 1))
    acceptance = lossless + lift * np.random.default_rng(seed).random(draft.shape[0]) * (1 - lossless)
    total = rejection_of(draft, acceptance) + least_bias(draft, target, acceptance)
    assert_close(total, tv(draft, target), "mass")


# --- T2: levels by one sort, and without ---------------------------------------------------------------------


def sorted_levels(draft, target, budget):
    floor, ceiling = SortedFront(draft[None], target[None], DIVERGENCES["tv"]).levels(np.full((1, 1), budget))
    return floor.item(), ceiling.item()


def sort_free_levels(draft, target, budget):
    budget = np.asarray(budget)
    return float(floor_level(draft, target, budget)), float(ceiling_level(draft, target, budget))


both_ways = pytest.mark.parametrize("levels", [sorted_levels, sort_free_levels], ids=["sorted", "sort-free"])


@both_ways
@given(pair=law_pairs(), fraction=fractions)
def test_levels_by_sorting_equal_levels_by_root_finding(levels, pair, fraction):
    draft, target = pair
    budget = fraction * tv(draft, target)
    assume(budget > 1e-6)  # the root finder's own resolution
    floor, ceiling = levels(draft, target, budget)
    assert_close(floor, oracle_floor(draft, target, budget), "divergence")
    known = target > 0
    if abs(draft[~known].sum() - budget) > 1e-9:
        assert_close(ceiling, oracle_ceiling(draft, target, budget), "divergence")


@both_ways
@extreme
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_levels_spend_exactly_the_budget_on_extreme_pairs(levels, pair, fraction):
    draft, target = pair
    budget = fraction * tv(draft, target)
    floor, ceiling = levels(draft, target, budget)
    assert_close(np.maximum(floor * target - draft, 0).sum(), budget, "mass")
    if np.isfinite(ceiling):
        assert_close(np.maximum(draft - ceiling * target, 0).sum(), budget, "mass")
    else:
        assert draft[target == 0].sum() > budget


@both_ways
def test_levels_equal_the_extremum_over_all_sets_in_exact_arithmetic(levels):
    draft = [Fraction(n, 16) for n in (6, 4, 3, 2, 1)]
    target = [Fraction(n, 16) for n in (2, 4, 2, 3, 5)]
    budget = Fraction(1, 8)
    sets = list(chain.from_iterable(combinations(range(5), size) for size in range(1, 6)))
    floor = min((sum(draft[x] for x in s) + budget) / sum(target[x] for x in s) for s in sets)
    ceiling = max((sum(draft[x] for x in s) - budget) / sum(target[x] for x in s) for s in sets)
    assert floor < 1 < ceiling
    p, q = np.array(draft, dtype=float), np.array(target, dtype=float)
    assert_close(levels(p, q, 0.125), [float(floor), float(ceiling)], "mass")


@both_ways
def test_the_floor_is_at_least_the_share_of_the_total_variation_spent(levels):
    for draft, target in RANDOM_PAIRS:
        for fraction in (0.1, 0.5, 0.9):
            assert levels(draft, target, fraction * tv(draft, target))[0] >= fraction - 1e-12


# --- T1: the ratio clip --------------------------------------------------------------------------------------


def test_the_ratio_clip_computed_by_hand():
    # C: 0.7 - 0.4 C = 0.15;  c: (0.4 c - 0.2) + (0.2 c - 0.1) = 0.15
    clip = ratio_clip_at_rejection(DRAFT, TARGET, 0.15)
    assert_close(clip.ceiling, 1.375, "mass")
    assert_close(clip.floor, 0.75, "mass")
    assert_close(clip.acceptance, [0.55 / 0.7, 1, 1], "mass")
    assert_close(clip.residual, [0, 2 / 3, 1 / 3], "mass")
    assert_close(output_of(DRAFT, clip.acceptance, clip.residual), [0.55, 0.3, 0.15], "mass")


@extreme
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_ratio_clip_rejects_as_often_as_asked_and_clips_the_ratio(pair, fraction):
    draft, target = pair
    rejection = fraction * tv(draft, target)
    clip = ratio_clip_at_rejection(draft, target, rejection)
    assert ((clip.acceptance >= 0) & (clip.acceptance <= 1)).all()
    assert_law(clip.residual)
    assert clip.floor <= 1 <= clip.ceiling
    assert_close(rejection_of(draft, clip.acceptance), rejection, "mass")
    output = output_of(draft, clip.acceptance, clip.residual)
    assert_law(output)
    known = target > 0
    ceiling = min(float(clip.ceiling), 1e308)
    expected = np.clip(draft[known], clip.floor * target[known], ceiling * target[known])
    assert_close(output[known], expected, "mass")
    spared = max(draft[~known].sum() - rejection, 0)
    assert_close(output[~known].sum(), spared, "mass")


@every_divergence
@given(pair=law_pairs(), fraction=fractions, seed=st.integers(0, 10**6))
def test_no_feasible_acceptance_and_residual_beat_the_ratio_clip(name, pair, fraction, seed):
    draft, target = pair
    rejection = fraction * float(tv(draft, target))
    clip = ratio_clip_at_rejection(draft, target, rejection)
    best = output_of(draft, clip.acceptance, clip.residual)
    accepted, residual = random_feasible_outputs(np.random.default_rng(seed), draft, rejection, 400)
    rivals = accepted + residual
    measure = DIVERGENCES[name].value
    # small steps towards the rivals test the first-order condition, which any error in c or C violates
    for step in (1.0, 0.1, 1e-3):
        mixed = (1 - step) * best + step * rivals
        assert_at_most(measure(best, target), measure(mixed, np.broadcast_to(target, mixed.shape)), "divergence")


@every_divergence
def test_moving_mass_between_clipped_tokens_is_worse_in_every_divergence_but_tv(name):
    # at the same rejection and the same TV: what the comparison above must be able to notice
    draft, target = np.array([0.4, 0.3, 0.1, 0.1, 0.1]), np.array([0.2, 0.1, 0.2, 0.2, 0.3])
    clip = ratio_clip_at_rejection(draft, target, 0.2)
    best = output_of(draft, clip.acceptance, clip.residual)
    moved = best + np.array([0.01, -0.01, 0, 0, 0])
    assert_close(np.maximum(draft - moved, 0).sum(), 0.2, "mass")
    measure = DIVERGENCES[name].value
    if name == "tv":
        assert_close(measure(moved, target), measure(best, target), "mass")
    else:
        assert measure(moved, target) > measure(best, target) + 1e-5


@every_divergence
def test_the_ratio_clip_beats_every_published_residual_at_its_own_rejection(name):
    for draft, target in RANDOM_PAIRS:
        acceptance = np.minimum(1, (target + 0.1) / draft)
        rival = output_of(draft, acceptance, optimal_residual(draft, target, acceptance))
        clip = ratio_clip_at_rejection(draft, target, rejection_of(draft, acceptance))
        best = output_of(draft, clip.acceptance, clip.residual)
        assert_at_most(DIVERGENCES[name].value(best, target), DIVERGENCES[name].value(rival, target), "divergence")


def test_draft_mass_off_the_support_is_spared_evenly_when_it_exceeds_the_rejection():
    draft, target = np.array([0.2, 0.4, 0.4]), np.array([0.0, 0.0, 1.0])
    clip = ratio_clip_at_rejection(draft, target, 0.15)
    assert clip.ceiling == np.inf
    assert_close(clip.acceptance, [0.75, 0.75, 1.0], "mass")
    assert_close(clip.residual, [0, 0, 1], "mass")


@given(pair=law_pairs(), ceiling=st.one_of(st.floats(1, 50), st.just(np.inf)))
def test_a_ceiling_with_its_fill_is_the_ratio_clip_at_the_rejection_it_leads_to(pair, ceiling):
    draft, target = pair
    acceptance = lenient_acceptance(draft, target, ceiling)
    residual, _ = residual_fill(draft, target, acceptance)
    by_rejection = ratio_clip_at_rejection(draft, target, rejection_of(draft, acceptance))
    assert_close(
        output_of(draft, acceptance, residual),
        output_of(draft, by_rejection.acceptance, by_rejection.residual),
        "mass",
    )


def test_acceptance_is_zero_off_the_targets_support_whatever_the_ceiling():
    draft, target = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])
    for ceiling in (1.0, 7.0, np.inf):
        assert lenient_acceptance(draft, target, ceiling).tolist() == [0.0, 1.0, 1.0]


def test_a_larger_rejection_raises_the_floor_and_lowers_the_ceiling_and_the_divergence():
    for draft, target in RANDOM_PAIRS:
        budgets = np.linspace(0.02, 1, 25) * tv(draft, target)
        clips = [ratio_clip_at_rejection(draft, target, budget) for budget in budgets]
        values = [kl(output_of(draft, clip.acceptance, clip.residual), target) for clip in clips]
        finite = [value for value in values if np.isfinite(value)]
        assert (np.diff([clip.floor for clip in clips]) >= -1e-12).all()
        assert all(b.ceiling <= a.ceiling + 1e-12 for a, b in zip(clips, clips[1:], strict=False))
        assert (np.diff(values[-len(finite) :]) <= 1e-12).all()
        assert (np.diff(finite, 2) >= -1e-12).all(), "the front is convex"


# --- T3: the best residual of a fixed acceptance -------------------------------------------------------------


@every_divergence
@given(pair=law_pairs(), seed=st.integers(0, 10**6))
def test_no_residual_beats_the_fill_in_any_divergence(name, pair, seed):
    draft, target = pair
    rng = np.random.default_rng(seed)
    acceptance = rng.random(draft.shape[0])
    residual, floor = residual_fill(draft, target, acceptance)
    best = output_of(draft, acceptance, residual)
    assert_law(residual)
    assert_close(best, np.maximum(acceptance * draft, floor * target), "mass")
    rivals = output_of(draft, acceptance, rng.dirichlet(np.full(draft.shape[0], 0.4), size=300))
    measure = DIVERGENCES[name].value
    for step in (1.0, 0.1, 1e-3):
        mixed = (1 - step) * best + step * rivals
        assert_at_most(measure(best, target), measure(mixed, np.broadcast_to(target, mixed.shape)), "divergence")


@given(pair=law_pairs(), seed=st.integers(0, 10**6))
def test_the_fill_lies_in_theorem_4s_set(pair, seed):
    draft, target = pair
    acceptance = np.random.default_rng(seed).random(draft.shape[0])
    residual, floor = residual_fill(draft, target, acceptance)
    assert floor <= 1 + 1e-12
    masses = rejection_of(draft, acceptance) * residual
    assert_at_most(masses, residual_capacity(draft, target, acceptance), "mass")


# --- batches and libraries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_batch_is_solved_row_by_row(library):
    rng = np.random.default_rng(3)
    draft, target = rng.dirichlet(np.full(9, 0.5), size=(2, 2, 3))
    budget = 0.4 * tv(draft, target)
    convert = np.asarray if library == "numpy" else torch.asarray
    batch = convert(draft), convert(target)
    results = {
        "rejection": ratio_clip_at_rejection(*batch, convert(budget)),
        "price": ratio_clip_at_price(*batch, 0.8),
    }
    for i, j in np.ndindex(2, 3):
        row = draft[i, j], target[i, j]
        alone = {
            "rejection": ratio_clip_at_rejection(*row, budget[i, j]),
            "price": ratio_clip_at_price(*row, 0.8),
        }
        for knob, clip in results.items():
            for field in ("acceptance", "residual", "floor", "ceiling"):
                assert_close(getattr(clip, field)[i, j], getattr(alone[knob], field), "price root")
