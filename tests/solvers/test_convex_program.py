"""cvxpy and the closed forms solve the same problems: objectives agree, and multipliers where they are unique."""

import math

import numpy as np
import pytest
from laws import EXTREME_PAIRS, oracle_ceiling, oracle_floor, random_pair, tv
from tolerances import assert_at_most, assert_close

from solvers import convex_program
from solvers.convex_program import JointProgram, Status, solve_residual
from solvers.divergences import DIVERGENCES, alpha_divergence, f_divergence
from solvers.errors import InputError, SolverError
from solvers.sort_free import levels_at_price


def _without_dust(pair):
    """Set masses below 1e-12 to zero: an interior-point solver cannot tell them from it, but for the support."""
    draft, target = (np.where(law < 1e-12, 0.0, law) for law in pair)
    return draft / draft.sum(), target / target.sum()


PROBLEMS = {f"random {seed}": random_pair(seed, masked=seed % 3 == 1) for seed in range(48)} | EXTREME_PAIRS
PROBLEMS = {name: _without_dust(pair) for name, pair in PROBLEMS.items()}
problem = pytest.mark.parametrize("pair", PROBLEMS.values(), ids=PROBLEMS.keys())

TABLE = dict(DIVERGENCES) | {f"alpha={order:g}": alpha_divergence(order) for order in (0.5, 1.5, 2, -1)}
CURVED = [divergence for name, divergence in TABLE.items() if name != "tv"]
every_divergence = pytest.mark.parametrize("divergence", TABLE.values(), ids=TABLE.keys())
curved_divergence = pytest.mark.parametrize("divergence", CURVED, ids=lambda divergence: divergence.name)
some_seed = pytest.mark.parametrize("seed", range(0, 30, 6))
FRACTIONS = (0.2, 0.5, 0.8)


def some_problems():
    """A quarter of the problems, extreme pairs among them."""
    return list(PROBLEMS.values())[::4]


def inner_rejection(pair, divergence):
    """Spread the problems over the inside of the front, the same way in every run; None where there is no inside."""
    draft, target = pair
    # below it no law has a finite divergence
    least = float(draft[target == 0].sum()) if math.isinf(divergence.slope_at_infinity) else 0.0
    most = float(tv(draft, target))
    return least + FRACTIONS[draft.shape[0] % 3] * (most - least) if most - least > 1e-9 else None


def front(pair, rejection):
    """Levels and law of T1."""
    draft, target = pair
    floor, ceiling = oracle_floor(draft, target, rejection), max(oracle_ceiling(draft, target, rejection), 1.0)
    off = draft[target == 0].sum()
    spared = max(off - rejection, 0.0) / off if off > 0 else 0.0
    ratio = np.clip(draft / np.where(target > 0, target, 1.0), floor, ceiling)
    return floor, ceiling, np.where(target > 0, ratio * target, spared * draft)


def front_price(divergence, floor, ceiling):
    return float(divergence.slope(np.asarray(ceiling)) - divergence.slope(np.asarray(floor)))


def inner_problems(divergence):
    """The inner points of `some_problems`: pair, rejection, levels and least divergence."""
    for pair in some_problems():
        rejection = inner_rejection(pair, divergence)
        if rejection is not None:
            floor, ceiling, law = front(pair, rejection)
            yield pair, rejection, floor, ceiling, float(divergence.value(law, pair[1]))


def batch(rows=4, vocab=9):
    draft, target = np.random.default_rng(3).dirichlet(np.full(vocab, 0.6), size=(2, rows))
    return draft, target


def test_more_than_sixty_problems_are_compared():
    assert len(PROBLEMS) >= 60
    assert len(some_problems()) >= 15


# --- a fixed acceptance: Theorem 4 and T3 -------------------------------------------------------------------


