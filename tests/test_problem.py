"""The door: what is let in, and one-line errors that say what was expected, what came and what to do."""

import re

import numpy as np
import pytest
import torch
from laws import EXTREME_PAIRS
from tolerances import assert_close, assert_law

from solvers.errors import InputError
from tradeoff.problem import checked_rejection, validated

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
    "a truncated law": (GOOD, np.array([0.25, 0.7]), "misses it by 0.05; divide by the sum if that is what you mean"),
    "counts": (np.array([3, 4]), np.array([1, 0]), "draft law: expected probabilities that sum to 1 within 2e-05"),
    "one bad row": (np.array([GOOD, GOOD]), np.array([GOOD, GOOD / 2]), "a row misses it by 0.5"),
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
    assert re.search("expected .*; (got|a row misses it by) ", text), text


@pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
def test_extreme_laws_are_let_in_unchanged(pair):
    problem = validated(*pair)
    assert_close(problem.draft, pair[0], "mass")
    assert_close(problem.target, pair[1], "mass")
    assert ((problem.target > 0) == (pair[1] > 0)).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy_laws_become_float64_that_sum_to_one_and_remember_their_type(dtype):
    law = np.random.default_rng(0).dirichlet(np.ones(50)).astype(dtype)
    problem = validated(law, law)
    assert problem.draft.dtype == np.float64
    assert_law(problem.draft)
    assert problem.restored(problem.draft).dtype == law.dtype
    # rescaling to sum 1 moves a law by at most its own rounding
    assert np.abs(problem.draft - law.astype(np.float64)).max() <= 60 * np.finfo(dtype).eps * law.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_laws_become_float64_that_sum_to_one_and_remember_their_type(dtype):
    law = torch.softmax(torch.linspace(-3, 3, 50), dim=-1).to(dtype)
    problem = validated(law, law)
    assert problem.target.dtype == torch.float64
    assert_law(problem.target)
    assert problem.restored(problem.target).dtype == dtype


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


@pytest.mark.parametrize("rejection", [-0.1, np.nan, -1e-9])
def test_a_rejection_below_zero_or_nan_is_an_error(rejection):
    with pytest.raises(InputError, match="expected a probability between 0 and TV"):
        checked_rejection(rejection, np.asarray(0.3))


def test_a_rejection_above_the_total_variation_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"at most TV\(draft, target\) = 0.3, .*lossless; got 0.4; ask for less"):
        checked_rejection(0.4, np.asarray(0.3))


def test_a_rejection_equal_to_the_total_variation_but_for_rounding_is_cut_to_it():
    assert float(checked_rejection(np.float32(0.3), np.asarray(0.3))) == 0.3


@pytest.mark.parametrize("rejection", [0.1, np.float32(0.1), np.asarray(0.1), torch.tensor(0.1), [[0.1] * 3] * 2])
def test_a_rejection_of_any_kind_is_broadcast_to_the_rows(rejection):
    wanted = checked_rejection(rejection, torch.full((2, 3), 0.4, dtype=torch.float64))
    assert wanted.dtype == torch.float64
    assert_close(wanted, np.full((2, 3), 0.1), "handed back", "float32")


def test_ragged_lists_and_words_are_input_errors():
    with pytest.raises(InputError, match="expected rows of equal length"):
        validated([[0.5, 0.5], [1.0]], [[0.5, 0.5], [1.0]])
    with pytest.raises(InputError, match="expected a number or numbers; got 'much'"):
        checked_rejection("much", np.asarray(0.3))
