"""cvxpy and the closed forms solve the same problems: objectives agree, and multipliers where they are unique."""

import numpy as np
import pytest
from laws import EXTREME_PAIRS, random_pair, tv
from tolerances import assert_at_most, assert_close

from solvers.closed_form import least_bias, ratio_clip_at_rejection, tv_front
from solvers.convex_program import solve_joint, solve_residual
from solvers.divergences import kl
from solvers.errors import InputError, SolverError


def _without_dust(pair):
    """Set masses below 1e-12 to zero: an interior-point solver cannot tell them from it, but for the support."""
    draft, target = (np.where(law < 1e-12, 0.0, law) for law in pair)
    return draft / draft.sum(), target / target.sum()


PROBLEMS = {f"random {seed}": random_pair(seed, masked=seed % 3 == 1) for seed in range(96)} | EXTREME_PAIRS
PROBLEMS = {name: _without_dust(pair) for name, pair in PROBLEMS.items()}
problem = pytest.mark.parametrize("pair", PROBLEMS.values(), ids=PROBLEMS.keys())
FRACTIONS = (0.2, 0.5, 0.8)


def fraction_for(pair):
    """Spread the problems over the front, the same way in every run."""
    return FRACTIONS[pair[0].shape[0] % 3]


def clip_value(draft, target, rejection):
    clip = ratio_clip_at_rejection(draft, target, rejection)
    accepted = clip.acceptance * draft
    return kl(accepted + (1 - accepted.sum()) * clip.residual, target)


def test_more_than_a_hundred_problems_are_compared():
    assert len(PROBLEMS) >= 100


@problem
def test_the_program_and_theorem_4_agree_on_the_least_bias_of_a_fixed_acceptance(pair):
    draft, target = pair
    acceptance = np.random.default_rng(draft.shape[0]).random(draft.shape[0])
    solution = solve_residual(draft, target, acceptance)
    assert_close(solution.value, least_bias(draft, target, acceptance), "interior point objective")
    accepted = acceptance * draft
    assert_close(solution.accepted, accepted, "mass")
    assert_close(solution.residual.sum(), 1 - accepted.sum(), "interior point objective")
    assert_close(tv(accepted + solution.residual, target), solution.value, "interior point objective")


@problem
def test_the_joint_program_and_theorem_5_agree_on_the_least_bias(pair):
    draft, target = pair
    rejection = fraction_for(pair) * float(tv(draft, target))
    solution = solve_joint(draft, target, rejection, "tv")
    assert_close(solution.value, tv_front(draft, target, np.asarray(rejection)), "interior point objective")
    output = solution.accepted + solution.residual
    assert_close(tv(output, target), solution.value, "interior point objective")
    assert_at_most(solution.accepted, draft, "interior point objective")
    assert_at_most(solution.residual.sum(), rejection, "interior point objective")
    assert_close(output.sum(), 1.0, "interior point objective")


@problem
def test_the_joint_program_and_the_ratio_clip_agree_on_the_least_kl(pair):
    draft, target = pair
    least = float(draft[target == 0].sum())  # below it no law has a finite KL
    rejection = least + fraction_for(pair) * max(float(tv(draft, target)) - least, 0.0)
    if rejection - least < 1e-9:
        # the target is the draft, masked and rescaled, or the supports are disjoint: only the lossless end is finite
        rejection = min(least + 1e-6, 1.0)
    solution = solve_joint(draft, target, rejection, "kl")
    assert_close(solution.value, clip_value(draft, target, rejection), "interior point objective")
    assert_at_most(solution.residual.sum(), rejection, "interior point objective")


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_the_kl_multiplier_is_log_of_ceiling_over_floor(seed):
    # inside the front c and C move continuously with R, so the front has a slope and the multiplier is unique
    draft, target = random_pair(seed + 2, vocab=10)
    rejection = 0.5 * float(tv(draft, target))
    clip = ratio_clip_at_rejection(draft, target, rejection)
    solution = solve_joint(draft, target, rejection, "kl")
    assert_close(solution.price, np.log(clip.ceiling / clip.floor), "interior point multiplier")


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_the_tv_multiplier_is_one_because_the_front_has_slope_minus_one(seed):
    draft, target = random_pair(seed, vocab=10)
    solution = solve_joint(draft, target, 0.5 * float(tv(draft, target)), "tv")
    assert_close(solution.price, 1.0, "interior point multiplier")


def test_a_fixed_acceptance_has_no_rejection_multiplier():
    draft, target = random_pair(0)
    assert np.isnan(solve_residual(draft, target, np.ones_like(draft)).price)


def test_a_divergence_that_cvxpy_does_not_solve_is_an_input_error():
    with pytest.raises(InputError, match="expected divergence 'tv' or 'kl'; got 'chi2'; use 'closed_form'"):
        solve_joint(*random_pair(0), 0.1, "chi2")


def test_a_budget_below_the_draft_mass_off_the_support_is_a_solver_error_with_a_remedy():
    draft, target = np.array([0.5, 0.5]), np.array([0.0, 1.0])
    with pytest.raises(SolverError, match="raise the budget above the draft's mass off the target's support"):
        solve_joint(draft, target, 0.2, "kl")
