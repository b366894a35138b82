"""Divergences of one's own whose f is flat around 1: less rejection than TV is enough, and the law is not unique."""

from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from laws import EXTREME_PAIRS, random_pair, tv
from tolerances import assert_close, tolerance

from solvers.divergences import DIVERGENCES, f_divergence
from solvers.errors import InputError
from tradeoff import solve_multi_draft_pareto, solve_pareto

# f' is 1 beyond 3/2, and -1/2 below 3/4 in the second: written with abs, which numpy and torch share
HOCKEY = f_divergence(lambda t: (abs(t - 1.5) + (t - 1.5)) / 2, lambda t: (t > 1.5) * 1.0, name="hockey")
TROUGH = f_divergence(
    lambda t: (abs(t - 1.5) + (t - 1.5)) / 2 + (abs(0.75 - t) + (0.75 - t)) / 4,
    lambda t: (t > 1.5) * 1.0 - (t < 0.75) * 0.5,
    name="trough",
)
PROGRAMS = {
    "hockey": (HOCKEY, lambda x, y: cp.sum(cp.pos(x - 1.5 * y))),
    "trough": (TROUGH, lambda x, y: cp.sum(cp.pos(x - 1.5 * y)) + cp.sum(cp.pos(0.75 * y - x)) / 2),
}
DRAFT, TARGET = np.array([0.8, 0.1, 0.1]), np.array([0.4, 0.3, 0.3])
flat = pytest.mark.parametrize("name", PROGRAMS)


def least(name, drafts, targets, weights, limit, *, of):
    """Least mean divergence at a mean TV from the drafts, or the other way round: a linear program."""
    laws = [cp.Variable(draft.size, nonneg=True) for draft in drafts]
    divergence = sum(w * PROGRAMS[name][1](x, q) for w, x, q in zip(weights, laws, targets, strict=True))
    rejection = sum(w * cp.sum(cp.pos(p - x)) for w, x, p in zip(weights, laws, drafts, strict=True))
    objective, budget = (divergence, rejection) if of == "divergence" else (rejection, divergence)
    constraints: list[Any] = [budget <= limit, *(cp.sum(law) == 1 for law in laws)]
    problem = cp.Problem(cp.Minimize(objective), constraints)
    return float(problem.solve(solver=cp.CLARABEL))  # type: ignore[arg-type]


def test_the_flat_interval_is_found_to_the_last_digit():
    assert HOCKEY.flat == (0.0, 1.5)
    assert TROUGH.flat == (0.75, 1.5)
    assert DIVERGENCES["tv"].flat == (0.0, 1.0)
    assert f_divergence(lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)).flat == (1.0, 1.0)
    with pytest.raises(
        InputError, match=r"hockey: expected a strictly convex f; got one that is straight from 0 to 1.5"
    ):
        f_divergence(HOCKEY.function, HOCKEY.slope, name="hockey", strictly_convex=True)


def test_divergence_zero_takes_the_least_rejection_not_tv():
    front = solve_pareto(DRAFT, TARGET, divergence=HOCKEY)
    point = front.at(divergence=0.0)
    assert_close(point.rejection, 0.2, "mass")
    assert_close(point.divergence, 0.0, "mass")
    assert point.certificate.holds(tolerance("divergence"))
    assert not point.certificate.unique
    # another law with as little rejection and no divergence
    other = replace(point, residual=np.array([0.0, 1.0, 0.0]))
    assert other.certificate.holds(tolerance("divergence"))


def test_price_zero_is_lossless():
    for measure in (HOCKEY, TROUGH, DIVERGENCES["tv"], DIVERGENCES["kl"]):
        point = solve_pareto(DRAFT, TARGET, divergence=measure).at(price=0.0)
        assert_close(point.output_law, TARGET, "mass")
        assert point.certificate.holds(tolerance("divergence"))


@flat
def test_unique_is_said_only_where_it_is_so(name):
    front = solve_pareto(DRAFT, TARGET, divergence=PROGRAMS[name][0])
    assert front.at(rejection=0.0).certificate.unique
    for rejection in (0.1, 0.2, 0.3, 0.4):
        assert not front.at(rejection=rejection).certificate.unique
    # already the draft costs nothing, and so do laws near it
    near = solve_pareto(np.array([0.5, 0.25, 0.25]), TARGET, divergence=HOCKEY)
    accepts_all = replace(near.at(rejection=0.05), acceptance=np.ones(3))
    assert accepts_all.certificate.holds()
    assert not accepts_all.certificate.unique


