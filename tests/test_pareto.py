"""`solve_pareto` end to end: exact points, kinds and types of arrays, batches, real vocabularies, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, SUBNORMAL_PAIRS, law_pairs, oracle_ceiling, oracle_floor, random_pair, tv
from tolerances import assert_at_most, assert_close, assert_law, tolerance

from solvers.divergences import DIVERGENCES
from tradeoff import InputError, SolverError, solve_pareto

DRAFT = np.array([0.7, 0.2, 0.1])
TARGET = np.array([0.4, 0.4, 0.2])
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
extreme = pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
LIBRARIES = {
    **{f"numpy {name}": (np.asarray, getattr(np, name), name) for name in ("float16", "float32", "float64")},
    **{
        f"torch {name}": (torch.asarray, getattr(torch, name), name)
        for name in ("float16", "bfloat16", "float32", "float64")
    },
}
library = pytest.mark.parametrize(("convert", "dtype", "dtype_name"), LIBRARIES.values(), ids=LIBRARIES.keys())


def plain(array):
    return array.to(torch.float64).numpy() if isinstance(array, torch.Tensor) else np.asarray(array, np.float64)


# --- values --------------------------------------------------------------------------------------------------


def test_a_point_computed_by_hand():
    # C: 0.7 - 0.4 C = 0.15;  c: (0.4 c - 0.2) + (0.2 c - 0.1) = 0.15
    point = solve_pareto(DRAFT, TARGET, divergence="kl").at(rejection=0.15)
    assert_close([point.floor, point.ceiling], [0.75, 1.375], "mass")
    assert_close(point.output_law, [0.55, 0.3, 0.15], "mass")
    assert_close(point.divergence, 0.55 * np.log(1.375) + 0.45 * np.log(0.75), "mass")
    assert_close(point.price, np.log(1.375 / 0.75), "mass")
    assert_close(point.rejection, 0.15, "mass")
    assert_close(point.optimality_gap, 0.0, "mass")


@every_divergence
@given(pair=law_pairs(), fraction=st.floats(0.05, 0.95))
def test_every_point_is_certified_optimal(name, pair, fraction):
    front = solve_pareto(*pair, divergence=name, rejection=0.0)
    point = front.at(rejection=fraction * float(front.total_variation))
    assert_close(point.lower_bound, point.divergence, "divergence")
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
    assert abs(float(found.optimality_gap)) <= tolerance("interior point objective")
    assert_close(found.price, wanted.price, "interior point multiplier")


def test_the_cvxpy_solver_gives_torch_laws_back_to_torch():
    pair = [torch.asarray(law, dtype=torch.float32) for law in (DRAFT, TARGET)]
    point = solve_pareto(*pair, divergence="kl", rejection=0.1, solver="cvxpy").at(rejection=0.15)
    assert point.acceptance.dtype == point.output_law.dtype == torch.float32
    assert_close(point.output_law, [0.55, 0.3, 0.15], "interior point multiplier")


def test_the_cvxpy_solver_takes_one_pair_of_laws_and_says_what_else_to_do():
    batch = np.stack([DRAFT, DRAFT]), np.stack([TARGET, TARGET])
    with pytest.raises(InputError, match=r"one pair of laws \[vocab\]; got shape \(2, 3\); .*solver='closed_form'"):
        solve_pareto(*batch, solver="cvxpy", rejection=0.1)
    with pytest.raises(InputError, match="got 'hellinger'; use 'closed_form'"):
        solve_pareto(DRAFT, TARGET, divergence="hellinger", solver="cvxpy", rejection=0.1)


def test_an_unattainable_budget_is_a_solver_error_under_cvxpy_and_infinity_in_closed_form():
    draft, target = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.4, 0.6])
    with pytest.raises(SolverError, match="no law within this rejection budget has a finite divergence"):
        solve_pareto(draft, target, divergence="kl", solver="cvxpy", rejection=0.1)
    point = solve_pareto(draft, target, divergence="kl", rejection=0.1).at(rejection=0.1)
    assert point.divergence == point.lower_bound == np.inf
    assert point.optimality_gap == 0


# --- libraries, types, shapes --------------------------------------------------------------------------------


@library
def test_laws_come_back_in_the_callers_kind_and_type_and_row_quantities_in_float64(convert, dtype, dtype_name):
    draft, target = (convert(law, dtype=dtype) for law in (DRAFT, TARGET))
    front = solve_pareto(draft, target, divergence="kl")
    point = front.at(rejection=0.15)
    for law in (point.acceptance, point.residual, point.output_law):
        assert type(law) is type(draft)
        assert law.dtype == dtype
    for row in (point.rejection, point.divergence, point.floor, point.ceiling, point.price, point.lower_bound):
        assert "float64" in str(row.dtype)
        assert row.shape == ()
    assert "float64" in str(front.rejection.dtype)
    assert_at_most(abs(float(point.optimality_gap)), 0.0, "mass")
    # the laws that came in were rounded to the type, sums included; two more roundings on the way out
    off = np.abs(plain(point.output_law) - [0.55, 0.3, 0.15]).max()
    assert off <= 8 * tolerance("handed back", dtype_name)


@library
def test_a_batch_of_two_by_three_pairs_equals_six_pairs(convert, dtype, dtype_name):
    rng = np.random.default_rng(0)
    laws = rng.dirichlet(np.ones(11), size=(2, 2, 3))
    draft, target = convert(laws[0], dtype=dtype), convert(laws[1], dtype=dtype)
    front = solve_pareto(draft, target, divergence="chi2")
    assert front.rejection.shape == front.divergence.shape == (33, 2, 3)
    assert_close(front.rejection, np.linspace(0, 1, 33)[:, None, None] * plain(front.total_variation), "mass")
    point = front.at(rejection=0.05)
    assert point.output_law.shape == (2, 3, 11)
    assert point.output_law.dtype == dtype
    for i, j in np.ndindex(2, 3):
        alone = solve_pareto(draft[i, j], target[i, j], divergence="chi2").at(rejection=0.05)
        assert_close(plain(point.output_law)[i, j], plain(alone.output_law), "handed back", dtype_name)
        assert_close(point.divergence[i, j], alone.divergence, "divergence")


def test_a_batch_can_be_asked_for_one_rejection_per_row():
    draft, target = np.stack([DRAFT, TARGET]), np.stack([TARGET, DRAFT])
    point = solve_pareto(draft, target).at(rejection=[0.1, 0.2])
    assert_close(point.rejection, [0.1, 0.2], "mass")
    assert_close(point.divergence, [0.2, 0.1], "mass")


@pytest.mark.parametrize("convert", [np.asarray, torch.asarray], ids=["numpy", "torch"])
def test_a_full_vocabulary_row_is_solved_exactly(convert):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(2, 151936)).astype(np.float32)
    logits[1, rng.random(151936) < 0.3] = -np.inf
    laws = torch.softmax(torch.asarray(logits), dim=-1).numpy()
    front = solve_pareto(convert(laws[0]), convert(laws[1]), divergence="kl", rejection=0.0)
    rejection = 0.8 * float(front.total_variation)
    point = front.at(rejection=rejection)
    assert_close(point.rejection, rejection, "mass of a large vocabulary")
    assert_at_most(abs(float(point.optimality_gap)), 0.0, "mass of a large vocabulary")
    draft, target = (law.astype(np.float64) / law.astype(np.float64).sum() for law in laws)
    assert_close(point.floor, oracle_floor(draft, target, rejection), "mass of a large vocabulary")
    assert_close(point.ceiling, oracle_ceiling(draft, target, rejection), "divergence")


def test_integers_and_lists_are_accepted():
    point = solve_pareto([1, 0], [0, 1]).at(rejection=0.25)
    assert_close(point.output_law, [0.75, 0.25], "mass")


def test_read_only_and_non_contiguous_arrays_are_read_and_left_alone():
    wide = np.zeros((3, 4))
    wide[:, 0], wide[:, 2] = DRAFT, TARGET
    wide.flags.writeable = False
    before = wide.copy()
    point = solve_pareto(wide[:, 0], wide[:, 2]).at(rejection=0.15)
    assert_close(point.output_law, [0.55, 0.3, 0.15], "mass")
    reversed_point = solve_pareto(wide[::-1, 0], wide[::-1, 2]).at(rejection=0.15)
    assert_close(reversed_point.output_law, [0.15, 0.3, 0.55], "mass")
    assert (wide == before).all()
    columns = torch.asarray(before)
    torch_point = solve_pareto(columns[:, 0], columns[:, 2]).at(rejection=0.15)
    assert_close(torch_point.output_law, [0.55, 0.3, 0.15], "mass")


@given(pair=law_pairs(), seed=st.integers(0, 100), fraction=st.floats(0, 1))
def test_renaming_the_tokens_renames_the_answer(pair, seed, fraction):
    draft, target = pair
    order = np.random.default_rng(seed).permutation(draft.shape[0])
    rejection = fraction * float(tv(draft, target))
    point = solve_pareto(draft, target, rejection=0.0).at(rejection=rejection)
    renamed = solve_pareto(draft[order], target[order], rejection=0.0).at(rejection=rejection)
    assert_close(renamed.output_law, point.output_law[order], "mass")


# --- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"divergence": "js"}, "divergence: expected one of tv, kl, .*; got 'js'"),
        ({"solver": "mosek"}, "solver: expected 'closed_form' or 'cvxpy'; got 'mosek'"),
        ({"rejection": []}, "rejection: expected at least one value; got none; leave it out"),
        ({"rejection": 0.5}, r"expected at most TV\(draft, target\) = 0.3, .*; got 0.5; ask for less"),
        ({"rejection": [0.1, -0.1]}, "expected a probability between 0 and TV.*; got -0.1"),
        ({"rejection": float("nan")}, "expected a probability between 0 and TV.*; got nan"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_line_errors(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        solve_pareto(DRAFT, TARGET, **arguments)
    assert "\n" not in str(caught.value)


def test_a_point_beyond_the_front_is_an_error():
    with pytest.raises(InputError, match="already lossless; got 0.4; ask for less"):
        solve_pareto(DRAFT, TARGET).at(rejection=0.4)


@pytest.mark.parametrize("rejection", [np.float32(0.1), np.asarray(0.1), torch.tensor(0.1)])
def test_a_single_rejection_of_any_kind_is_a_grid_of_one(rejection):
    assert solve_pareto(DRAFT, TARGET, rejection=rejection).rejection.shape == (1,)
