"""The dynamic programme of whole texts against the convex program, against policies with memory, and against itself."""

import time
import tracemalloc
from itertools import product
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from laws import tv
from tolerances import assert_at_most, assert_close, assert_law

from solvers import convex_program
from solvers.chain_program import LARGEST_PRICE, ChainProblem, bellman_bound, rule_at, solve_chain, tilt
from solvers.convex_chain_program import ChainProgram
from solvers.divergences import DIVERGENCES
from solvers.errors import InputError, SolverError, Status

KL = DIVERGENCES["kl"].value


def chain(seed, *, states=None, tokens=None, horizon=None, timed=None, zeros=None):
    """Draw a chain: laws peaked to flat, changing with time or not, with zeros or without, prompts certain or not."""
    rng = np.random.default_rng(seed)
    states, horizon = states or int(rng.integers(2, 6)), horizon or int(rng.integers(1, 5))
    tokens = tokens or states
    timed, zeros = seed % 2 == 1 if timed is None else timed, seed % 4 == 3 if zeros is None else zeros
    shape = (2, horizon, states) if timed else (2, states)
    draft, target = rng.dirichlet(np.full(tokens, (0.4, 1.0, 3.0)[seed % 3]), size=shape)
    if zeros:
        draft, target = (np.where(rng.random(law.shape) < 0.3, 0.0, law) for law in (draft, target))
        draft[..., 1] += 0.05
        target[..., 0] += 0.05
        draft, target = (law / law.sum(-1, keepdims=True) for law in (draft, target))
    successors = np.arange(states * tokens).reshape(states, tokens) % states
    if tokens != states:
        successors = rng.integers(0, states, size=(states, tokens))
    initial = np.eye(states)[0] if seed % 5 == 0 else rng.dirichlet(np.ones(states))
    return ChainProblem(draft=draft, target=target, successors=successors, initial=initial, horizon=horizon)


CHAINS = {f"random {seed}": chain(seed) for seed in range(36)}
CHAINS |= {
    f"states and tokens differ {seed}": chain(seed, states=4, tokens=3, zeros=seed % 2 == 0) for seed in range(6)
}
some_chain = pytest.mark.parametrize("problem", list(CHAINS.values())[::5], ids=list(CHAINS)[::5])


def totals(solution):
    """KL and expected rejections of the text."""
    before = solution.state_laws[:-1]
    return (before * solution.kl).sum(), (before * solution.rejection).sum()


def law_at(problem, solution, step):
    rule = rule_at(problem, solution, step)
    accepted = rule.acceptance * problem.laws(step)[0]
    return accepted + np.maximum(1 - accepted.sum(-1, keepdims=True), 0) * rule.residual


# --- against other solvers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", CHAINS.values(), ids=CHAINS.keys())
def test_the_dynamic_programme_and_the_occupancy_program_agree(problem):
    program = ChainProgram(problem)
    for price in (0.4, 3.0):
        solution, other = solve_chain(problem, price), program.at_price(price)
        kl, rejections = totals(solution)
        assert_close(kl + price * rejections, problem.initial @ solution.values[0], "divergence")
        assert_close(other.kl + price * other.rejections, kl + price * rejections, "interior point objective")
        assert other.status is Status.OPTIMAL
        # the masses are the policy's own, hence its laws wherever a text gets to
        occupied = np.stack(
            [solution.state_laws[step][:, None] * law_at(problem, solution, step) for step in range(problem.horizon)]
        )
        assert_close(other.masses, occupied, "interior point multiplier")


@some_chain
def test_a_budget_of_rejections_has_the_price_as_its_multiplier(problem):
    kl, rejections = totals(solve_chain(problem, 1.0))
    solution = ChainProgram(problem).at_rejections(rejections)
    assert_close(solution.kl, kl, "interior point objective")
    assert_close(solution.rejections, rejections, "interior point objective")
    if totals(solve_chain(problem, 1.1))[1] < rejections - 1e-3:  # at a kink of the front a range of prices will do
        assert_close(solution.price, 1.0, "interior point multiplier")


def least_over_joint_laws(problem, price):
    """Minimise over joint laws of whole texts, given the prompt: any policy with memory, no Markov property used."""
    tokens, total = problem.draft.shape[-1], 0.0
    for prompt in np.flatnonzero(problem.initial):
        states: dict[tuple[int, ...], int] = {(): int(prompt)}
        for length in range(problem.horizon):
            for text in product(range(tokens), repeat=length + 1):
                states[text] = int(problem.successors[states[text[:-1]], text[-1]])
        texts = list(product(range(tokens), repeat=problem.horizon))
        target = np.array(
            [np.prod([problem.laws(n)[1][states[text[:n]], text[n]] for n in range(problem.horizon)]) for text in texts]
        )
        joint, cost = cp.Variable(len(texts), nonneg=True), 0
        for length in range(problem.horizon):
            for prefix in product(range(tokens), repeat=length):
                inside = [
                    np.array([text[: length + 1] == (*prefix, x) for text in texts], float) for x in range(tokens)
                ]
                draft = problem.laws(length)[0][states[prefix]]
                here = sum(each @ joint for each in inside)
                cost += sum(cp.pos(draft[x] * here - inside[x] @ joint) for x in range(tokens))
        least = cp.sum(cp.rel_entr(joint, target)) + price * cost
        law: Any = cp.sum(joint) == 1
        cp.Problem(cp.Minimize(least), [law]).solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9)
        total += problem.initial[prompt] * least.value
    return total


