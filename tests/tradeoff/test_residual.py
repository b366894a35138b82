"""The fixed-acceptance problem at the front door: Theorem 4 in TV, T3 in every divergence."""

import numpy as np
import pytest
import torch
from laws import random_pair
from tolerances import assert_at_most, assert_close

from solvers.closed_form import least_bias
from solvers.convex_program import solve_residual
from solvers.divergences import DIVERGENCES
from solvers.errors import InputError
from tradeoff import best_residual, evaluate
from tradeoff.rules import DecodingOPT

PAIRS = [random_pair(seed, vocab=8) for seed in range(6)]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_one_residual_is_the_convex_programs_optimum_in_every_divergence(name, pair):
    acceptance = np.random.default_rng(1).random(8)
    draft, target = pair
    outcome = best_residual(draft, target, acceptance)
    solution = solve_residual(draft, target, acceptance, name)
    assert_close(outcome.divergence_in(name), solution.value, "interior point objective")
    assert_close(outcome.rejection, 1 - (acceptance * draft).sum(), "mass")


@pytest.mark.parametrize("pair", PAIRS)
def test_the_bias_is_theorem_4s_and_no_divergence_is_above_decoding_opts(pair):
    draft, target = pair
    opt = evaluate(DecodingOPT(epsilon=0.05), draft, target)
    outcome = best_residual(draft, target, opt.acceptance)
    assert_close(outcome.tv, least_bias(draft, target, opt.acceptance), "mass")
    for name in DIVERGENCES:
        assert_at_most(outcome.divergence_in(name), opt.divergence_in(name), "divergence")


def test_a_batch_of_torch_laws_is_answered_in_torch():
    draft, target = (torch.asarray(np.stack(laws)) for laws in zip(*PAIRS, strict=True))
    outcome = best_residual(draft, target, torch.full_like(draft, 0.5))
    assert isinstance(outcome.residual, torch.Tensor)
    alone = best_residual(PAIRS[2][0], PAIRS[2][1], np.full(8, 0.5))
    assert_close(outcome.residual[2], alone.residual, "mass")


@pytest.mark.parametrize(
    ("acceptance", "message"),
    [
        (np.ones(3), r"expected one probability per token, shape \(8,\); got \(3,\)"),
        (np.full(8, 1.5), r"expected probabilities in \[0, 1\]"),
        (np.full(8, np.nan), r"expected probabilities in \[0, 1\]; got one outside, or NaN"),
    ],
)
def test_an_acceptance_that_is_none_is_an_error(acceptance, message):
    with pytest.raises(InputError, match=message):
        best_residual(PAIRS[0][0], PAIRS[0][1], acceptance)