@problem
def test_the_program_and_theorem_4_agree_on_the_least_bias_of_a_fixed_acceptance(pair):
    draft, target = pair
    acceptance = np.random.default_rng(draft.shape[0]).random(draft.shape[0])
    solution = solve_residual(draft, target, acceptance)
    accepted = acceptance * draft
    assert_close(solution.value, np.maximum(accepted - target, 0).sum(), "interior point objective")
    assert_close(solution.accepted, accepted, "mass")
    assert_close(solution.residual.sum(), 1 - accepted.sum(), "interior point objective")
    assert_close(tv(accepted + solution.residual, target), solution.value, "interior point objective")


@every_divergence
def test_the_fill_of_a_fixed_acceptance_is_the_programs_optimum_in_every_divergence(divergence):
    for draft, target in some_problems():
        acceptance = 0.05 + 0.9 * np.random.default_rng(draft.shape[0]).random(draft.shape[0])
        if math.isinf(divergence.slope_at_infinity):
            acceptance = np.where(target > 0, acceptance, 0.0)
        accepted = acceptance * draft
        law = np.maximum(accepted, oracle_floor(accepted, target, 1 - accepted.sum()) * target)
        solution = solve_residual(draft, target, acceptance, divergence)
        assert_close(solution.value, divergence.value(law, target), "interior point objective")
        assert_close(solution.rejection, 1 - accepted.sum(), "interior point objective")


def test_the_rows_of_a_fixed_acceptance_are_independent():
    draft, target = batch()
    acceptance = np.random.default_rng(0).random(draft.shape)
    together = solve_residual(draft, target, acceptance, "kl")
    alone = [solve_residual(*row, "kl") for row in zip(draft, target, acceptance, strict=True)]
    assert_close(together.value, np.mean([row.value for row in alone]), "interior point objective")
    assert_close(together.residual.sum(-1), 1 - (acceptance * draft).sum(-1), "interior point objective")


def test_a_fixed_acceptance_has_no_rejection_multiplier():
    draft, target = random_pair(0)
    assert np.isnan(solve_residual(draft, target, np.ones_like(draft)).price)


# --- a rejection budget: Theorem 5 and T1 -------------------------------------------------------------------


@problem
def test_the_joint_program_and_theorem_5_agree_on_the_least_bias(pair):
    draft, target = pair
    rejection = FRACTIONS[draft.shape[0] % 3] * float(tv(draft, target))
    solution = JointProgram(draft, target, "tv").at_rejection(rejection)
    assert_close(solution.value, tv(draft, target) - rejection, "interior point objective")
    output = solution.accepted + solution.residual
    assert_close(tv(output, target), solution.value, "interior point objective")
    assert_at_most(solution.accepted, draft, "interior point objective")
    assert_at_most(solution.residual.sum(), rejection, "interior point objective")
    assert_close(output.sum(), 1.0, "interior point objective")


@problem
def test_the_joint_program_and_the_ratio_clip_agree_on_the_least_kl(pair):
    draft, target = pair
    divergence = DIVERGENCES["kl"]
    rejection = inner_rejection(pair, divergence)
    if rejection is None:
        # the target is the draft, masked and rescaled, or the supports are disjoint: only the lossless end is finite
        rejection, least = min(float(draft[target == 0].sum()) + 1e-6, 1.0), 0.0
    else:
        least = float(divergence.value(front(pair, rejection)[2], target))
    solution = JointProgram(draft, target, "kl").at_rejection(rejection)
    assert_close(solution.value, least, "interior point objective")
    assert_at_most(solution.rejection, rejection, "interior point objective")


@every_divergence
def test_the_ratio_clip_is_the_programs_optimum_in_every_divergence(divergence):
    for (draft, target), rejection, _, _, least in inner_problems(divergence):
        solution = JointProgram(draft, target, divergence).at_rejection(rejection)
        assert_close(solution.value, least, "interior point objective")
        assert_close(solution.rejection, solution.residual.sum(), "mass")
        assert_at_most(solution.rejection, rejection, "interior point objective")
        assert_at_most(solution.accepted, draft, "interior point objective")


