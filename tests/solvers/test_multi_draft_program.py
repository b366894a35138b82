"""Several drafts for one position against linear and convex programs that know no closed form."""

from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from draft_sets import members, set_chances
from laws import EXTREME_PAIRS, KINKED, random_pair
from scipy.optimize import linprog
from tolerances import assert_close

from solvers.convex_multi_draft import solve_drafts
from solvers.convex_program import CURVED as CURVED_SETTINGS
from solvers.convex_program import SOLVER
from solvers.divergences import DIVERGENCES, divergence_named
from solvers.errors import InputError, SolverError, Status
from tradeoff.fronts.multi_draft import optimal_acceptance, solve_multi_draft_pareto
from tradeoff.rules.multi_draft import RecursiveRejection

WAYS = pytest.mark.parametrize("replacement", [True, False], ids=["with", "without"])

LINEAR = 1e-8
"""HIGHS meets constraints to 1e-7 by default and was never off by more than 1e-9 here."""

FREE = 1e-10
"""Added to every budget: chances sum to 1 - 2e-16."""

LAW = 1e-4
"""An interior-point objective that is right to 1e-9 leaves its law loose by the square root of that."""

CURVED = [name for name, row in DIVERGENCES.items() if row.strictly_convex]


class Transport:
    """Every selection from every tuple of drafts, as a linear program.

    Variables: accepted[tuple, token of the tuple], replaced[token], output[token], above[token] >= output - target.
    """

    def __init__(self, draft, target, drafts, replacement):
        self.vocab, self.target = len(draft), target
        tuples = list(RecursiveRejection(replacement=replacement).proposals(draft, drafts))
        edges = [(row, token) for row, (tokens, _) in enumerate(tuples) for token in sorted(set(tokens))]
        self.edges, count = len(edges), len(edges) + 3 * self.vocab
        self.chances = np.array([chance for _, chance in tuples])
        self.within = np.zeros((len(tuples), count))
        self.balance = np.zeros((self.vocab + 1, count))
        self.excess = np.zeros((self.vocab, count))
        for column, (row, token) in enumerate(edges):
            self.within[row, column] = self.balance[token, column] = 1.0
        at, eye = self.edges, np.eye(self.vocab)
        self.replaced, self.output, self.above = (
            slice(at + k * self.vocab, at + (k + 1) * self.vocab) for k in range(3)
        )
        self.balance[:-1, self.replaced], self.balance[:-1, self.output] = eye, -eye
        self.balance[-1, self.output] = 1.0
        self.excess[:, self.output], self.excess[:, self.above] = eye, -eye

    def least(self, cost_on, *, rejection=None, output=None):
        cost = np.zeros(self.balance.shape[1])
        cost[cost_on] = 1.0
        limits, most = [self.within, self.excess], [self.chances, self.target]
        if rejection is not None:
            spent = np.zeros((1, cost.size))
            spent[0, self.replaced] = 1.0
            limits, most = [*limits, spent], [*most, [rejection + FREE]]
        fixed = [(0, None)] * cost.size
        if output is not None:
            fixed[self.output] = [(mass, mass) for mass in output]
        done = linprog(
            cost,
            np.concatenate(limits),
            np.concatenate(most),
            self.balance,
            np.append(np.zeros(self.vocab), 1.0),
            fixed,
            options={"presolve": False},  # it calls a budget infeasible that is met to 1e-9
        )
        assert done.status == 0, done.message
        return done.fun


SMALL = [pair for pair in EXTREME_PAIRS.values() if 2 <= len(pair[0]) <= 4]
PAIRS = [*SMALL, *(random_pair(seed, vocab=4, masked=seed % 3 == 0) for seed in range(8))]
DRAWS = [(2, True), (3, True), (2, False), (3, False)]


@pytest.mark.parametrize(("drafts", "replacement"), DRAWS)
def test_no_selection_accepts_more_or_is_nearer_than_the_front_says(drafts, replacement):
    for draft, target in PAIRS:
        program = Transport(draft, target, drafts, replacement)
        front = solve_multi_draft_pareto(draft, target, drafts=drafts, replacement=replacement)
        least = program.least(program.replaced, output=target)
        assert 1 - float(front.optimal_acceptance) == pytest.approx(least, abs=LINEAR)
        for share in (0.0, 0.3, 0.9):
            nearest = program.least(program.above, rejection=share * least)
            assert float(front.at(rejection=share * least).divergence) == pytest.approx(nearest, abs=LINEAR)
            assert nearest == pytest.approx((1 - share) * least, abs=LINEAR)


