"""Markov chains, and Theorems 1 and 2: exact rejections of any rule against every text enumerated."""

import re
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
import samplers
from chain_oracles import Laws, algorithm_2, enumerate_texts, random_laws
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, tv
from tolerances import assert_at_most, assert_close, assert_law

from tradeoff import InputError, evaluate
from tradeoff.chains import (
    MarkovChain,
    batch_expected_rejections,
    expected_rejections,
    output_chain,
    published_chains,
    rejection_lower_bound,
    tokens_per_call,
)
from tradeoff.outcome.block import joint_law
from tradeoff.rule import TokenByToken
from tradeoff.rules import (
    MARS,
    BlockVerification,
    Cactus,
    Cascade,
    CommonPrice,
    DecodingOPT,
    DecodingUNO,
    SampleMatch,
    SpeculativeSampling,
    Typical,
)

LOSSLESS = [SpeculativeSampling(), SampleMatch(), samplers.SampleMatch()]
LOSSY = [
    DecodingOPT(epsilon=0.1),
    DecodingUNO(epsilon=0.1),
    DecodingUNO(epsilon=0.1, residual="draft"),
    Typical(threshold=0.3),
    Cactus(delta=0.2),
    CommonPrice(price=0.5),
    Cascade(variant="tok3", alpha=0.6),
]
RULES = LOSSLESS + LOSSY

UNIFORM = np.full(3, 1 / 3)
EVEN = np.full((3, 3), 1 / 3)


def chain(transitions: Any = EVEN, initial: Any = UNIFORM) -> MarkovChain:
    return MarkovChain(transitions=transitions, initial=initial)


# --- the chain itself ---


def test_the_shape_tells_the_order_and_the_last_token_is_the_least_digit():
    laws = random_laws(1, order=2)
    second = laws.chains()[0]
    assert (second.order, second.states, second.tokens, second.time) == (2, 9, 3, 3)
    np.testing.assert_allclose(second.laws(1)[3 * 2 + 1], laws.draft[1, 2, 1])
    # after (2, 1) and token 0 the state is (1, 0)
    assert second.successors[3 * 2 + 1, 0] == 3 * 1 + 0
    assert (chain().order, chain().time) == (1, None)
    independent = MarkovChain(transitions=np.array([[0.2, 0.8]]), initial=np.ones(1))
    assert (independent.order, independent.states, independent.tokens) == (0, 1, 2)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_state_laws_are_the_sums_over_all_texts(order):
    rng = np.random.default_rng(order)
    laws = rng.dirichlet(np.ones(2), size=(4, 2**order))
    own = MarkovChain(transitions=laws, initial=rng.dirichlet(np.ones(2**order)))
    expected = [own.initial]
    for step in range(4):
        following = np.zeros(2**order)
        for state in range(2**order):
            digits = [int(digit) for digit in np.base_repr(state, 2).zfill(order)][-order:] if order else []
            for token in range(2):
                place = int("".join(map(str, [*digits, token][1:])) or "0", 2)
                following[place] += expected[-1][state] * laws[step, state, token]
        expected.append(following)
    assert_close(own.state_laws(), np.stack(expected), "mass")


def test_a_chain_is_estimated_by_counting():
    texts = [[0, 1, 0, 1, 2], [2, 0], [1]]
    counted = MarkovChain.from_sequences(texts, vocab=3, smoothing=0.5)
    counts = np.array([[0, 2, 0], [1, 0, 1], [1, 0, 0]]) + 0.5
    assert_close(counted.transitions, counts / counts.sum(-1, keepdims=True), "mass")
    assert_close(counted.initial, np.array([2, 2, 1]) / 5, "mass")
    assert_close(MarkovChain.from_sequences(texts, vocab=3).transitions[1], np.array([0.5, 0, 0.5]), "mass")
    second = MarkovChain.from_sequences([[0, 1, 1, 0, 1, 0]], vocab=2, order=2, smoothing=1.0)
    # after (0, 1): 1 once, 0 once; after (1, 1): 0 once; after (1, 0): 1 once; after (0, 0): nothing
    assert_close(second.transitions, np.array([[1, 1], [2, 2], [1, 2], [2, 1]]) / [[2], [4], [3], [3]], "mass")
    assert_close(second.initial, np.array([0, 2, 1, 1]) / 4, "mass")


