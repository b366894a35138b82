"""`evaluate` against plain loops over drafted tokens and replacements, and against exact fractions."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import law_pairs, tv
from tolerances import assert_at_most, assert_close, assert_law

from solvers.divergences import DIVERGENCES
from tradeoff import InputError, evaluate, solve_pareto
from tradeoff.rules import CommonPrice, DecodingOPT, DecodingUNO, RatioClip, SpeculativeSampling

GOOD = np.array([0.2, 0.3, 0.5])


@dataclass(frozen=True)
class Given:
    """A rule that returns what it was given, lawful or not."""

    b: Any
    law: Any

    def acceptance(self, draft, target):
        return self.b

    def residual(self, draft, target):
        return self.law


class SampleMatch:
    """Accept the drafted token if a draw from the target equals it, else emit that draw."""

    def acceptance(self, draft, target):
        return target

    def residual(self, draft, target):
        vocab = target.shape[-1]
        others = np.where(np.eye(vocab, dtype=bool), 0.0, target[..., None, :])
        left = others.sum(axis=-1, keepdims=True)
        # a token of probability 1 is never rejected: any law will do
        return np.where(left > 0, others / np.where(left > 0, left, 1.0), target[..., None, :])


def enumerate_outcome(draft, acceptance, residual):
    """Draft x, accept it or replace it by y: rejection and output law by a double loop."""
    vocab = len(draft)
    kernel = residual if np.ndim(residual) == 2 else [residual] * vocab
    rejection, output = 0, [0] * vocab
    for x in range(vocab):
        output[x] += draft[x] * acceptance[x]
        rejection += draft[x] * (1 - acceptance[x])
        for y in range(vocab):
            output[y] += draft[x] * (1 - acceptance[x]) * kernel[x][y]
    return rejection, output


@pytest.mark.parametrize(
    "rule",
    [
        SpeculativeSampling(),
        DecodingOPT(epsilon=0.1),
        DecodingUNO(epsilon=0.1),
        RatioClip(ceiling=1.4),
        RatioClip(rejection=0.1),
        CommonPrice(price=0.7),
        SampleMatch(),
    ],
    ids=lambda rule: type(rule).__name__,
)
@given(pair=law_pairs(max_vocab=5))
def test_the_outcome_equals_enumeration_of_every_draft_and_replacement(rule, pair):
    draft, target = pair
    outcome = evaluate(rule, draft, target)
    rejection, output = enumerate_outcome(draft, rule.acceptance(draft, target), rule.residual(draft, target))
    assert_close(outcome.rejection, rejection, "mass")
    assert_close(outcome.output_law, output, "mass")
    assert_law(outcome.output_law)
    for name, divergence in DIVERGENCES.items():
        assert_close(outcome.divergence_in(name), divergence.value(outcome.output_law, target), "mass")
    assert_close(outcome.gap, rejection + tv(np.array(output), target) - tv(draft, target), "mass")
    assert_close(outcome.leak, sum(m for m, q in zip(output, target, strict=True) if q == 0), "mass")


@given(pair=law_pairs())
def test_sample_match_is_lossless_and_rejects_unless_two_draws_agree(pair):
    draft, target = pair
    outcome = evaluate(SampleMatch(), draft, target)
    assert outcome.residual.shape == (draft.shape[0], draft.shape[0])
    assert_close(outcome.output_law, target, "mass")
    assert_close(outcome.rejection, 1 - (draft * target).sum(), "mass")
    assert_at_most(0.0, outcome.gap, "mass")


def test_sample_match_pays_for_its_losslessness_with_rejections():
    outcome = evaluate(SampleMatch(), np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    assert_close([outcome.rejection, outcome.tv, outcome.gap], [0.5, 0.0, 0.5], "mass")


def test_a_kernel_rule_is_evaluated_on_a_batch_row_by_row():
    laws = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 2, 3))
    outcome = evaluate(SampleMatch(), laws[0], laws[1])
    assert outcome.residual.shape == (2, 3, 4, 4)
    assert outcome.rejection.shape == (2, 3)
    assert_close(outcome.output_law, laws[1], "mass")


@given(pair=law_pairs(max_vocab=5), seed=st.integers(0, 10**6), kernel=st.booleans())
def test_no_rule_whatever_is_below_the_tv_front(pair, seed, kernel):
    rng, vocab = np.random.default_rng(seed), pair[0].shape[0]
    residual = rng.dirichlet(np.full(vocab, 0.5), size=vocab if kernel else None)
    outcome = evaluate(Given(rng.random(vocab) ** rng.integers(0, 4), residual), *pair)
    assert_at_most(0.0, outcome.gap, "mass")
    assert_at_most(tv(pair[0], outcome.output_law), outcome.rejection, "mass")


def test_the_gap_of_any_acceptance_above_the_lossless_one_with_the_ordinary_residual_is_zero():
    rng = np.random.default_rng(0)
    for _ in range(200):
        draft, target = rng.dirichlet(np.full(6, 0.6), size=2)
        lossless = np.minimum(1, target / draft)
        acceptance = lossless + rng.random(6) * (1 - lossless)
        residual = np.maximum(target - draft, 0) / tv(draft, target)
        assert_close(evaluate(Given(acceptance, residual), draft, target).gap, 0.0, "mass")


def test_the_outcome_in_exact_fractions():
    draft, target = [Fraction(n, 8) for n in (4, 3, 1)], [Fraction(n, 8) for n in (1, 3, 4)]
    acceptance = [Fraction(1, 2), Fraction(1), Fraction(1)]
    residual = [Fraction(0), Fraction(1, 4), Fraction(3, 4)]
    rejection, output = enumerate_outcome(draft, acceptance, residual)
    assert (rejection, output) == (Fraction(1, 4), [Fraction(1, 4), Fraction(7, 16), Fraction(5, 16)])
    rule = Given(np.array(acceptance, dtype=float), np.array(residual, dtype=float))
    outcome = evaluate(rule, np.array(draft, dtype=float), np.array(target, dtype=float))
    assert float(outcome.rejection) == 0.25
    assert outcome.output_law.tolist() == [0.25, 0.4375, 0.3125]
    # TV(draft, target) = 3/8; bias 1/8 + 1/16
    assert (float(outcome.tv), float(outcome.gap)) == (0.1875, 0.0625)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_laws_of_any_type_give_torch_results_in_float64(dtype):
    draft, target = torch.tensor([0.5, 0.25, 0.25], dtype=dtype), torch.tensor([0.25, 0.25, 0.5], dtype=dtype)
    outcome = evaluate(DecodingUNO(epsilon=0.125), draft, target)
    assert outcome.output_law.dtype == outcome.rejection.dtype == outcome.kl.dtype == torch.float64
    # exact in every type: b = (3/4, 1, 1), R = 1/8
    assert outcome.output_law.tolist() == [0.40625, 0.28125, 0.3125]


def test_laws_that_are_not_laws_are_input_errors():
    with pytest.raises(InputError, match="draft law: expected probabilities that sum to 1"):
        evaluate(SpeculativeSampling(), GOOD / 2, GOOD)


LAW = np.array([1.0, 0.0, 0.0])
HALF = np.full(3, 0.5)
UNLAWFUL = {
    "acceptance above 1": (HALF * 3, LAW, r"expected acceptance probabilities in \[0, 1\]; clip"),
    "negative acceptance": (HALF - 1, LAW, r"expected acceptance probabilities in \[0, 1\]"),
    "nan acceptance": (HALF * np.nan, LAW, r"expected acceptance probabilities in \[0, 1\]"),
    "acceptance of one token": (np.array([0.5]), LAW, r"expected an acceptance of shape \(3,\).*\(1,\)"),
    "unnormalised residual": (HALF, LAW / 2, "expected a residual law, >= 0 and summing to 1; normalise"),
    "negative residual": (HALF, np.array([1.5, -0.5, 0.0]), "expected a residual law"),
    "nan residual": (HALF, LAW * np.nan, "expected a residual law"),
    "kernel with one bad row": (HALF, np.array([LAW, LAW, LAW / 3]), "expected a residual law"),
}


@pytest.mark.parametrize(("acceptance", "residual", "message"), UNLAWFUL.values(), ids=UNLAWFUL.keys())
def test_a_rule_that_returns_garbage_is_named_in_a_one_line_error(acceptance, residual, message):
    rule = Given(acceptance, residual)
    with pytest.raises(InputError, match=message) as caught:
        evaluate(rule, GOOD, GOOD[::-1])
    assert "Given(" in str(caught.value)


SHAPELESS = {
    "acceptance too long": (np.full(4, 0.5), LAW),
    "acceptance a number": (0.5, LAW),
    "acceptance a list": ([0.5] * 3, LAW),
    "acceptance of another library": (torch.full((3,), 0.5), LAW),
    "acceptance missing": (None, LAW),
    "residual too long": (HALF, np.full(4, 0.25)),
    "residual of one token": (HALF, np.ones(1)),
    "residual a number": (HALF, 1.0),
    "residual a list": (HALF, [1.0, 0.0, 0.0]),
    "kernel not square": (HALF, np.full((3, 2), 0.5)),
}


@pytest.mark.parametrize(("acceptance", "residual"), SHAPELESS.values(), ids=SHAPELESS.keys())
def test_a_rule_that_returns_the_wrong_kind_or_shape_is_an_input_error(acceptance, residual):
    with pytest.raises(InputError, match=r"expected an? (acceptance|residual)"):
        evaluate(Given(acceptance, residual), GOOD, GOOD[::-1])


def test_a_residual_that_forgets_the_batch_is_an_input_error():
    batch = np.stack([GOOD, GOOD])
    with pytest.raises(InputError, match="expected a residual"):
        evaluate(Given(np.full((2, 3), 0.5), LAW), batch, batch)


def test_the_optimum_is_on_the_front_of_the_law_that_was_sampled():
    claimed, sampled, target = np.random.default_rng(3).dirichlet(np.full(8, 0.5), size=3)
    outcome = evaluate(DecodingOPT(epsilon=0.05), claimed, target, sampled_draft=sampled)
    for name in ("kl", "reverse_kl", "chi2"):
        best = solve_pareto(sampled, target, divergence=name).at(rejection=float(outcome.rejection)).divergence
        assert_close(outcome.optimum(name), best, "divergence")
        assert_close(outcome.excess(name), outcome.divergence_in(name) - best, "divergence")
        told = solve_pareto(claimed, target, divergence=name).at(rejection=float(outcome.rejection)).divergence
        assert abs(told - best) > 1e-3


def test_the_columns_of_an_outcome_are_its_properties():
    laws = np.random.default_rng(4).dirichlet(np.full(5, 0.5), size=(2, 3))
    outcome = evaluate(DecodingUNO(epsilon=0.05), *laws)
    columns = outcome.to_dict()
    assert {len(column) for column in columns.values()} == {3}
    assert columns["gap"] == outcome.gap.tolist()
    assert columns["leak"] == outcome.leak.tolist()
    for name in DIVERGENCES:
        assert columns[name] == outcome.divergence_in(name).tolist()
        assert columns[f"{name}_excess"] == outcome.excess(name).tolist()