@curved_divergence
@some_seed
def test_the_multiplier_of_the_budget_is_the_front_s_price(divergence, seed):
    # inside the front c and C move continuously with R, so the front has a slope and the multiplier is unique
    pair = random_pair(seed + 2, vocab=10)
    rejection = 0.5 * float(tv(*pair))
    floor, ceiling, _ = front(pair, rejection)
    solution = JointProgram(*pair, divergence).at_rejection(rejection)
    assert_close(solution.price, front_price(divergence, floor, ceiling), "interior point multiplier")


@some_seed
def test_the_kl_multiplier_is_log_of_ceiling_over_floor(seed):
    pair = random_pair(seed + 2, vocab=10)
    rejection = 0.5 * float(tv(*pair))
    floor, ceiling, _ = front(pair, rejection)
    solution = JointProgram(*pair, "kl").at_rejection(rejection)
    assert_close(solution.price, np.log(ceiling / floor), "interior point multiplier")


@some_seed
def test_the_tv_multiplier_is_one_because_the_front_has_slope_minus_one(seed):
    pair = random_pair(seed, vocab=10)
    assert_close(JointProgram(*pair).at_rejection(0.5 * float(tv(*pair))).price, 1.0, "interior point multiplier")


@every_divergence
def test_the_price_is_positive_and_is_what_a_little_more_budget_buys(divergence):
    draft, target = random_pair(2, vocab=10)
    program, rejection, step = JointProgram(draft, target, divergence), 0.5 * float(tv(draft, target)), 1e-3
    below, middle, above = (program.at_rejection(rejection + shift) for shift in (-step, 0.0, step))
    assert middle.price > 0
    # the front is convex, so its slope lies between the two chords'
    assert_at_most((middle.value - above.value) / step, middle.price, "interior point multiplier")
    assert_at_most(middle.price, (below.value - middle.value) / step, "interior point multiplier")


# --- a price, and a limit on the divergence: T4 -------------------------------------------------------------


@every_divergence
def test_the_price_problem_has_the_closed_forms_objective_and_law(divergence):
    for seed in range(0, 30, 6):
        draft, target = random_pair(seed + 2, vocab=10)
        price = 0.7 * front_price(divergence, *front((draft, target), 0.5 * float(tv(draft, target)))[:2])
        floor, ceiling = levels_at_price(draft, target, np.asarray(price), divergence)
        law = np.clip(draft, floor * target, ceiling * target)
        expected = divergence.value(law, target) + price * tv(draft, law)
        solution = JointProgram(draft, target, divergence).at_price(price)
        assert solution.price == price
        assert_close(solution.value + price * solution.rejection, expected, "interior point objective")
        if divergence.strictly_convex:
            # a flat objective: its error is the square of the law's
            assert_close(solution.accepted + solution.residual, law, "interior point multiplier")


@every_divergence
def test_the_least_rejection_at_the_fronts_divergence_is_the_fronts_rejection(divergence):
    for pair, rejection, _, _, least in inner_problems(divergence):
        solution = JointProgram(*pair, divergence).at_divergence(least)
        assert_close(solution.rejection, rejection, "interior point objective")
        assert_at_most(solution.value, least, "interior point objective")


@every_divergence
def test_both_budgets_have_the_same_price(divergence):
    pair = random_pair(5, vocab=10)
    program = JointProgram(*pair, divergence)
    forward = program.at_rejection(0.4 * float(tv(*pair)))
    assert_close(program.at_divergence(forward.value).price, forward.price, "interior point multiplier")


def test_a_limit_above_the_draft_s_own_divergence_costs_no_rejection():
    draft, target = random_pair(2, vocab=10)
    solution = JointProgram(draft, target, "kl").at_divergence(2 * float(DIVERGENCES["kl"].value(draft, target)))
    assert_close(solution.rejection, 0.0, "interior point objective")
    assert solution.price > 1e6


# --- several rows share one budget: T4 (c) ------------------------------------------------------------------