@pytest.mark.parametrize(("states", "horizon", "seed"), [(2, 3, 1), (2, 4, 2), (3, 3, 4), (3, 3, 6), (2, 3, 8)])
def test_no_policy_with_memory_beats_the_dynamic_programme(states, horizon, seed):
    problem = chain(seed, states=states, horizon=horizon, timed=seed % 2 == 0, zeros=False)
    for price in (0.5, 2.0):
        least = problem.initial @ solve_chain(problem, price).values[0]
        assert_close(least_over_joint_laws(problem, price), least, "interior point objective")


# --- the programme's own equations ---------------------------------------------------------------------------


@some_chain
def test_every_step_is_the_least_over_laws_and_the_clip_attains_it(problem):
    price, rng = 1.3, np.random.default_rng(0)
    solution = solve_chain(problem, price)
    for step in range(problem.horizon):
        (draft, target), later = problem.laws(step), solution.values[step + 1][problem.successors]

        def cost(law, draft=draft, target=target, later=later):
            return KL(law, target) + price * tv(draft, law) + (law * later).sum(-1)

        best = law_at(problem, solution, step)
        assert_law(best)
        assert_close(cost(best), solution.values[step], "divergence")
        other = rng.dirichlet(np.full(target.shape[-1], 0.5), size=(300, target.shape[0])) * (target > 0)
        for share in (1.0, 0.1, 1e-3):
            near = share * other / other.sum(-1, keepdims=True) + (1 - share) * best
            assert_at_most(solution.values[step], cost(near), "divergence")


@some_chain
def test_the_law_is_the_draft_clipped_between_multiples_of_the_tilted_target(problem):
    price = 1.7
    solution = solve_chain(problem, price)
    assert_close(np.log(solution.ceiling / solution.floor), np.full(solution.floor.shape, price), "divergence")
    assert_at_most(solution.floor, 1.0, "mass")
    assert_at_most(1.0, solution.ceiling, "mass")
    for step in range(problem.horizon):
        (draft, target), later = problem.laws(step), solution.values[step + 1][problem.successors]
        tilted = target * np.exp(-later)
        tilted /= tilted.sum(-1, keepdims=True)
        floor, ceiling = (level[step][:, None] for level in (solution.floor, solution.ceiling))
        assert_close(law_at(problem, solution, step), np.clip(draft, floor * tilted, ceiling * tilted), "mass")
        rule = rule_at(problem, solution, step)
        known = (target > 0) & (draft > 0)
        expected = np.minimum(1, (ceiling * tilted)[known] / draft[known])
        assert_close(rule.acceptance[known], expected, "mass")
        assert (rule.acceptance[(target == 0) & (draft > 0)] == 0).all()
        assert_close(rule.residual, tilted_residual(floor * tilted - draft, tilted), "price root")


def tilted_residual(difference, tilted):
    masses = np.maximum(difference, 0)
    total = masses.sum(-1, keepdims=True)
    return np.where(total > 0, masses / np.where(total > 0, total, 1), tilted)


@some_chain
def test_price_zero_is_lossless_at_theorem_1s_cost(problem):
    solution = solve_chain(problem, 0.0)
    assert_close(solution.values, np.zeros_like(solution.values), "mass")
    law, rejections = problem.initial, 0.0
    for step in range(problem.horizon):
        draft, target = problem.laws(step)
        assert_close(law_at(problem, solution, step), target, "mass")
        rejections += law @ tv(draft, target)
        law = problem.arrived(law[:, None] * target)
    assert_close(totals(solution), [0.0, rejections], "mass")


def test_the_largest_price_is_the_draft_where_it_stays_on_the_support():
    for seed in (1, 4, 6):
        problem = chain(seed, zeros=False)
        solution = solve_chain(problem, LARGEST_PRICE)
        law, kl = problem.initial, 0.0
        for step in range(problem.horizon):
            draft, target = problem.laws(step)
            assert_close(law_at(problem, solution, step), draft, "mass")
            kl += law @ KL(draft, target)
            law = problem.arrived(law[:, None] * draft)
        assert_close(totals(solution), [kl, 0.0], "divergence")


def trap():
    """Token 1 leads to a state in which every draft is rejected, for ever."""
    draft, target = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.7, 0.3], [0.0, 1.0]])
    successors = np.array([[0, 1], [1, 1]])
    return ChainProblem(draft=draft, target=target, successors=successors, initial=np.eye(2)[0], horizon=3)


