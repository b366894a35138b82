"""Theorem 3: batches of drafts against Algorithm 4 with every draft enumerated, as corrected and as printed."""

import math
from typing import Any

import numpy as np
import pytest
from chain_oracles import algorithm_4, enumerate_texts, random_laws
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, law_pairs, tv
from tolerances import assert_at_most, assert_close

from tradeoff import InputError
from tradeoff.chains import (
    MarkovChain,
    batch_algorithm,
    batch_expected_rejections,
    batch_improvement,
    expected_rejections,
    judge_root,
    published_chains,
    rejection_lower_bound,
)
from tradeoff.chains.batch import root_residual
from tradeoff.chains.published import bernoulli_improvement, bernoulli_pair, uniform_improvement, uniform_pair
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.rules import RecursiveRejection

SLIPS = {
    "corrected": {},
    "late residual": {"subtract_again": True},
    "printed": {"else_inside": True, "subtract_again": True},
}
CASES = {
    "order 1": random_laws(21),
    "zeros": random_laws(22, zeros=True),
    "order 2": random_laws(23, vocab=2, order=2),
}


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_theorem_3_equals_the_sum_over_all_drafts_and_texts(case, drafts):
    laws = CASES[case]
    exact = enumerate_texts(laws, algorithm_4(drafts), 3)
    result = batch_expected_rejections(*laws.chains(), drafts=drafts)
    assert_close(result.per_step, exact.per_step, "mass")
    assert_close(result.mean, exact.mean, "mass")
    assert_close(result.acceleration, 3 / exact.mean, "mass")
    for step in range(3):
        mass = sum(chance for (_, flags), chance in exact.paths.items() if step == 0 or flags[step - 1])
        assert_close(result.roots[step].sum(), mass, "mass")


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("version", SLIPS)
@pytest.mark.parametrize("case", CASES)
def test_the_dynamic_programme_equals_the_sum_over_all_drafts_and_texts(case, version, drafts):
    laws = CASES[case]
    exact = enumerate_texts(laws, algorithm_4(drafts, **SLIPS[version]), 3)
    result = batch_algorithm(*laws.chains(), drafts=drafts, version=version)
    assert_close(result.per_step, exact.per_step, "mass")
    assert_close(result.variance, exact.variance, "mass")
    vocab = laws.draft.shape[-1]
    assert_close(result.state_laws, np.stack([exact.state_law(step, vocab) for step in range(4)]), "mass")


@pytest.mark.parametrize("drafts", [1, 2, 4, 5, 50])
def test_theorem_3_and_the_dynamic_programme_agree_on_the_published_chains(drafts):
    for draft, target in (published_chains(50), random_laws(24, time=30, zeros=True).chains()):
        theorem = batch_expected_rejections(draft, target, drafts=drafts)
        programme = batch_algorithm(draft, target, drafts=drafts)
        assert_close(theorem.per_step, programme.per_step, "mass")
        assert_close(programme.state_laws, target.state_laws(), "mass")


