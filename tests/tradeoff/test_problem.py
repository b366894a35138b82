"""The door: what is let in, and one-line errors that say what was expected, what came and what to do."""

import re

import numpy as np
import pytest
import torch
from laws import EXTREME_PAIRS
from tolerances import assert_close, assert_law

from solvers.errors import InputError
from tradeoff.problem import checked_numbers, validated

GOOD = np.array([0.25, 0.75])

BAD_PAIRS = {
    "unlike libraries": (GOOD, torch.asarray(GOOD), "expected one array library; got ndarray and Tensor; convert one"),
    "unlike shapes": (GOOD, np.ones(3) / 3, r"expected equal shapes .*; got \(2,\) and \(3,\); cut both laws"),
    "unlike batches": (np.ones((2, 1)), np.ones((3, 1)), r"got \(2, 1\) and \(3, 1\)"),
    "no vocabulary": (np.ones(0), np.ones(0), r"expected at least one token, .*; got shape \(0,\)"),
    "no rows": (np.ones((0, 2)), np.ones((0, 2)), r"got shape \(0, 2\)"),
    "a number": (1.0, 1.0, r"got shape \(\)"),
    "nan in the draft": (np.array([np.nan, 1.0]), GOOD, "draft law: expected finite .*; got NaN .*; check its logits"),
    "infinity in the target": (GOOD, np.array([np.inf, 0.0]), "target law: expected finite probabilities; got NaN or"),
    "logits": (np.array([-1.5, 2.5]), GOOD, "expected probabilities >= 0; got -1.5; pass probabilities, not logits"),
    "negative dust": (GOOD, np.array([1.0, -1e-9]), "target law: expected probabilities >= 0; got -1e-09"),
    "a truncated law": (GOOD, np.array([0.25, 0.7]), "got a row that sums to 0.95; .* pass normalise=True"),
    "a sum of 1.0001": (GOOD * 1.0001, GOOD, "draft law: .* got a row that sums to 1.0001; .* pass normalise=True"),
    "counts": (np.array([3, 4]), np.array([1, 0]), "draft law: expected probabilities that sum to 1 within 2e-05"),
    "one bad row": (np.array([GOOD, GOOD]), np.array([GOOD, GOOD / 2]), "target law: .* got a row that sums to 0.5"),
    "complex numbers": (GOOD + 0j, GOOD, "expected real numbers; got complex128; pass probabilities"),
    "booleans": (np.array([True, False]), np.array([True, False]), "expected real numbers; got bool"),
}