def test_an_estimated_chain_is_near_the_one_that_wrote_the_texts():
    draft, _ = published_chains(50)
    own = MarkovChain(transitions=draft.laws(0), initial=draft.initial)
    rng, text = np.random.default_rng(0), [0]
    for uniform in rng.random(40_000):
        text.append(int(np.searchsorted(np.cumsum(own.laws(0)[text[-1]]), uniform)))
    estimate = MarkovChain.from_sequences([np.array(text)], vocab=7)
    # about 5,700 visits to a state: a standard error of at most 0.0067; five of them, 49 entries: below 1e-4
    assert np.abs(estimate.transitions - own.transitions).max() < 0.034


# --- Theorem 1, for any rule ---


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize(
    "laws",
    [random_laws(2), random_laws(3, zeros=True), random_laws(4, vocab=2, order=2)],
    ids=["order 1", "zeros", "order 2"],
)
def test_rejections_and_their_variance_equal_the_sum_over_all_texts(rule, laws):
    exact = enumerate_texts(laws, algorithm_2(rule), 3)
    draft, target = laws.chains()
    result = expected_rejections(draft, target, rule)
    assert_close(result.per_step, exact.per_step, "mass")
    assert_close(result.mean, exact.mean, "mass")
    assert_close(result.variance, exact.variance, "mass")
    vocab = laws.draft.shape[-1]
    assert_close(result.state_laws, np.stack([exact.state_law(step, vocab) for step in range(4)]), "mass")
    assert_close(output_chain(draft, target, rule).state_laws(), result.state_laws, "mass")
    assert_close(result.acceleration, 3 / exact.mean, "mass")
    assert_close(result.standard_deviation**2, exact.variance, "mass")


@pytest.mark.parametrize("rule", LOSSLESS, ids=repr)
def test_a_lossless_rule_writes_the_targets_text(rule):
    draft, target = random_laws(5, zeros=True).chains()
    assert_close(output_chain(draft, target, rule).transitions, target.transitions, "mass")
    assert_close(expected_rejections(draft, target, rule).state_laws, target.state_laws(), "mass")


def test_lossless_rejections_are_the_total_variations_on_the_targets_texts():
    laws = random_laws(6)
    total = 0.0
    for length in range(3):
        for text in np.ndindex(*(3,) * (length + 1)):
            chance = laws.initial[text[0]]
            for step in range(length):
                chance *= laws.target[step, text[step], text[step + 1]]
            total += chance * tv(*laws.after(length, text))
    assert_close(expected_rejections(*laws.chains()).mean, total, "mass")


def test_prefixes_follow_the_rules_own_text_not_the_targets():
    laws = random_laws(7)
    draft, target = laws.chains()
    rule = DecodingUNO(epsilon=0.3, residual="draft")
    on_target = [
        target.state_laws()[step] @ evaluate(rule, *pair).rejection
        for step, pair in enumerate(zip(draft.transitions, target.transitions, strict=True))
    ]
    assert abs(sum(on_target) - expected_rejections(draft, target, rule).mean) > 0.01


def test_unchanging_chains_are_chains_whose_laws_are_repeated():
    laws = random_laws(8, time=1)
    draft, target = (MarkovChain(transitions=law[0], initial=laws.initial) for law in (laws.draft, laws.target))
    repeated = Laws(np.repeat(laws.draft, 5, 0), np.repeat(laws.target, 5, 0), laws.initial).chains()
    for pair in ((draft, target), (draft, repeated[1]), (repeated[0], target)):
        one, other = expected_rejections(*pair, horizon=5), expected_rejections(*repeated)
        assert_close(one.per_step, other.per_step, "mass")
        assert_close(one.variance, other.variance, "mass")
        blocks = [tokens_per_call(*each, draft_length=2, horizon=5).mean for each in (pair, repeated)]
        assert_close(blocks[0], blocks[1], "mass")
        assert_close(rejection_lower_bound(*pair, horizon=5), one.mean, "mass")
    assert_close(expected_rejections(*repeated, horizon=2).per_step, other.per_step[:2], "mass")
    assert output_chain(draft, target).time is None


def test_equal_laws_never_reject_and_disjoint_ones_always():
    same = expected_rejections(chain(), chain(), horizon=4)
    assert (same.mean, same.variance, same.acceleration) == (0.0, 0.0, float("inf"))
    draft = chain(np.tile([1.0, 0, 0], (3, 1)))
    target = chain(np.tile([0, 0.5, 0.5], (3, 1)))
    other = expected_rejections(draft, target, horizon=4)
    assert_close([other.mean, other.variance, other.acceleration], [4.0, 0.0, 1.0], "mass")


def test_independent_positions_reject_like_independent_coins():
    p, q = EXTREME_PAIRS["ratio ties"]
    draft, target = (MarkovChain(transitions=law[None], initial=np.ones(1)) for law in (p, q))
    result = expected_rejections(draft, target, horizon=30)
    assert_close([result.mean, result.variance], [30 * tv(p, q), 30 * tv(p, q) * (1 - tv(p, q))], "mass")