@given(seed=st.integers(0, 10**6), drafts=st.integers(1, 6), zeros=st.booleans(), order=st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_theorem_3_and_the_dynamic_programme_agree_on_any_chains(seed, drafts, zeros, order):
    draft, target = random_laws(seed, order=order, time=6, zeros=zeros).chains()
    theorem = batch_expected_rejections(draft, target, drafts=drafts)
    assert_close(theorem.per_step, batch_algorithm(draft, target, drafts=drafts).per_step, "mass")
    assert_at_most(theorem.mean, expected_rejections(draft, target).mean, "mass")


def test_one_draft_is_theorem_1():
    draft, target = random_laws(25, time=8, zeros=True).chains()
    one, lossless = batch_expected_rejections(draft, target, drafts=1), expected_rejections(draft, target)
    assert_close(one.per_step, lossless.per_step, "mass")
    assert_close(one.improvement, np.zeros(8), "mass")
    assert_close(batch_algorithm(draft, target, drafts=1).variance, lossless.variance, "mass")


def test_unchanging_chains_are_chains_whose_laws_are_repeated():
    laws = random_laws(26, time=1)
    chains = [MarkovChain(transitions=law[0], initial=laws.initial) for law in (laws.draft, laws.target)]
    repeated = [
        MarkovChain(transitions=np.repeat(law, 6, 0), initial=laws.initial) for law in (laws.draft, laws.target)
    ]
    for compute in (batch_expected_rejections, batch_algorithm):
        one, other = compute(*chains, drafts=3, horizon=6), compute(*repeated, drafts=3)
        assert_close(one.per_step, other.per_step, "mass")


def test_batches_reject_less_than_any_unbiased_rule_with_one_draft():
    draft, target = published_chains(50)
    assert batch_expected_rejections(draft, target, drafts=2).mean < rejection_lower_bound(draft, target) - 1.4


# --- many drafts ---


def test_more_drafts_reject_less_and_saturate_at_the_limit():
    draft, target = published_chains(50)
    means = [
        batch_expected_rejections(draft, target, drafts=drafts).mean for drafts in (1, 2, 4, 8, 64, 2000, math.inf)
    ]
    assert (np.diff(means) < 0).all()
    assert means[-2] - means[-1] < 0.006
    # Proposition 1: not even infinitely many make the cost vanish
    assert 12.09 < means[-1] < 12.11


def test_the_limits_roots_follow_the_recursion_of_proposition_1():
    draft, target = random_laws(27, time=5).chains()
    limit = batch_expected_rejections(draft, target, drafts=math.inf)
    text, roots = target.initial, target.initial
    for step in range(5):
        assert_close(limit.roots[step], roots, "mass")
        p, q = draft.laws(step), target.laws(step)
        roots = (text - roots) @ np.maximum(q - p, 0)
        text = text @ q


def test_a_token_that_is_never_drafted_keeps_its_mass_whatever_the_number_of_drafts():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.6, 0.3])
    assert_close(root_residual(p, q, drafts=math.inf), [0.0, 0.0, 0.3], "mass")
    # each rejection takes at least 0.3 * 0.5 off the tokens in reach, so the limit is reached, not approached
    assert_close(root_residual(p, q, drafts=5), [0.0, 0.0, 0.3], "mass")
    assert_close(batch_improvement(p, q, drafts=math.inf), 0.4 - 0.3, "mass")
    chains = [MarkovChain(transitions=law[None], initial=np.ones(1)) for law in (p, q)]
    many, all_of_them = (
        batch_expected_rejections(*chains, drafts=drafts, horizon=20).mean for drafts in (100, math.inf)
    )
    assert_close(many, all_of_them, "mass")
    assert all_of_them > 20 * 0.3