@pytest.mark.parametrize(("draft", "target", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS.keys())
def test_bad_laws_are_one_line_errors_that_say_what_to_do(draft, target, message):
    with pytest.raises(InputError) as caught:
        validated(draft, target)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text
    assert re.search("expected .*; got ", text), text


@pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
def test_extreme_laws_are_let_in_unchanged(pair):
    problem = validated(*pair)
    assert_close(problem.draft, pair[0], "mass")
    assert_close(problem.target, pair[1], "mass")
    assert ((problem.target > 0) == (pair[1] > 0)).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy_laws_become_float64_that_sum_to_one_and_remember_a_type_of_32_bits_or_more(dtype):
    law = np.random.default_rng(0).dirichlet(np.ones(50)).astype(dtype)
    problem = validated(law, law)
    assert problem.draft.dtype == np.float64
    assert_law(problem.draft)
    assert problem.restored(problem.draft).dtype == max(law.dtype, np.dtype(np.float32))
    # rescaling to sum 1 moves a law by at most its own rounding
    assert np.abs(problem.draft - law.astype(np.float64)).max() <= 60 * np.finfo(dtype).eps * law.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_laws_become_float64_that_sum_to_one_and_remember_a_type_of_32_bits_or_more(dtype):
    law = torch.softmax(torch.linspace(-3, 3, 50), dim=-1).to(dtype)
    problem = validated(law, law)
    assert problem.target.dtype == torch.float64
    assert_law(problem.target)
    assert problem.restored(problem.target).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_laws_of_two_floating_types_come_back_in_the_wider_one():
    problem = validated(GOOD.astype(np.float16), GOOD.astype(np.float32))
    assert problem.dtype == np.float32


@pytest.mark.parametrize("law", [[0, 1], np.array([0, 1]), torch.tensor([0, 1])], ids=["list", "numpy", "torch"])
def test_integers_are_probabilities_too_and_come_back_as_float64(law):
    problem = validated(law, law)
    assert_close(problem.draft, [0, 1], "mass")
    assert "float64" in str(problem.dtype)


def test_a_float32_softmax_over_a_real_vocabulary_is_within_the_tolerance():
    logits = np.random.default_rng(0).normal(scale=4, size=(2, 151936)).astype(np.float32)
    law = np.exp(logits - logits.max(-1, keepdims=True))
    law /= law.sum(-1, keepdims=True)
    assert_law(validated(law, law).draft)


def test_minus_infinity_logits_are_tokens_without_mass():
    law = torch.softmax(torch.tensor([0.0, -torch.inf, 1.0]), dim=-1)
    assert float(validated(law, law).draft[1]) == 0.0


# --- normalise=True ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0001, 0.5, 3.0, 1e-200, 1e300])
def test_rows_of_any_positive_sum_are_divided_by_it_when_asked(scale):
    problem = validated(GOOD * scale, GOOD / 2, normalise=True)
    assert_close(problem.draft, GOOD, "mass")
    assert_close(problem.target, GOOD, "mass")


def test_counts_are_laws_when_asked_and_every_row_has_its_own_sum():
    problem = validated(np.array([[3, 1], [1, 1]]), np.array([[1, 0], [5, 15]]), normalise=True)
    assert_close(problem.draft, [[0.75, 0.25], [0.5, 0.5]], "mass")
    assert_close(problem.target, [[1, 0], [0.25, 0.75]], "mass")


@pytest.mark.parametrize("law", [[0.0, 0.0], [1.5e308, 1.5e308]], ids=["zeros", "overflow"])
def test_rows_without_a_positive_finite_sum_cannot_be_normalised(law):
    with pytest.raises(InputError, match="expected rows with a positive sum; got a row of zeros or one that overflows"):
        validated(np.array(law), GOOD, normalise=True)


def test_negative_masses_are_no_law_whatever_their_sum():
    with pytest.raises(InputError, match="expected probabilities >= 0; got -1"):
        validated(np.array([3.0, -1.0]), GOOD, normalise=True)


def test_laws_on_two_devices_are_an_error_that_names_both():
    with pytest.raises(InputError, match="expected one device; got cpu and meta; move one of them"):
        validated(torch.asarray(GOOD), torch.empty(2, dtype=torch.float64, device="meta"))


# --- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rejection", [-0.1, np.nan, -1e-9, 1.1, np.inf])
def test_a_rejection_that_is_no_probability_is_an_error(rejection):
    with pytest.raises(InputError, match="rejection: expected between 0 and 1; got"):
        checked_numbers(rejection, "rejection", np.asarray(0.3), most=1.0)


@pytest.mark.parametrize("price", [-0.1, np.nan, [1.0, -1.0]])
def test_a_price_below_zero_or_nan_is_an_error(price):
    with pytest.raises(InputError, match="price: expected at least 0; got"):
        checked_numbers(price, "price", np.zeros(2))


def test_a_price_may_be_infinite():
    assert float(checked_numbers(np.inf, "price", np.asarray(0.3))) == np.inf


@pytest.mark.parametrize("rejection", [0.1, np.float32(0.1), np.asarray(0.1), torch.tensor(0.1), [[0.1] * 3] * 2])
def test_a_rejection_of_any_kind_is_broadcast_to_the_rows(rejection):
    wanted = checked_numbers(rejection, "rejection", torch.full((2, 3), 0.4, dtype=torch.float64), most=1.0)
    assert wanted.dtype == torch.float64
    assert_close(wanted, np.full((2, 3), 0.1), "handed back", "float32")


def test_numbers_for_other_rows_are_an_error_that_names_both_shapes():
    with pytest.raises(InputError, match=r"expected one number, or one to a row of shape \(2,\); got shape \(3,\)"):
        checked_numbers([0.1] * 3, "rejection", np.zeros(2), most=1.0)


def test_ragged_lists_and_words_are_input_errors():
    with pytest.raises(InputError, match="expected rows of equal length"):
        validated([[0.5, 0.5], [1.0]], [[0.5, 0.5], [1.0]])
    with pytest.raises(InputError, match="expected a number or numbers; got 'much'"):
        checked_numbers("much", "rejection", np.asarray(0.3))
    with pytest.raises(InputError, match="expected a number or numbers"):
        checked_numbers([[0.1], [0.1, 0.2]], "rejection", np.asarray(0.3))