@every_divergence
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5, 3.0)], ids=["equal", "weighted"])
def test_rows_that_share_a_budget_spend_one_common_price(divergence, weights):
    draft, target = batch()
    shares = np.full(4, 0.25) if weights is None else np.asarray(weights) / np.sum(weights)
    price = 0.6 * front_price(divergence, *front((draft[0], target[0]), 0.5 * float(tv(draft[0], target[0])))[:2])
    floor, ceiling = levels_at_price(draft, target, np.full(4, price), divergence)
    law = np.clip(draft, floor[:, None] * target, ceiling[:, None] * target)
    rejection, least = shares @ tv(draft, law), shares @ divergence.value(law, target)
    program = JointProgram(draft, target, divergence, weights=weights)
    solution = program.at_rejection(float(rejection))
    assert solution.accepted.shape == draft.shape
    assert_close(solution.value, least, "interior point objective")
    priced = program.at_price(price)
    assert_close(priced.value + price * priced.rejection, least + price * rejection, "interior point objective")
    assert_close((solution.accepted + solution.residual).sum(-1), np.ones(4), "interior point objective")
    if divergence.strictly_convex:
        assert_close(solution.price, price, "interior point multiplier")


def test_a_shared_budget_beats_equal_budgets_and_gives_every_row_the_same_kl_price():
    draft, target = batch()
    rejection = 0.5 * float(tv(draft, target).mean())
    shared = JointProgram(draft, target, "kl").at_rejection(rejection)
    equal = [JointProgram(*pair, "kl").at_rejection(rejection).value for pair in zip(draft, target, strict=True)]
    assert shared.value < np.mean(equal) - 1e-3
    for pair, residual in zip(zip(draft, target, strict=True), shared.residual, strict=True):
        floor, ceiling, _ = front(pair, float(residual.sum()))
        assert_close(np.log(ceiling / floor), shared.price, "interior point multiplier")


def test_one_row_is_the_same_as_a_pair_without_rows():
    draft, target = random_pair(4)
    row = JointProgram(draft[None], target[None], "kl").at_rejection(0.2)
    pair = JointProgram(draft, target, "kl").at_rejection(0.2)
    assert row.accepted.shape == (1, *draft.shape)
    assert row.value == pair.value


# --- solving again -----------------------------------------------------------------------------------------


@every_divergence
def test_asking_again_gives_what_a_fresh_program_gives(divergence):
    draft, target = random_pair(8, vocab=12)
    again = JointProgram(draft, target, divergence)
    for rejection in 0.2 * np.arange(1, 5) * float(tv(draft, target)):
        fresh = JointProgram(draft, target, divergence).at_rejection(rejection)
        solution = again.at_rejection(rejection)
        assert_close(solution.value, fresh.value, "interior point objective")
        assert_close(solution.price, fresh.price, "interior point multiplier")
        back = again.at_divergence(fresh.value)
        assert_close(back.rejection, rejection, "interior point objective")


def test_a_question_is_built_once(monkeypatch):
    program, built = JointProgram(*random_pair(8), "kl"), []
    build = JointProgram._problem
    monkeypatch.setattr(JointProgram, "_problem", lambda *args: built.append(args[1]) or build(*args))
    for rejection in (0.1, 0.2, 0.3):
        program.at_rejection(rejection)
    program.at_price(1.0)
    assert built == ["rejection", "price"]


# --- statuses and errors -----------------------------------------------------------------------------------


def test_a_solution_names_its_solver_and_status():
    solution = JointProgram(*random_pair(0), "kl").at_rejection(0.1)
    assert solution.status is Status.OPTIMAL
    name, version = solution.solver.split()
    assert (name, version.count(".")) == ("CLARABEL", 2)


def test_every_status_has_a_remedy():
    assert all(status.remedy and status.meaning for status in Status)
    assert len({status.value for status in Status}) == 6