@pytest.mark.parametrize(("horizon", "published", "digits"), [(50, 16.40489, 5), (100, 33.535, 3)])
def test_the_papers_simulated_chains_reject_as_published(horizon, published, digits):
    assert round(expected_rejections(*published_chains(horizon)).mean, digits) == published


# --- Theorem 2 ---


class RandomUnbiased:
    """b = u min(1, q / p) with a u of its own for every token, state and step, and the only residual without bias."""

    def __init__(self, seed):
        self.seed = seed

    def acceptance(self, draft, target):
        rng = np.random.default_rng([self.seed, zlib.crc32(draft.tobytes() + target.tobytes())])
        kept = rng.random(draft.shape) ** rng.choice([0.05, 1.0, 5.0])
        return kept * np.minimum(1.0, target / np.where(draft > 0, draft, 1.0))

    def residual(self, draft, target):
        missing = target - self.acceptance(draft, target) * draft
        total = missing.sum(-1, keepdims=True)
        return np.where(total > 1e-13, missing / np.where(total > 1e-13, total, 1.0), target)


@given(seed=st.integers(0, 10**6), zeros=st.booleans(), order=st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_no_unbiased_rule_rejects_less_than_the_total_variation(seed, zeros, order):
    laws = random_laws(seed, order=order, time=4, zeros=zeros)
    draft, target = laws.chains()
    bound = rejection_lower_bound(draft, target)
    rule = RandomUnbiased(seed)
    assert_close(output_chain(draft, target, rule).transitions, target.transitions, "mass")
    assert_at_most(bound, expected_rejections(draft, target, rule).mean, "mass")
    assert_close(expected_rejections(draft, target).mean, bound, "mass")


def test_a_biased_rule_can_reject_less():
    draft, target = random_laws(9).chains()
    lossy = expected_rejections(draft, target, CommonPrice(price=0.5)).mean
    assert lossy < rejection_lower_bound(draft, target) - 0.05


# --- tokens per call ---


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_tokens_per_call_equal_the_enumeration_of_all_blocks(rule):
    laws = random_laws(10, vocab=2, time=4)
    prompt = Laws(laws.draft, laws.target, np.array([0.0, 1.0]))
    after = [lambda text, law=law: law[len(text), text[-1] if text else 1] for law in (laws.draft, laws.target)]
    for length in (1, 2, 3, 4, 6):
        exact = joint_law(TokenByToken(rule), *after, draft_length=length, horizon=4)
        result = tokens_per_call(*prompt.chains(), rule, draft_length=length)
        assert_close(
            [result.target_calls, result.accepted, result.rejections],
            [exact.target_calls, exact.accepted, exact.rejections],
            "mass",
        )
        assert_close(result.mean, 4 / exact.target_calls, "mass")
        assert_close(result.accepted + result.rejections + result.bonus, 4.0, "mass")


def test_long_texts_of_independent_tokens_take_the_calls_of_one_round():
    p, q = EXTREME_PAIRS["ratio ties"]
    draft, target = (MarkovChain(transitions=law[None], initial=np.ones(1)) for law in (p, q))
    result = tokens_per_call(draft, target, draft_length=4, horizon=5_000)
    # the last block is short and the first starts afresh: a difference of order 1 / calls
    assert abs(result.mean - float(evaluate(SpeculativeSampling(), p, q).round(4).tokens)) < 3e-3


def test_a_block_that_spans_the_text_has_no_bonus_and_rejects_as_theorem_1_says():
    draft, target = random_laws(11).chains()
    result = tokens_per_call(draft, target, draft_length=3)
    exact = expected_rejections(draft, target)
    assert result.bonus == 0.0
    assert_close(result.rejections, exact.mean, "mass")
    # every rejection but one at the last token starts another call
    assert_close(result.target_calls, 1.0 + exact.per_step[:-1].sum(), "mass")


# --- input ---


BAD_CHAINS = {
    "a row": (lambda: chain(np.array([[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.2, 0.2]])), "after token 2: .* sum to 0.6"),
    "negative": (lambda: chain(np.stack([EVEN, EVEN + [[0.1, 0, -0.1]]]) - [0.4, 0, -0.4]), "after token 0 at step 0"),
    "nan": (lambda: chain(np.array([[np.nan] * 3] * 3)), "after token 0: .* got NaN"),
    "two tokens": (
        lambda: MarkovChain(transitions=np.full((4, 2), [0.5, 0.6]), initial=np.full(4, 0.25)),
        "after tokens 0, 0: ",
    ),
    "initial": (lambda: chain(initial=np.array([0.5, 0.4, 0.2])), "^initial: .* sum to 1.1"),
    "initial shape": (lambda: chain(initial=np.array([0.5, 0.5])), r"one probability per state, \(3,\)"),
    "not square": (lambda: chain(np.full((5, 3), 1 / 3), np.full(5, 0.2)), r"tokens \*\* n; got .* = \(5, 3\)"),
    "axes": (lambda: chain(np.ones(3)), r"\[states, tokens\] or \[time, states, tokens\]"),
    "words": (lambda: chain("abc"), "array of probabilities"),
    "order": (lambda: MarkovChain.of_order(0, transitions=EVEN, initial=UNIFORM), "order: expected a whole number"),
    "order axes": (lambda: MarkovChain.of_order(2, transitions=EVEN, initial=EVEN), "expected 3 axes"),
    "order initial": (
        lambda: MarkovChain.of_order(2, transitions=np.full((3, 3, 3), 1 / 3), initial=UNIFORM),
        r"expected shape \(3, 3\)",
    ),
    "token": (lambda: MarkovChain.from_sequences([[0, 3]], vocab=3), "from 0 to 2; text 0 has others"),
    "fraction": (lambda: MarkovChain.from_sequences([[0.5, 1.0]], vocab=3), "whole numbers"),
    "flat": (lambda: MarkovChain.from_sequences([0, 1, 2], vocab=3), "texts of tokens"),
    "unseen": (lambda: MarkovChain.from_sequences([[0, 1, 0]], vocab=3), "nothing comes after token 2; pass smoothing"),
    "short": (lambda: MarkovChain.from_sequences([[0], []], vocab=3), "more than 1 tokens; got none"),
    "smoothing": (lambda: MarkovChain.from_sequences([[0, 1]], vocab=3, smoothing=-1.0), "smoothing: expected"),
    "huge": (lambda: MarkovChain.from_sequences([[0, 1]], vocab=1000, order=3), "at most 100000000"),
}
PAIR = random_laws(12).chains()
not_a_chain: Any = EVEN
block_rule: Any = BlockVerification()
BAD_CALLS = {
    "no horizon": (lambda: expected_rejections(chain(), chain()), "pass horizon="),
    "too long": (lambda: expected_rejections(*PAIR, horizon=4), "at most 3 tokens"),
    "zero": (lambda: chain().state_laws(0), "horizon: expected a whole number, at least 1; got 0"),
    "step": (lambda: PAIR[0].laws(3), "step: expected 0 to 2; got 3"),
    "not a chain": (lambda: expected_rejections(not_a_chain, chain()), "draft: expected a MarkovChain; got ndarray"),
    "vocabularies": (lambda: expected_rejections(PAIR[0], random_laws(1, vocab=2).chains()[1]), "same order over"),
    "prompts": (lambda: expected_rejections(PAIR[0], chain()), "use dataclasses.replace"),
    "block rule": (
        lambda: expected_rejections(*PAIR, block_rule),
        "expected_rejections: expected a rule that judges one token at a time; got BlockVerification",
    ),
    "logits": (lambda: expected_rejections(*PAIR, MARS()), "expected raw logits"),
    "draft length": (lambda: tokens_per_call(*PAIR, draft_length=0), "draft_length: expected a whole number"),
}


@pytest.mark.parametrize("case", [*BAD_CHAINS, *BAD_CALLS])
def test_bad_input_is_told_in_one_line_that_names_the_row(case):
    call, message = (BAD_CHAINS | BAD_CALLS)[case]
    with pytest.raises(InputError) as caught:
        call()
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_within_the_tolerance_are_rescaled_and_tensors_are_taken():
    torch = pytest.importorskip("torch")
    rough = chain(torch.full((3, 3), 1 / 3, dtype=torch.float32))
    assert_law(rough.transitions)
    assert rough.transitions.dtype == np.float64


def test_chains_load_neither_torch_nor_scipy():
    code = (
        "import sys, tradeoff.chains; print([m for m in ('torch', 'scipy', 'cvxpy', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_answers_are_numbers_as_well_and_scripts_may_name_the_horizon_or_not():
    draft, target = published_chains(horizon=50)
    found = expected_rejections(draft, target, None, 20)
    assert float(found) == found.mean == expected_rejections(draft, target, horizon=20).mean
    batch = batch_expected_rejections(draft, target, 3, 20)
    assert float(batch) == batch.mean < float(found)