def test_the_largest_price_rejects_now_what_would_be_rejected_twice_later():
    # at the first step token 1 costs a rejection in each of the two steps that follow, so it is worth rejecting;
    # at the second step keeping it and rejecting it cost the same; at the third it is kept
    solution = solve_chain(trap(), LARGEST_PRICE)
    first = rule_at(trap(), solution, 0)
    assert_close(first.acceptance[0], [1.0, 0.0], "mass")
    assert_close(first.residual[0], [1.0, 0.0], "mass")
    assert_close(rule_at(trap(), solution, 2).acceptance[0], [1.0, 1.0], "mass")
    assert_close(totals(solution)[1], 0.5 + 0.5, "mass")


# --- the certificate -----------------------------------------------------------------------------------------


@some_chain
def test_the_bound_is_the_value_at_the_optimal_floors_and_below_it_at_others(problem):
    rng = np.random.default_rng(1)
    for price in (0.0, 0.8, 6.0, LARGEST_PRICE):
        solution = solve_chain(problem, price)
        least = problem.initial @ solution.values[0]
        assert_close(bellman_bound(problem, solution.floor, price), least, "price root")
        for spread in (2.0, 0.3, 1e-3):
            wrong = solution.floor * np.exp(spread * rng.standard_normal(solution.floor.shape))
            assert_at_most(bellman_bound(problem, wrong, price), least, "price root")


def test_wrong_floors_prove_less():
    problem = chain(7, zeros=False)
    solution = solve_chain(problem, 0.8)
    least = problem.initial @ solution.values[0]
    assert bellman_bound(problem, 1.3 * solution.floor, 0.8) < least - 1e-3
    assert bellman_bound(problem, np.ones_like(solution.floor), 0.8) < least - 1e-3


# --- large costs, large chains -------------------------------------------------------------------------------


def test_the_tilt_is_a_law_whatever_the_size_of_the_costs():
    rng = np.random.default_rng(0)
    target, later = rng.dirichlet(np.ones(5), size=4), 10 * rng.random((4, 5))
    target[0, 2] = 0.0
    tilted, log_total = tilt(target, later)
    expected = target * np.exp(-later)
    assert_close(tilted, expected / expected.sum(-1, keepdims=True), "mass")
    assert_close(log_total, np.log(expected.sum(-1)), "mass")
    raised, lower = tilt(target, later + 1e4)
    assert_close(raised, tilted, "price root")
    assert_close(lower, log_total - 1e4, "mass")
    far, _ = tilt(np.array([[0.5, 0.5, 0.0]]), np.array([[0.0, 900.0, -900.0]]))
    assert_close(far, [[1.0, 0.0, 0.0]], "mass")
    assert tilt(np.array([[0.5, 0.5]]), np.array([[0.0, 720.0]]))[0][0, 1] == 0  # its reciprocal is beyond float64


def test_a_text_that_costs_thousands_of_nats_is_solved_to_rounding():
    problem = chain(3, states=4, horizon=400, timed=False, zeros=True)
    solution = solve_chain(problem, 20.0)
    least = problem.initial @ solution.values[0]
    assert least > 800  # e^-800 is zero in float64
    assert_close(bellman_bound(problem, solution.floor, 20.0), least, "divergence")
    assert_close(sum(np.multiply(totals(solution), (1.0, 20.0))), least, "divergence")
    # far from the end every further step costs the same, in every state
    steps = -np.diff(solution.values[:100], axis=0)
    assert_close(steps, np.full(steps.shape, steps[0, 0]), "divergence")


def test_memory_does_not_grow_with_the_horizon_and_time_is_linear():
    problem = chain(3, states=256, horizon=12, timed=False, zeros=False)
    tracemalloc.start()
    start = time.perf_counter()
    solution = solve_chain(problem, 2.0)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1] / problem.draft.nbytes
    tracemalloc.stop()
    assert solution.values.shape == (13, 256)
    assert peak < 12, f"{peak:.1f} arrays of the size of a law in every state"
    assert seconds < 10


# --- the convex program's errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("question", ["price", "rejections"])
def test_a_question_that_is_not_a_finite_number_is_an_input_error(question, number):
    with pytest.raises(InputError, match=f"at_{question}: expected a finite number, not negative"):
        getattr(ChainProgram(chain(1)), f"at_{question}")(number)


def test_fewer_rejections_than_any_text_on_the_support_are_infeasible():
    with pytest.raises(SolverError) as caught:
        ChainProgram(trap()).at_rejections(0.9)
    assert caught.value.status is Status.INFEASIBLE
    assert_close(ChainProgram(trap()).at_rejections(1.1).rejections, 1.1, "interior point objective")


def test_a_solver_that_stops_early_is_a_typed_error(monkeypatch):
    monkeypatch.setattr(convex_program, "CURVED", ({"max_iter": 2},))
    with pytest.raises(SolverError, match="stopped at its limit"):
        ChainProgram(chain(1)).at_price(1.0)
