"""Replacements that depend on the rejected token: every row, their mixture, and the memory both take."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from laws import BACKENDS, EXTREME_PAIRS
from oracles import normal, without
from rule_cases import random_pairs
from tolerances import assert_close, assert_law

from tradeoff import evaluate
from tradeoff.rule import ResidualKernel
from tradeoff.rules import Cactus, SampleMatch
from tradeoff.rules.kernels import ScaledResidual, WithoutRejected

SCALES = {
    "above 1": lambda rng, shape: 1 + rng.random(shape),
    "around 1": lambda rng, shape: rng.choice([0.25, 0.5, 1.0, 1.0, 2.0, 4.0], shape),
    "zero": lambda rng, shape: np.zeros(shape),
}
every_backend = pytest.mark.parametrize("make", BACKENDS.values(), ids=BACKENDS.keys())
extreme = pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())


def scaled_row(draft: list[float], target: list[float], scale: float) -> Any:
    return normal([max(scale * q - p, 0.0) for p, q in zip(draft, target, strict=True)], target)


def assert_kernel(kernel: Any, rows: np.ndarray, weights: np.ndarray, make: Any = np.asarray) -> None:
    """Assert that a kernel has these rows `[..., vocab, vocab]`, and their mixture at these weights."""
    vocab = rows.shape[-1]
    for x in range(vocab):
        law = np.asarray(kernel.after(make(np.full(rows.shape[:-2], x))))
        assert_law(law)
        assert_close(law, rows[..., x, :], "mass")
    mixture = np.asarray(kernel.mixture(make(weights)))
    assert (mixture >= 0).all()
    assert_close(mixture, (weights[..., None] * rows).sum(axis=-2), "mass")
    assert_close(mixture.sum(axis=-1), weights.sum(axis=-1), "mass")


def rows_without(target: np.ndarray) -> np.ndarray:
    flat = target.reshape(-1, target.shape[-1]).tolist()
    return np.array([[without(law, x) for x in range(len(law))] for law in flat]).reshape(*target.shape, -1)


def rows_scaled(draft: np.ndarray, target: np.ndarray, scale: np.ndarray) -> np.ndarray:
    flat = zip(*(each.reshape(-1, target.shape[-1]).tolist() for each in (draft, target, scale)), strict=True)
    return np.array([[scaled_row(p, q, each) for each in scales] for p, q, scales in flat]).reshape(*target.shape, -1)


@every_backend
def test_the_target_without_the_rejected_token_in_every_library(make):
    draft, target = random_pairs(0, (2, 5, 6))
    kernel = WithoutRejected(make(target))
    assert isinstance(kernel, ResidualKernel)
    assert_kernel(kernel, rows_without(target), draft * (1 - target), make)


@every_backend
@pytest.mark.parametrize("scale_of", SCALES.values(), ids=SCALES.keys())
def test_scaled_residuals_in_every_library(make, scale_of):
    rng = np.random.default_rng(1)
    draft, target = random_pairs(1, (2, 5, 6))
    scale = scale_of(rng, draft.shape)
    kernel = ScaledResidual(make(draft), make(target), make(scale))
    assert isinstance(kernel, ResidualKernel)
    rows = rows_scaled(draft, target, scale)
    # a token may send mass only where something receives it, as every rejected token can
    weights = rng.dirichlet(np.ones(6), size=(2, 5)) * (
        (scale[..., None] * target[..., None, :]) > draft[..., None, :]
    ).any(-1)
    assert_kernel(kernel, rows, weights, make)


@extreme
def test_kernels_on_extreme_pairs_at_the_weights_of_a_rule(pair):
    draft, target = pair
    for rule in (SampleMatch(), Cactus(delta=0.5), Cactus(delta=0.5, exact=True)):
        outcome = evaluate(rule, draft, target)
        weights = outcome.draft * (1 - outcome.acceptance)
        rows = np.array([outcome.residual_after(np.asarray(x)) for x in range(len(draft))])
        assert_law(rows)
        mixture: Any = outcome.residual
        assert_close(mixture.mixture(weights), weights @ rows, "mass")


@extreme
@pytest.mark.parametrize("kind", ["without", "scaled"])
def test_weights_on_one_token_give_its_row_and_no_weights_nothing(pair, kind):
    draft, target = pair
    kernel = (
        WithoutRejected(target) if kind == "without" else ScaledResidual(draft, target, 1.0 + np.arange(len(draft)))
    )
    for x in range(len(draft)):
        row = kernel.after(np.asarray(x))
        receives = kind == "without" or ((1.0 + x) * target > draft).any()
        if receives:
            assert_close(kernel.mixture(np.eye(len(draft))[x]), row, "mass")
    assert kernel.mixture(np.zeros(len(draft))).tolist() == [0.0] * len(draft)


def test_a_certain_token_stays_since_nothing_can_replace_it():
    target = np.array([0.0, 1.0, 0.0])
    kernel = WithoutRejected(target)
    assert kernel.after(np.asarray(1)).tolist() == [0.0, 1.0, 0.0]
    assert kernel.mixture(np.array([0.25, 0.5, 0.25])).tolist() == [0.0, 1.0, 0.0]
    assert evaluate(SampleMatch(), np.full(3, 1 / 3), target).output_law.tolist() == [0.0, 1.0, 0.0]


def test_tokens_that_tie_in_their_ratio_and_their_scale_count_once():
    # ratio draft / target: 1/2, 1/2, 2, 2; scales sit on the ratios
    draft, target = np.array([1, 1, 2, 2]) / 6, np.array([2, 2, 1, 1]) / 6
    scale = np.array([2.0, 0.5, 1.0, 2.0])
    assert_kernel(
        ScaledResidual(draft, target, scale), rows_scaled(draft, target, scale), np.array([0.4, 0.0, 0.3, 0.3])
    )


def test_a_masked_token_receives_nothing_and_may_be_rejected():
    draft, target = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.5, 0.5, 0.0])
    for kernel in (WithoutRejected(target), ScaledResidual(draft, target, np.array([1.0, 0.2, 0.9, 1.0]))):
        mixture = kernel.mixture(np.array([0.4, 0.0, 0.2, 0.1]))
        assert mixture[[0, 3]].tolist() == [0.0, 0.0]
        assert_close(mixture.sum(), 0.7, "mass")


@pytest.mark.parametrize("vocab", [4096, 50_000])
@pytest.mark.parametrize("rule", [SampleMatch(), Cactus(delta=0.5)], ids=["without", "scaled"])
def test_a_large_vocabulary_needs_no_table_of_its_square(rule, vocab):
    rng = np.random.default_rng(0)
    draft, target = rng.dirichlet(np.full(vocab, 0.05), size=2)
    tracemalloc.start()
    outcome = evaluate(rule, draft, target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the square of the smaller one is 134 MB
    assert peak < 100 * 8 * vocab
    assert_close(outcome.output_law.sum(), 1.0, "mass of a large vocabulary")
    # some of the rejected tokens, row by row, against the mixture of them alone
    weights = np.zeros(vocab)
    lost = draft * (1 - outcome.acceptance)
    heavy = np.argsort(lost)[-20:]
    weights[heavy] = lost[heavy]
    kernel: Any = outcome.residual
    rows = np.array([outcome.residual_after(np.asarray(x)) for x in heavy])
    assert_close(kernel.mixture(weights), lost[heavy] @ rows, "mass of a large vocabulary")