@given(law_pairs(), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_a_root_is_lossless_and_its_residual_shrinks_to_what_is_never_drafted(pair, drafts):
    p, q = pair
    root = judge_root(p, q, drafts=drafts)
    assert_close(root.output_law, q, "mass")
    assert_close(root.replaced, root_residual(p, q, drafts=drafts), "mass")
    assert_at_most(root_residual(p, q, drafts=drafts + 1), root.replaced, "mass")
    assert_at_most(root_residual(p, q, drafts=math.inf), root.replaced, "mass")
    assert_close(tv(p, q) - root.rejection, batch_improvement(p, q, drafts=drafts), "mass")


@pytest.mark.parametrize("name", ["ratio ties", "zeros on both sides", "disjoint supports", "equal", "one-hot draft"])
def test_a_root_is_recursive_rejection_sampling(name):
    p, q = EXTREME_PAIRS[name]
    root, outcome = judge_root(p, q, drafts=3), evaluate_multi_draft(RecursiveRejection(), p, q, drafts=3)
    assert_close(root.rejection, outcome.rejection, "mass")
    assert_close(root.output_law, outcome.output_law, "mass")


# --- the paper's examples and plots ---


@pytest.mark.parametrize(("u", "v"), [(0.1, 0.5), (0.65, 0.5), (0.95, 0.5), (0.3, 0.8), (0.8, 0.3), (0.5, 0.5)])
@pytest.mark.parametrize("drafts", [1, 2, 7, 250, math.inf])
def test_the_improvement_of_two_coins_has_its_closed_form(u, v, drafts):
    formula = bernoulli_improvement(u, v, drafts=drafts)
    assert_close(batch_improvement(*bernoulli_pair(u, v), drafts=drafts), formula, "mass")
    if u >= v:
        assert_close(formula, abs(u - v) * (1 - u ** (drafts - 1)), "mass")


@pytest.mark.parametrize(("tokens", "kept"), [(4, 2), (10, 2), (50, 1), (6, 6), (7, 3)])
@pytest.mark.parametrize("drafts", [1, 2, 7, 250, math.inf])
def test_the_improvement_of_uniform_laws_has_its_closed_form(tokens, kept, drafts):
    formula = uniform_improvement(tokens / kept, drafts=drafts)
    if drafts < math.inf:  # closed form of the paper; at infinity 1 - 1/r
        assert_close(formula, (1 - kept / tokens) - (1 - kept / tokens) ** drafts, "mass")
    assert_close(batch_improvement(*uniform_pair(tokens, kept), drafts=drafts), formula, "mass")


@pytest.mark.parametrize(
    ("horizon", "drafts", "right", "without_first_root"),
    [(50, 4, 14.0901, 14.2367), (50, 5, 13.8684, 14.0277), (50, 2000, 12.1045, 12.3586), (100, 4, 29.0487, 29.1620)],
)
def test_the_published_batch_curves_lie_near_the_recursion_that_starts_at_zero(
    horizon, drafts, right, without_first_root
):
    chains = published_chains(horizon)
    means = [batch_expected_rejections(*chains, drafts=drafts, first_root=start).mean for start in (1.0, 0.0)]
    assert [round(mean, 4) for mean in means] == [right, without_first_root]
    published = {(50, 4): 14.22, (50, 5): 14.01, (50, 2000): 12.35}.get((horizon, drafts))
    if published is not None:  # read off plots
        assert abs(means[1] - published) < 0.02 < abs(means[0] - published)


def test_starting_at_zero_judges_one_draft_at_the_first_step():
    draft, target = random_laws(28, time=4).chains()
    zero = batch_expected_rejections(draft, target, drafts=4, first_root=0.0)
    one, single = (batch_expected_rejections(draft, target, drafts=drafts) for drafts in (4, 1))
    assert_close(zero.per_step[0], single.per_step[0], "mass")
    assert zero.per_step[0] > one.per_step[0] + 0.01


# --- the two slips of the printed algorithm ---


def test_the_printed_algorithm_stops_after_one_draft():
    draft, target = random_laws(29, time=1).chains()
    many, one = (batch_algorithm(draft, target, drafts=drafts, version="printed") for drafts in (5, 1))
    assert_close(many.per_step, one.per_step, "mass")
    assert_close(one.per_step, expected_rejections(draft, target).per_step, "mass")


@pytest.mark.parametrize(("drafts", "mean"), [(1, 0.0455), (2, 0.0229), (4, 0.0096)])
def test_the_late_residual_biases_the_roots_law(drafts, mean):
    p, q = np.random.default_rng(0).dirichlet(np.ones(7), size=(2, 2000))
    root = judge_root(p, q, drafts=drafts, version="late residual")
    assert_close(root.rejection, judge_root(p, q, drafts=drafts).rejection, "mass")
    # another generator would move a mean by about 0.0007
    assert abs(root.tv.mean() - mean) < 0.0035


def test_the_printed_algorithms_text_is_biased_by_hand():
    # q - p = (0.3, 0.1): q^2 = (3/4, 1/4, 0, 0), and [q^2 - p]_+ = (0.65, 0.15): q^3 = (13/16, 3/16)
    p, q = np.array([0.1, 0.1, 0.4, 0.4]), np.array([0.4, 0.2, 0.2, 0.2])
    root = judge_root(p, q, drafts=3, version="printed")
    assert_close(root.replaced, 0.4 * np.array([13 / 16, 3 / 16, 0, 0]), "mass")
    assert_close(root.tv, 0.4 / 16, "mass")
    assert_close(judge_root(p, q, drafts=1).tv, 0.0, "mass")


def wrong(value: Any) -> Any:
    """What the type checker would have refused."""
    return value


BAD = {
    "no drafts": (lambda *pair: batch_expected_rejections(*pair, drafts=0), "drafts: expected a whole number"),
    "half": (lambda *pair: batch_expected_rejections(*pair, drafts=1.5), "drafts: expected a whole number"),
    "nan": (lambda *pair: batch_expected_rejections(*pair, drafts=math.nan), "drafts: expected a whole number"),
    "infinite steps": (lambda *pair: batch_algorithm(*pair, drafts=wrong(math.inf)), "drafts: expected a whole number"),
    "version": (
        lambda *pair: batch_algorithm(*pair, drafts=2, version=wrong("other")),
        "'corrected' or 'late residual' or",
    ),
    "first root": (lambda *pair: batch_expected_rejections(*pair, drafts=2, first_root=2), "first_root: expected"),
    "horizon": (lambda *pair: batch_expected_rejections(*pair, drafts=2, horizon=9), "at most 3 tokens"),
    "kept": (lambda *_: uniform_pair(3, 4), "kept: expected at most 3"),
    "ratio": (lambda *_: uniform_improvement(0.5, drafts=2), "ratio: expected a number >= 1"),
    "coin": (lambda *_: bernoulli_pair(1.2, 0.5), r"draft: expected a probability in \[0, 1\]"),
    "published": (lambda *_: published_chains(0), "horizon: expected a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case):
    call, message = BAD[case]
    with pytest.raises(InputError, match=message):
        call(*random_laws(30).chains())


def test_a_whole_number_of_drafts_may_be_written_as_a_float():
    p, q = EXTREME_PAIRS["ratio ties"]
    assert_close(root_residual(p, q, drafts=3.0), root_residual(p, q, drafts=3), "mass")
