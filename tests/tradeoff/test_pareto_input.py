"""What `solve_pareto` takes: libraries, types, shapes, extremes; and what it refuses, in one line."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import (
    MEASURES,
    law_pairs,
    oracle_ceiling,
    oracle_floor,
    tv,
)
from tolerances import assert_at_most, assert_close, tolerance

from tradeoff import InputError, solve_pareto

DRAFT = np.array([0.7, 0.2, 0.1])
TARGET = np.array([0.4, 0.4, 0.2])
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


# --- libraries, types, shapes --------------------------------------------------------------------------------


@library
def test_laws_come_back_in_the_callers_kind_and_type_and_row_quantities_in_float64(convert, dtype, dtype_name):
    draft, target = (convert(law, dtype=dtype) for law in (DRAFT, TARGET))
    front = solve_pareto(draft, target, divergence="kl")
    point = front.at(rejection=0.15)
    for law in (point.acceptance, point.residual, point.output_law):
        assert type(law) is type(draft)
        # a rule in half precision would not be the rule that was solved for
        assert str(law.dtype).endswith("float64" if dtype_name == "float64" else "float32")
    certificate = point.certificate
    proof = (certificate.value, certificate.bound, certificate.gap, certificate.price, certificate.infeasibility)
    for row in (point.rejection, point.divergence, point.floor, point.ceiling, point.price, *proof):
        assert "float64" in str(row.dtype)
        assert row.shape == ()
    assert "float64" in str(front.rejection.dtype)
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
    assert str(point.output_law.dtype).endswith("float64" if dtype_name == "float64" else "float32")
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
    assert_at_most(abs(float(point.certificate.gap)), 0.0, "certificate", "float32")
    draft, target = (law.astype(np.float64) / law.astype(np.float64).sum() for law in laws)
    assert_close(point.floor, oracle_floor(draft, target, rejection), "mass of a large vocabulary")
    assert_close(point.ceiling, oracle_ceiling(draft, target, rejection), "divergence")


def test_laws_of_two_types_are_solved_in_float64_and_come_back_in_the_wider_one():
    point = solve_pareto(DRAFT.astype(np.float32), TARGET).at(rejection=0.15)
    assert point.output_law.dtype == np.float64
    assert_close(point.output_law, [0.55, 0.3, 0.15], "handed back", "float32")
    mixed = solve_pareto(torch.asarray(DRAFT, dtype=torch.bfloat16), torch.asarray(TARGET, dtype=torch.float32))
    assert mixed.at(rejection=0.15).output_law.dtype == torch.float32


def test_a_sum_of_1_0001_is_an_error_and_is_solved_when_asked():
    with pytest.raises(InputError, match="got a row that sums to 1.0001; .* pass normalise=True"):
        solve_pareto(DRAFT * 1.0001, TARGET)
    point = solve_pareto(DRAFT * 1.0001, TARGET * 7, normalise=True).at(rejection=0.15)
    assert_close(point.output_law, [0.55, 0.3, 0.15], "mass")


def test_a_vocabulary_of_one_token_has_nothing_to_reject():
    for measure in MEASURES.values():
        front = solve_pareto([1.0], [1.0], divergence=measure)
        assert_close(front.divergence, np.zeros(33), "mass")
        assert front.at(rejection=0.5).certificate.holds(tolerance("divergence"))


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
        ({"divergence": "wasserstein"}, "divergence: expected one of tv, kl, .* or alpha=<order>; got 'wasserstein'"),
        ({"divergence": "alpha=big"}, "divergence: expected one of .* got 'alpha=big'"),
        ({"divergence": "alpha=inf"}, "alpha: expected a finite order; got inf"),
        ({"solver": "mosek"}, "solver: expected 'closed_form' or 'cvxpy'; got 'mosek'"),
        ({"budget": "row"}, "budget: expected 'each' or 'mean'; got 'row'"),
        ({"weights": [1.0]}, "weights: expected only with budget='mean'"),
        ({"budget": "mean", "weights": 0.0}, "weights: expected a positive, finite sum; got 0"),
        ({"budget": "mean", "weights": -1.0}, "weights: expected at least 0; got -1.0"),
        ({"budget": "mean", "rejection": "breakpoints"}, "or 'breakpoints' with budget='each'; got 'breakpoints'"),
        ({"rejection": "all"}, "rejection: expected numbers, or 'breakpoints' with budget='each'; got 'all'"),
        ({"rejection": []}, "rejection: expected at least one value; got none; leave it out"),
        ({"rejection": 1.5}, "rejection: expected between 0 and 1; got 1.5"),
        ({"rejection": [0.1, -0.1]}, "rejection: expected between 0 and 1; got -0.1"),
        ({"rejection": float("nan")}, "rejection: expected between 0 and 1; got nan"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_line_errors(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        solve_pareto(DRAFT, TARGET, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "expected exactly one of rejection=, divergence= and price=; got none"),
        ({"rejection": 0.1, "price": 1.0}, "expected exactly one of .*; got rejection and price"),
        ({"rejection": 0.1, "divergence": 1.0, "price": 1.0}, "got rejection and divergence and price"),
        ({"rejection": 1.1}, "rejection: expected between 0 and 1; got 1.1"),
        ({"divergence": -0.1}, "divergence: expected at least 0; got -0.1"),
        ({"price": -1}, "price: expected at least 0; got -1"),
        ({"price": "dear"}, "price: expected a number or numbers; got 'dear'"),
        ({"rejection": [0.1, 0.2]}, r"rejection: expected one number, or one to a row of shape \(\); got shape \(2,\)"),
    ],
)
def test_questions_that_cannot_be_answered_are_one_line_errors(question, message):
    with pytest.raises(InputError, match=message) as caught:
        solve_pareto(DRAFT, TARGET).at(**question)
    assert "\n" not in str(caught.value)


def test_a_batch_and_a_question_of_another_shape_are_an_error():
    front = solve_pareto(np.stack([DRAFT, TARGET]), np.stack([TARGET, DRAFT]))
    with pytest.raises(InputError, match=r"one to a row of shape \(2,\); got shape \(3,\)"):
        front.at(price=[1.0, 2.0, 3.0])


def test_alternatives_need_a_shared_budget():
    with pytest.raises(InputError, match="expected a front of solve_pareto.*budget='mean'.*; got budget='each'"):
        solve_pareto(DRAFT, TARGET).alternatives(rejection=0.1)


@pytest.mark.parametrize("rejection", [np.float32(0.1), np.asarray(0.1), torch.tensor(0.1)])
def test_a_single_rejection_of_any_kind_is_a_grid_of_one(rejection):
    assert solve_pareto(DRAFT, TARGET, rejection=rejection).rejection.shape == (1,)