@pytest.mark.parametrize(("drafts", "replacement"), DRAWS)
def test_any_output_law_is_selected_with_the_least_rejection_and_no_less(drafts, replacement):
    rng = np.random.default_rng(drafts)
    for draft, target in PAIRS:
        program = Transport(draft, target, drafts, replacement)
        point = solve_multi_draft_pareto(draft, target, drafts=drafts, divergence="kl", replacement=replacement).at(
            rejection=0.02
        )
        for output in (point.output_law, rng.dirichlet(np.full(len(draft), 0.5)), draft):
            least = 1 - float(optimal_acceptance(draft, output, drafts=drafts, replacement=replacement))
            assert program.least(program.replaced, output=output) == pytest.approx(least, abs=LINEAR)
        assert program.least(program.replaced, output=point.output_law) <= point.rejection + LINEAR


@cache
def every_set(vocab):
    return members(vocab).astype(float)


def enumerated(draft, target, drafts, replacement, rejection, divergence):
    """The convex program with the constraint of every set, written out here; targets without zeros."""
    output = cp.Variable(len(draft), nonneg=True)
    program = divergence_named(divergence).program
    assert program is not None
    needed = set_chances(draft, drafts, replacement) - rejection
    within: list[Any] = [cp.sum(output) == 1, every_set(len(draft)) @ output >= needed]
    problem = cp.Problem(cp.Minimize(program(cp, output, target)), within)
    problem.solve(solver=SOLVER, **CURVED_SETTINGS[0])
    return problem.value, np.asarray(output.value)


@pytest.mark.parametrize("vocab", [3, 6])
@pytest.mark.parametrize("drafts", [2, 3])
@WAYS
def test_one_law_solves_the_program_over_all_sets_in_every_divergence(replacement, drafts, vocab):
    for seed in (1, 2):  # neither too peaked for the solver's own accuracy
        draft, target = random_pair(seed, vocab=vocab)
        rejection = 0.4 * (1 - float(optimal_acceptance(draft, target, drafts=drafts, replacement=replacement)))
        laws = []
        for divergence in ("kl", "reverse_kl", "chi2", "hellinger"):
            front = solve_multi_draft_pareto(
                draft, target, drafts=drafts, divergence=divergence, replacement=replacement
            )
            point = front.at(rejection=rejection)
            value, law = enumerated(draft, target, drafts, replacement, rejection, divergence)
            assert_close(value, point.divergence, "interior point objective")
            laws.append(law)
            np.testing.assert_allclose(law, point.output_law, atol=LAW)
        np.testing.assert_allclose(laws, np.tile(laws[0], (4, 1)), atol=LAW)


@pytest.mark.parametrize("divergence", ["tv", *CURVED, "alpha=1.5"])
@WAYS
def test_the_program_with_generated_sets_agrees_with_the_closed_form(divergence, replacement):
    for seed, drafts, vocab in ((0, 1, 6), (0, 2, 25), (1, 2, 6), (1, 4, 25), (2, 4, 6), (3, 2, 6), (3, 4, 25)):
        draft, target = random_pair(seed, vocab=vocab, masked=seed == 3)
        if seed == 3:
            draft = (draft + target) / 2  # a leak that the budget below can afford
        front = solve_multi_draft_pareto(draft, target, drafts=drafts, divergence=divergence, replacement=replacement)
        rejection = 0.7 * (1 - float(front.optimal_acceptance))
        if seed == 3 and np.isinf(float(front.at(rejection=rejection).divergence)):
            continue
        point = front.at(rejection=rejection)
        solved = solve_drafts(
            draft, target, drafts=drafts, rejection=rejection, divergence=divergence, replacement=replacement
        )
        assert_close(solved.value, point.divergence, "interior point objective")
        assert (solved.cuts > 0) == (rejection > 1e-6)  # four drafts of flat laws may lose nothing
        if divergence != "tv":
            np.testing.assert_allclose(solved.output, point.output_law, atol=LAW)


def test_a_budget_that_buys_the_target_needs_no_set():
    draft, target = random_pair(1, vocab=6)
    solved = solve_drafts(draft, target, drafts=2, rejection=0.9, divergence="kl")
    assert (solved.value, solved.cuts, solved.status) == (0.0, 0, Status.OPTIMAL)
    nearly = 1 - float(optimal_acceptance(draft, target, drafts=2)) - 2e-5
    assert solve_drafts(draft, target, drafts=2, rejection=nearly, divergence="tv").value == pytest.approx(
        2e-5, abs=LINEAR
    )


def test_the_program_says_what_it_cannot_solve():
    draft, target = np.array([0.9, 0.1, 0.0]), np.array([0.0, 0.5, 0.5])
    with pytest.raises(SolverError, match="infeasible"):
        solve_drafts(draft, target, drafts=2, rejection=0.1, divergence="kl")
    with pytest.raises(InputError, match="no convex program"):
        solve_drafts(draft, target, drafts=2, rejection=0.1, divergence=KINKED)


def test_rounds_have_a_limit(monkeypatch):
    monkeypatch.setattr("solvers.convex_multi_draft.MOST_ROUNDS", 1)
    draft, target = random_pair(1, vocab=6)
    with pytest.raises(SolverError, match="still violated after 1 rounds"):
        solve_drafts(draft, target, drafts=2, rejection=0.01, divergence="kl")