@flat
def test_every_question_is_answered_as_the_linear_program_does(name):
    for seed in range(4):
        draft, target = random_pair(seed, vocab=6, masked=seed == 3)
        front = solve_pareto(draft, target, divergence=PROGRAMS[name][0])
        widest = float(front.divergence[0])
        for limit in (0.0, 0.3 * widest, widest):
            wanted = least(name, [draft], [target], [1.0], limit, of="rejection")
            point = front.at(divergence=limit)
            assert abs(float(point.rejection) - wanted) <= 1e-7
            assert float(point.divergence) <= limit + 1e-12
            assert point.certificate.holds(tolerance("divergence"))
        for share in (0.2, 0.6, 1.0):
            rejection = share * float(tv(draft, target))
            wanted = least(name, [draft], [target], [1.0], rejection, of="divergence")
            assert abs(float(front.at(rejection=rejection).divergence) - wanted) <= 1e-7


@flat
def test_a_shared_budget_is_split_as_the_linear_program_does(name):
    pairs = [random_pair(seed, vocab=6, masked=seed == 2) for seed in range(4)]
    draft, target = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    front = solve_pareto(draft, target, divergence=PROGRAMS[name][0], budget="mean", weights=weights, rejection=0.0)
    widest = float(front.divergence[0])
    for limit in (0.0, 0.3 * widest):
        point = front.at(divergence=limit)
        assert abs(point.mean_rejection - least(name, draft, target, weights, limit, of="rejection")) <= 1e-7
        assert point.certificate.holds(tolerance("divergence"))
        assert not point.certificate.unique
    for share in (0.2, 0.9):
        point = front.at(rejection=share * float(front.total_variation))
        wanted = least(name, draft, target, weights, float(point.budget), of="divergence")
        assert abs(point.mean_divergence - wanted) <= 1e-7
        assert point.certificate.holds(tolerance("divergence"))
    assert_close(front.at(price=0.0).output_law, target, "mass")


@flat
def test_several_drafts_reject_least_at_divergence_zero_too(name):
    front = solve_multi_draft_pareto(DRAFT, TARGET, drafts=2, divergence=PROGRAMS[name][0])
    point = front.at(divergence=0.0)
    assert float(point.rejection) < 1 - float(front.optimal_acceptance) - 0.05
    assert point.certificate.holds(tolerance("divergence"))
    assert not point.certificate.unique


@flat
@pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
def test_extreme_pairs_are_certified_at_divergence_zero(name, pair):
    point = solve_pareto(*pair, divergence=PROGRAMS[name][0]).at(divergence=0.0)
    assert float(point.rejection) <= float(tv(*pair)) + 1e-15
    assert point.certificate.holds(tolerance("divergence"))


# --- what f_divergence sees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [1e-4, 0.1, 0.93, 1.0003, 1.071, 7.7, 4e4])
@pytest.mark.parametrize("width", [0.003, 0.03])
def test_a_dip_of_three_in_a_thousand_is_seen_wherever_it_is(place, width):
    def bump(t):  # a smooth bump of relative width `width`, its depth a tenth of the width
        u = (t / place - 1) / width
        return np.where(np.abs(u) < 1, (1 - u**2) ** 3, 0.0) * place * width / 10

    def slope(t):
        u = (t / place - 1) / width
        return np.where(np.abs(u) < 1, -6 * u * (1 - u**2) ** 2, 0.0) / 10

    one, tilt = float(bump(np.array([1.0]))[0]), 1e-3
    with pytest.raises(InputError, match="dipped: expected a convex f; its derivative decreases"):
        f_divergence(
            lambda t: tilt * (np.sqrt(t) - 1) ** 2 - bump(t) + one,
            lambda t: tilt * (1 - t**-0.5) - slope(t),
            name="dipped",
            at_zero=tilt,
            slope_at_zero=-np.inf,
            slope_at_infinity=tilt,
        )


def test_arguments_that_are_no_functions_or_numbers_are_told():
    for function in (None, "t", np.ones(3), float):
        with pytest.raises(InputError, match="custom: expected functions of an array"):
            f_divergence(function, lambda t: t)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected at_zero= a number; got str"):
        f_divergence(lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1), at_zero="1")  # type: ignore[arg-type]