@pytest.mark.parametrize("name", ["kl", "chi2", "alpha=1.5"])
def test_a_budget_below_the_draft_mass_off_the_support_is_infeasible_with_a_remedy(name):
    draft, target = np.array([0.5, 0.5]), np.array([0.0, 1.0])
    with pytest.raises(SolverError, match="raise the budget above the draft's mass off the target's support") as caught:
        JointProgram(draft, target, name).at_rejection(0.2)
    assert caught.value.status is Status.INFEASIBLE
    assert str(caught.value).endswith(Status.INFEASIBLE.remedy)


def test_accepting_off_the_support_is_infeasible_where_the_divergence_is_infinite():
    draft, target = np.array([0.5, 0.5]), np.array([0.0, 1.0])
    with pytest.raises(SolverError, match=r"accepted mass 0\.25 off the target's support") as caught:
        solve_residual(draft, target, np.array([0.5, 1.0]), "kl")
    assert caught.value.status is Status.INFEASIBLE
    assert_close(solve_residual(draft, target, np.array([0.5, 1.0]), "tv").value, 0.25, "interior point objective")


def test_a_solver_that_hits_its_limit_is_a_typed_error(monkeypatch):
    monkeypatch.setattr(convex_program, "CURVED", ({"max_iter": 2},))
    with pytest.raises(SolverError, match="stopped at its limit") as caught:
        JointProgram(*random_pair(3), "kl").at_rejection(0.1)
    assert caught.value.status is Status.LIMIT


def test_an_inaccurate_optimum_is_a_status_and_not_a_warning(monkeypatch):
    unattainable = {"tol_gap_abs": 0.0, "tol_gap_rel": 0.0, "tol_feas": 0.0}
    monkeypatch.setattr(convex_program, "CURVED", (unattainable,))
    assert JointProgram(*random_pair(3), "kl").at_rejection(0.1).status is Status.INACCURATE


def test_an_inaccurate_optimum_is_kept_when_later_settings_fail(monkeypatch):
    unattainable = {"tol_gap_abs": 0.0, "tol_gap_rel": 0.0, "tol_feas": 0.0, "max_iter": 200}
    monkeypatch.setattr(convex_program, "CURVED", (unattainable, {**unattainable, "max_iter": 2}))
    pair = random_pair(3)
    solution = JointProgram(*pair, "kl").at_rejection(0.1)
    assert solution.status is Status.INACCURATE
    assert_close(solution.value, DIVERGENCES["kl"].value(front(pair, 0.1)[2], pair[1]), "interior point objective")


def test_a_solver_that_fails_is_a_typed_error(monkeypatch):
    def fail(*args, **kwargs):
        raise convex_program.cp.SolverError("no progress")

    monkeypatch.setattr(convex_program.cp.Problem, "solve", fail)
    with pytest.raises(SolverError, match="no progress") as caught:
        JointProgram(*random_pair(3), "kl").at_rejection(0.1)
    assert caught.value.status is Status.FAILED


def test_a_divergence_of_ones_own_has_no_program_and_the_closed_form_is_the_remedy():
    own = f_divergence(lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1), name="mine", slope_at_infinity=math.inf)
    with pytest.raises(InputError, match="mine has no convex program for cvxpy; use solver='closed_form'"):
        JointProgram(*random_pair(0), own)
    with pytest.raises(InputError, match="mine has no convex program"):
        solve_residual(*random_pair(0), np.array(1.0), own)


@pytest.mark.parametrize("number", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("question", ["at_rejection", "at_price", "at_divergence"])
def test_a_budget_that_is_not_a_finite_number_is_an_input_error(question, number):
    with pytest.raises(InputError, match=f"{question}: expected a finite number, not negative"):
        getattr(JointProgram(*random_pair(0)), question)(number)


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 1.0, 1.0, 0.0), (1.0, 1.0, 1.0, math.nan)])
def test_weights_are_one_positive_number_per_row(weights):
    with pytest.raises(InputError, match="weights: expected 4 positive numbers, one per row"):
        JointProgram(*batch(), weights=weights)
