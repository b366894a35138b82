"""`solve_pareto` end to end: exact points, its three questions, grids, both solvers."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import (
    EXTREME_PAIRS,
    KINDS,
    MEASURES,
    SUBNORMAL_PAIRS,
    law_pairs,
    random_pair,
    tv,
)
from tolerances import assert_at_most, assert_close, assert_law, tolerance

from solvers.divergences import DIVERGENCES
from tradeoff import InputError, SolverError, f_divergence, solve_pareto

DRAFT = np.array([0.7, 0.2, 0.1])
TARGET = np.array([0.4, 0.4, 0.2])
every_kind = pytest.mark.parametrize("name", KINDS)
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
extreme = pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())

# --- values --------------------------------------------------------------------------------------------------


def test_a_point_computed_by_hand():
    # C: 0.7 - 0.4 C = 0.15;  c: (0.4 c - 0.2) + (0.2 c - 0.1) = 0.15
    point = solve_pareto(DRAFT, TARGET, divergence="kl").at(rejection=0.15)
    assert_close([point.floor, point.ceiling], [0.75, 1.375], "mass")
    assert_close(point.output_law, [0.55, 0.3, 0.15], "mass")
    assert_close(point.divergence, 0.55 * np.log(1.375) + 0.45 * np.log(0.75), "mass")
    assert_close(point.price, np.log(1.375 / 0.75), "mass")
    assert_close(point.rejection, 0.15, "mass")
    assert_close(point.certificate.gap, 0.0, "mass")


@every_divergence
@given(pair=law_pairs(), fraction=st.floats(0.05, 0.95))
def test_every_point_is_certified_optimal(name, pair, fraction):
    front = solve_pareto(*pair, divergence=name, rejection=0.0)
    point = front.at(rejection=fraction * float(front.total_variation))
    assert_close(point.certificate.bound, point.divergence, "divergence")
    assert point.certificate.holds(tolerance("divergence"))
    assert_law(point.output_law)
    assert_law(point.residual)
    accepted = point.acceptance * pair[0]
    assert_close(point.output_law, accepted + (1 - accepted.sum()) * point.residual, "mass")
    assert_close(point.rejection, 1 - accepted.sum(), "mass")


@every_divergence
@extreme
def test_the_default_front_runs_from_the_draft_to_the_target(name, pair):
    draft, target = pair
    front = solve_pareto(draft, target, divergence=name)
    assert front.rejection.shape == front.divergence.shape == (33,)
    assert_close(front.total_variation, tv(draft, target), "mass")
    assert_close(front.rejection, np.linspace(0, 1, 33) * tv(draft, target), "mass")
    assert_close(front.divergence[-1], 0.0, "divergence")
    assert (front.divergence[1:] <= front.divergence[:-1] + 1e-9 * (1 + front.divergence[1:])).all()
    assert_close(front.at(rejection=0.0).output_law, draft, "mass")
    assert_close(front.at(rejection=front.total_variation).output_law, target, "mass")


@every_divergence
def test_the_front_is_convex_and_its_price_is_its_slope(name):
    for seed in range(0, 12, 3):
        front = solve_pareto(*random_pair(seed, vocab=8), divergence=name, rejection=0.0)
        width, step = float(front.total_variation), 1e-6
        values = [float(front.at(rejection=f * width).divergence) for f in np.linspace(0.05, 1, 20)]
        assert (np.diff(values, 2) >= -1e-9).all()
        for fraction in (0.2, 0.5, 0.8):
            point = front.at(rejection=fraction * width)
            left = front.at(rejection=fraction * width - step * width).divergence
            right = front.at(rejection=fraction * width + step * width).divergence
            slope = float(left - right) / (2 * step * width)
            # central differences of step h err by h^2, and lose 1e-16 / h to cancellation
            assert abs(float(point.price) - slope) <= 1e-4 * (1 + abs(slope))


def test_the_tv_front_is_the_straight_line_of_theorem_5():
    front = solve_pareto(*random_pair(1, vocab=8))
    assert_close(front.divergence, front.total_variation - front.rejection, "mass")


def test_one_law_is_the_answer_for_all_divergences():
    draft, target = random_pair(2, vocab=8)
    laws = [solve_pareto(draft, target, divergence=name).at(rejection=0.1).output_law for name in DIVERGENCES]
    for law in laws[1:]:
        assert law.tolist() == laws[0].tolist()


def test_a_chosen_grid_is_solved_at_exactly_those_rejections():
    assert_close(solve_pareto(DRAFT, TARGET, rejection=[0.1, 0.2]).rejection, [0.1, 0.2], "mass")
    assert_close(solve_pareto(DRAFT, TARGET, rejection=0.1).rejection, [0.1], "mass")
    assert_close(solve_pareto(DRAFT, TARGET, rejection=(0, 0.3)).divergence, [0.3, 0.0], "mass")


@every_divergence
@pytest.mark.parametrize("pair", SUBNORMAL_PAIRS.values(), ids=SUBNORMAL_PAIRS.keys())
def test_subnormal_masses_neither_warn_nor_lose_the_rejection(name, pair):
    front = solve_pareto(*pair, divergence=name, rejection=0.0)
    rejection = 0.3 * float(front.total_variation)
    assert_close(front.at(rejection=rejection).rejection, rejection, "mass")


# --- three questions -----------------------------------------------------------------------------------------


@every_kind
def test_the_three_questions_lead_to_the_same_point(name):
    for seed in range(0, 12, 3):
        front = solve_pareto(*random_pair(seed, vocab=8), divergence=MEASURES[name], rejection=0.0)
        point = front.at(rejection=0.4 * float(front.total_variation))
        by_divergence = front.at(divergence=float(point.divergence))
        assert_close(by_divergence.rejection, point.rejection, "divergence")
        assert_close(by_divergence.divergence, point.divergence, "divergence")
        by_price = front.at(price=float(point.price))
        cost, at_price = (float(each.divergence + point.price * each.rejection) for each in (point, by_price))
        assert_close(at_price, cost, "divergence")
        if MEASURES[name].strictly_convex:
            assert_close(by_price.output_law, point.output_law, "search")
        assert by_divergence.certificate.holds(tolerance("divergence"))
        assert by_price.certificate.holds(tolerance("divergence"))


@every_kind
@settings(max_examples=20)
@given(
    pair=law_pairs(), price=st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(1e-3, 20)), seed=st.integers(0, 99)
)
def test_no_rejection_costs_less_than_the_one_at_a_price(name, pair, price, seed):
    front = solve_pareto(*pair, divergence=MEASURES[name], rejection=0.0)
    point = front.at(price=price)
    rivals = np.random.default_rng(seed).random(5) * float(front.total_variation)
    costs = solve_pareto(*pair, divergence=MEASURES[name], rejection=rivals).divergence + price * rivals
    assert_at_most(point.divergence + price * point.rejection, costs, "divergence")
    assert point.certificate.holds(tolerance("divergence"))


@every_kind
@settings(max_examples=20)
@given(pair=law_pairs(), fraction=st.floats(0.01, 0.99))
def test_a_divergence_budget_is_kept_and_a_smaller_rejection_would_break_it(name, pair, fraction):
    front = solve_pareto(*pair, divergence=MEASURES[name], rejection=0.0)
    wanted = fraction * min(float(front.divergence[0]), 10.0)
    point = front.at(divergence=wanted)
    assume(float(point.rejection) > 1e-9)  # less cannot be told from nothing: an acceptance of 1 - 1e-20 is 1
    # R itself is a difference from 1, rounded at 1e-16
    assert_at_most(point.divergence - 1e-15 * point.price, wanted, "divergence")
    fewer = front.at(rejection=0.99 * float(point.rejection))
    assert_at_most(wanted, fewer.divergence, "divergence")


@pytest.mark.parametrize("name", [name for name in KINDS if name != "alpha=3"])  # of 1e150 it is beyond float64
@extreme
def test_the_ends_of_the_front_answer_the_extreme_questions(name, pair):
    draft, target = pair
    front = solve_pareto(draft, target, divergence=MEASURES[name], rejection=0.0)
    own = float(front.at(rejection=0.0).divergence)
    for question in ({"rejection": 0.0}, {"divergence": 2 * own}, {"divergence": np.inf}):
        point = front.at(**question)
        assert_close(point.output_law, draft, "mass")
        assert_close(point.rejection, 0.0, "mass")
    for question in ({"rejection": 1.0}, {"rejection": front.total_variation}, {"divergence": 0.0}):
        point = front.at(**question)
        assert_close(point.output_law, target, "mass")
        assert_close(point.divergence, 0.0, "divergence")
        assert point.certificate.holds(tolerance("divergence"))
    free = front.at(price=0.0)
    assert_close(free.divergence, 0.0, "divergence")
    assert free.certificate.holds(tolerance("divergence"))


def test_a_rejection_above_the_total_variation_buys_nothing_and_is_not_spent():
    point = solve_pareto(DRAFT, TARGET, divergence="kl").at(rejection=0.8)
    assert_close(point.output_law, TARGET, "mass")
    assert_close(point.rejection, 0.3, "mass")
    assert_close(point.budget, 0.8, "mass")
    assert_close(point.price, 0.0, "mass")
    assert point.certificate.holds(tolerance("divergence"))
    assert_close(solve_pareto(DRAFT, TARGET, rejection=[0.1, 0.8]).rejection, [0.1, 0.3], "mass")


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_batch_can_be_asked_every_question_row_by_row(library):
    convert = np.asarray if library == "numpy" else torch.asarray
    rng = np.random.default_rng(0)
    draft, target = rng.dirichlet(np.ones(6), size=(2, 2, 3))
    front = solve_pareto(convert(draft), convert(target), divergence="js", rejection=0.0)
    for question, wanted in (
        ("rejection", rng.random((2, 3)) * 0.3),
        ("divergence", rng.random((2, 3)) * 0.1),
        ("price", rng.random((2, 3))),
    ):
        point = front.at(**{question: wanted})
        for i, j in np.ndindex(2, 3):
            alone = solve_pareto(draft[i, j], target[i, j], divergence="js", rejection=0.0)
            expected = alone.at(**{question: wanted[i, j]})
            assert_close(point.rejection[i, j], expected.rejection, "divergence")
            assert_close(point.output_law[i, j], expected.output_law, "divergence")


# --- grids and columns ---------------------------------------------------------------------------------------


def test_breakpoints_are_a_grid_between_which_both_levels_are_straight():
    front = solve_pareto(*random_pair(1, vocab=5), divergence="kl", rejection="breakpoints")
    grid = front.rejection
    assert grid[0] == 0.0
    assert_close(grid[-1], front.total_variation, "mass")
    assert (np.diff(grid) > 0).all()
    assert len(grid) <= 2 * 5 + 2
    for left, right in zip(grid[1:-1], grid[2:], strict=True):
        ends, middle = [front.at(rejection=end) for end in (left, right)], front.at(rejection=(left + right) / 2)
        assert_close(middle.floor, (ends[0].floor + ends[1].floor) / 2, "divergence")
        assert_close(middle.ceiling, (ends[0].ceiling + ends[1].ceiling) / 2, "divergence")


def test_breakpoints_of_a_batch_are_one_column_for_each_row():
    draft, target = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 3))
    front = solve_pareto(draft, target, divergence="kl", rejection="breakpoints")
    assert front.rejection.shape == front.divergence.shape == front.price.shape == (12, 3)
    assert (np.diff(front.rejection, axis=0) >= 0).all()
    assert_close(front.rejection[-1], front.total_variation, "mass")


@pytest.mark.parametrize("convert", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_a_front_is_columns_of_equal_length_in_plain_numbers(convert):
    rng = np.random.default_rng(0)
    draft, target = (convert(law) for law in rng.dirichlet(np.ones(5), size=(2, 2, 3)))
    columns = solve_pareto(draft, target, divergence="kl", rejection=[0.0, 0.1, 0.2, 0.3]).to_dict()
    assert list(columns) == ["position", "rejection", "divergence", "price"]
    assert all(isinstance(column, list) and len(column) == 24 for column in columns.values())
    assert all(isinstance(value, float) for value in columns["divergence"])
    assert columns["position"] == [row for row in range(6) for _ in range(4)]
    alone = solve_pareto(draft[0, 1], target[0, 1], divergence="kl", rejection=[0.0, 0.1, 0.2, 0.3]).to_dict()
    for name in ("rejection", "divergence", "price"):
        assert_close(columns[name][4:8], alone[name], "divergence")


# --- the cvxpy solver ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tv", "kl"])
@pytest.mark.parametrize("seed", range(0, 12, 3))
def test_both_solvers_find_the_same_point_and_both_are_certified(name, seed):
    pair = random_pair(seed, vocab=8)
    exact = solve_pareto(*pair, divergence=name, rejection=0.0)
    convex = solve_pareto(*pair, divergence=name, rejection=exact.total_variation / 2, solver="cvxpy")
    wanted = exact.at(rejection=exact.total_variation / 2)
    found = convex.at(rejection=convex.total_variation / 2)
    assert_close(found.divergence, wanted.divergence, "interior point objective")
    assert_close(found.rejection, wanted.rejection, "interior point objective")
    assert_close(convex.divergence[0], wanted.divergence, "interior point objective")
    assert found.certificate.holds(tolerance("interior point objective"))
    assert_close(found.price, wanted.price, "interior point multiplier")
    assert wanted.solved_by == "closed form"
    assert found.solved_by.startswith("CLARABEL ")
    assert found.solved_by.endswith(": optimal")


def test_the_cvxpy_solver_gives_torch_laws_back_to_torch():
    pair = [torch.asarray(law, dtype=torch.float32) for law in (DRAFT, TARGET)]
    point = solve_pareto(*pair, divergence="kl", rejection=0.1, solver="cvxpy").at(rejection=0.15)
    assert point.acceptance.dtype == point.output_law.dtype == torch.float32
    assert_close(point.output_law, [0.55, 0.3, 0.15], "interior point multiplier")


def test_the_cvxpy_solver_takes_one_pair_of_laws_and_says_what_else_to_do():
    batch = np.stack([DRAFT, DRAFT]), np.stack([TARGET, TARGET])
    with pytest.raises(InputError, match=r"one pair of laws \[vocab\]; got shape \(2, 3\); .*solver='closed_form'"):
        solve_pareto(*batch, solver="cvxpy", rejection=0.1)
    own = f_divergence(lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1), name="mine")
    with pytest.raises(InputError, match="mine has no convex program .*; use solver='closed_form'"):
        solve_pareto(DRAFT, TARGET, divergence=own, solver="cvxpy", rejection=0.1)


def test_an_unattainable_budget_is_a_solver_error_under_cvxpy_and_infinity_in_closed_form():
    draft, target = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.4, 0.6])
    with pytest.raises(SolverError, match="no law within this rejection budget has a finite divergence"):
        solve_pareto(draft, target, divergence="kl", solver="cvxpy", rejection=0.1)
    point = solve_pareto(draft, target, divergence="kl", rejection=0.1).at(rejection=0.1)
    assert point.divergence == point.certificate.bound == np.inf
    assert point.certificate.gap == 0
