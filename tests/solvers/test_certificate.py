"""The certificate is attained by optima, missed by anything else, and never above the optimum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, KINDS, MEASURES, law_pairs, output_of, random_feasible_outputs, random_pair, tv
from tolerances import assert_at_most, assert_close, tolerance

from solvers.certificate import Certificate, certify, dual_line
from solvers.closed_form import ratio_clip_at_rejection
from solvers.divergences import DIVERGENCES
from tradeoff import solve_pareto

every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
every_kind = pytest.mark.parametrize("name", KINDS)
strictly_convex = pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "tv"])
# a budget below the rounding of 1 cannot be spent: an acceptance of 1 - 1e-20 is 1
budgets = st.one_of(st.just(0.0), st.floats(1e-3, 1))


def bound(name, draft, target, rejection, floor, ceiling):
    """What the levels prove, whatever the rule."""
    return float(
        certify(
            draft,
            target,
            acceptance=np.ones_like(draft),
            residual=target,
            budget=np.asarray(rejection),
            floor=np.asarray(floor),
            ceiling=np.asarray(ceiling),
            divergence=DIVERGENCES[name],
        ).bound
    )


def exact(draft, target, rejection):
    clip = ratio_clip_at_rejection(draft, target, rejection)
    accepted = clip.acceptance * draft
    return accepted + (1 - accepted.sum()) * clip.residual, float(clip.floor), float(clip.ceiling)


def assert_attained(name, draft, target, rejection):
    output, floor, ceiling = exact(draft, target, rejection)
    value = float(DIVERGENCES[name].value(output, target))
    assert_close(bound(name, draft, target, rejection, floor, ceiling), value, "divergence")


# fractions of TV stop short of 0, where f' may be infinite and the bound says nothing
@every_divergence
@given(pair=law_pairs(), fraction=st.floats(0.05, 0.95))
def test_the_ratio_clip_attains_the_bound(name, pair, fraction):
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
    assert value - claimed > 1e-6


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


@pytest.mark.parametrize("name", ["tv", "reverse_kl", "reverse_chi2", "hellinger", "js"])
def test_a_leak_is_certified_where_the_divergence_stays_finite(name):
    assert_attained(name, np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.5, 0.5]), 0.2)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "reverse_chi2", "hellinger", "js"])
def test_an_infinite_slope_makes_the_bound_vacuous_not_wrong(name):
    draft, target = np.array([0.7, 0.3]), np.array([0.4, 0.6])
    assert bound(name, draft, target, 0.1, 0.0, 2.0) == 0.0
    levels = {"floor": np.asarray(0.0), "ceiling": np.asarray(2.0)}
    assert dual_line(draft, target, **levels, divergence=DIVERGENCES[name])[1] == np.inf


@every_kind
@given(pair=law_pairs(), levels=st.tuples(st.floats(0, 1), st.floats(1, 50)), fraction=budgets)
def test_wrong_levels_leave_a_gap_and_never_a_negative_one(name, pair, levels, fraction):
    draft, target = pair
    point = solve_pareto(draft, target, divergence=MEASURES[name], rejection=0.0).at(
        rejection=fraction * float(tv(draft, target))
    )
    floor, ceiling = (np.asarray(level) for level in levels)
    gap = replace(point, floor=floor, ceiling=ceiling).certificate.gap
    finite = point.divergence if np.isfinite(point.divergence) else 0.0
    assert gap >= -tolerance("divergence") * (1 + finite)


@pytest.mark.parametrize(
    ("value", "bound", "gap"), [(0.5, 0.25, 0.25), (np.inf, np.inf, 0.0), (np.inf, 1.0, np.inf), (1.0, 0.0, 1.0)]
)
def test_the_gap_is_zero_only_when_the_optimum_is_proven(value, bound, gap):
    row = np.asarray(0.0)
    certificate = Certificate(
        value=np.asarray(value), bound=np.asarray(bound), price=row, infeasibility=row, unique=row > 0
    )
    assert float(certificate.gap) == gap
    assert certificate.holds() == (gap == 0)


# --- the certificate of a point ------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_right_answers_hold_on_extreme_pairs(name, fraction):
    for label, (draft, target) in EXTREME_PAIRS.items():
        front = solve_pareto(draft, target, divergence=MEASURES[name], rejection=0.0)
        certificate = front.at(rejection=fraction * front.total_variation).certificate
        assert certificate.holds(tolerance("divergence")), (label, certificate)


@every_kind
@given(pair=law_pairs(), fraction=budgets)
def test_right_answers_hold_to_nine_digits(name, pair, fraction):
    front = solve_pareto(*pair, divergence=MEASURES[name], rejection=0.0)
    assert front.at(rejection=fraction * front.total_variation).certificate.holds(tolerance("divergence"))


@pytest.mark.parametrize("name", MEASURES)
def test_where_nothing_may_be_rejected_nothing_is(name):
    """Ceiling times target may round to less than the draft: a rejection of 1e-16 made infinite divergences finite."""
    kept = np.random.default_rng(5).uniform(0.05, 0.95, 200)
    draft = np.stack([np.ones(200), np.zeros(200)], axis=-1)
    target = np.stack([kept, 1.0 - kept], axis=-1)
    point = solve_pareto(draft, target, divergence=MEASURES[name], rejection=0.0).at(rejection=0.0)
    assert np.all(point.acceptance == 1.0)
    np.testing.assert_allclose(point.divergence, MEASURES[name].value(draft, target), rtol=1e-12)
    assert point.certificate.holds(tolerance("divergence"))


@every_kind
@pytest.mark.parametrize("convert", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_right_answers_to_float32_laws_hold_to_six_digits(name, convert):
    for seed in range(6):
        pair = [convert(law.astype(np.float32)) for law in random_pair(seed, vocab=8, masked=seed == 2)]
        front = solve_pareto(*pair, divergence=MEASURES[name], rejection=0.0)
        for fraction in (0.2, 0.5, 0.9):
            point = front.at(rejection=fraction * front.total_variation)
            assert point.certificate.holds(tolerance("certificate", "float32")), (seed, fraction, point.certificate)


def _spent(point):
    """A point that rejects more at its most likely accepted token."""
    acceptance = np.array(point.acceptance)
    acceptance[int((acceptance * point.draft).argmax())] *= 0.9
    return {"acceptance": acceptance}


def _saved(point):
    """A point that rejects half as often: within the budget, and worse."""
    return {"acceptance": 1 - (1 - point.acceptance) / 2}


def _with(array, index, value):
    changed = np.array(array)
    changed[index] = value
    return changed


def _moved(residual):
    """The residual with half of its largest mass on the token where it had least."""
    changed = np.array(residual)
    giver, taker = int(changed.argmax()), int(changed.argmin())
    changed[taker] += changed[giver] / 2
    changed[giver] /= 2
    return changed


WORSE = {
    "rejects too little": _saved,
    "residual moved": lambda point: {"residual": _moved(point.residual)},
    "residual is the target": lambda point: {"residual": point.target},
    "floor too low": lambda point: {"floor": point.floor * 0.9},
    "ceiling too high": lambda point: {"ceiling": point.ceiling * 1.2},
    "levels of another budget": lambda point: {"floor": point.floor * 0.95, "ceiling": point.ceiling * 1.05},
    "levels infinite": lambda point: {"floor": 0.0 * point.floor, "ceiling": np.inf * point.ceiling},
}
FORBIDDEN = {
    "rejects too much": _spent,
    "budget smaller than what is spent": lambda point: {"budget": point.budget * 0.9},
    "acceptance above 1": lambda point: {"acceptance": _with(point.acceptance, 0, 1.01)},
    "acceptance below 0": lambda point: {"acceptance": _with(point.acceptance, 0, -0.01)},
    "acceptance NaN": lambda point: {"acceptance": _with(point.acceptance, 0, np.nan)},
    "residual NaN": lambda point: {"residual": _with(point.residual, 0, np.nan)},
    "residual negative": lambda point: {"residual": point.residual + np.array([-0.5, 0.5, *[0.0] * 6])},
    "residual not normalised": lambda point: {"residual": point.residual * 1.01},
    "levels NaN": lambda point: {"floor": np.nan * point.floor},
}


@strictly_convex
@pytest.mark.parametrize("change", WORSE.values(), ids=WORSE.keys())
def test_what_is_worse_than_the_optimum_fails(name, change):
    for seed in range(4):
        pair = random_pair(seed, vocab=8)
        point = solve_pareto(*pair, divergence=name, rejection=0.0).at(rejection=0.4 * tv(*pair))
        assert point.certificate.holds(tolerance("divergence"))
        assert not replace(point, **change(point)).certificate.holds(1e-6)


@every_divergence
@pytest.mark.parametrize("change", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_is_no_rule_or_overspends_fails(name, change):
    for seed in range(4):
        pair = random_pair(seed, vocab=8)
        point = solve_pareto(*pair, divergence=name, rejection=0.0).at(rejection=0.4 * tv(*pair))
        assert not replace(point, **change(point)).certificate.holds(1e-6)


def test_one_wrong_row_fails_a_batch():
    pairs = [random_pair(seed, vocab=8) for seed in range(3)]
    draft, target = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
    point = solve_pareto(draft, target, divergence="kl", rejection=0.0).at(rejection=0.1)
    assert point.certificate.holds(tolerance("divergence"))
    assert point.certificate.gap.shape == (3,)
    assert not replace(point, floor=point.floor * np.array([1, 0.8, 1])).certificate.holds(1e-6)


SHARED = {
    **{label: WORSE[label] for label in ("rejects too little", "residual moved", "residual is the target")},
    **{label: change for label, change in FORBIDDEN.items() if label.startswith(("acceptance", "residual", "rejects"))},
}


@pytest.mark.parametrize("change", SHARED.values(), ids=SHARED.keys())
def test_one_wrong_row_under_a_shared_budget_fails(change):
    point = shared_point()
    assert point.certificate.holds(tolerance("divergence"))
    row = replace(point, **{name: getattr(point, name)[0] for name in ("draft", "target", "acceptance", "residual")})
    changed = {name: np.concatenate([law[None], getattr(point, name)[1:]]) for name, law in change(row).items()}
    assert not replace(point, **changed).certificate.holds(1e-6)


def test_a_shared_budget_that_is_overspent_fails():
    point = shared_point()
    assert not replace(point, budget=point.budget * 0.9).certificate.holds(1e-6)


def shared_point():
    pairs = [random_pair(seed, vocab=8) for seed in range(3)]
    draft, target = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
    front = solve_pareto(draft, target, divergence="chi2", budget="mean", rejection=1.0)
    return front.at(rejection=0.4 * float(front.total_variation))


def test_wrong_floors_under_a_shared_budget_fail():
    point = shared_point()
    wrong = replace(point, floor=point.floor * 0.9, ceiling=point.ceiling * 1.1)
    assert not wrong.certificate.holds(1e-6)
    assert float(wrong.certificate.gap) > 0


def test_the_certificate_trusts_no_field_but_the_rule_the_budget_and_the_levels():
    pair = random_pair(1, vocab=8)
    point = solve_pareto(*pair, divergence="kl", rejection=0.0).at(rejection=0.4 * tv(*pair))
    lies = replace(point, divergence=0 * point.divergence, rejection=0 * point.rejection, output_law=point.target)
    assert float(lies.certificate.value) == float(point.certificate.value)
    assert float(lies.certificate.gap) == float(point.certificate.gap)


# --- uniqueness ----------------------------------------------------------------------------------------------


def test_the_best_law_is_unique_for_strictly_convex_divergences_and_not_in_tv():
    pair = random_pair(1, vocab=8)
    for name, measure in MEASURES.items():
        front = solve_pareto(*pair, divergence=measure, rejection=0.0)
        inside = front.at(rejection=0.4 * front.total_variation).certificate
        assert bool(inside.unique) == measure.strictly_convex, name
        for end in (0.0, float(front.total_variation)):
            assert bool(front.at(rejection=end).certificate.unique), name


def test_in_tv_two_different_laws_are_both_certified():
    draft, target = np.array([0.4, 0.3, 0.1, 0.1, 0.1]), np.array([0.2, 0.1, 0.2, 0.2, 0.3])
    point = solve_pareto(draft, target, rejection=0.0).at(rejection=0.2)
    other = replace(point, acceptance=point.acceptance + np.array([0.01 / 0.4, -0.01 / 0.3, 0, 0, 0]))
    outputs = [output_of(draft, each.acceptance, each.residual) for each in (point, other)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    assert point.certificate.holds(tolerance("divergence"))
    assert other.certificate.holds(tolerance("divergence"))
    assert not other.certificate.unique


@pytest.mark.parametrize("name", ["reverse_kl", "reverse_chi2", "hellinger", "js", "alpha=0.3"])
def test_where_draft_mass_off_the_support_is_spared_two_different_laws_are_both_certified(name):
    draft, target = np.array([0.2, 0.4, 0.4]), np.array([0.0, 0.0, 1.0])
    point = solve_pareto(draft, target, divergence=name, rejection=0.0).at(rejection=0.15)
    assert_close(point.acceptance, [0.75, 0.75, 1.0], "mass")
    other = replace(point, acceptance=np.array([0.25, 1.0, 1.0]))
    assert not point.certificate.unique
    assert point.certificate.holds(tolerance("divergence"))
    assert other.certificate.holds(tolerance("divergence"))


def test_torch_points_carry_torch_certificates():
    pair = [torch.asarray(law) for law in random_pair(2, vocab=8)]
    certificate = solve_pareto(*pair, divergence="kl", rejection=0.0).at(rejection=0.1).certificate
    assert isinstance(certificate.gap, torch.Tensor)
    assert certificate.holds(tolerance("divergence"))


@pytest.mark.parametrize("name", ["kl", "chi2"])
def test_the_lossless_end_of_masked_targets_is_certified(name):
    # the target is the draft under a mask: R = TV = the draft's mass off the support, equal but for rounding
    gaps = []
    for seed in range(200):
        draft, keep = random_pair(seed, vocab=10)
        target = np.where(keep > 0.05, draft, 0.0)
        front = solve_pareto(draft, target / target.sum(), divergence=name, rejection=0.0)
        gaps.append(float(front.at(rejection=front.total_variation).certificate.gap))
    assert_close(gaps, np.zeros(200), "divergence")
