"""Block rules and their joint law against plain recursion and a sampler written from the paper."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from prefixes import iid, prefix_laws
from scipy.stats import chisquare
from tolerances import assert_at_most, assert_close, assert_law

from solvers.errors import InputError
from tradeoff.outcome.block import joint_law
from tradeoff.outcome.token import evaluate
from tradeoff.rule import Block, TokenByToken, Verdict
from tradeoff.rules import DecodingUNO, RatioClip, SpeculativeSampling
from tradeoff.rules.blocks import BlockVerification, Consultant

EXACT = TokenByToken(SpeculativeSampling())


def pairs(zeros=0.0, **shape):
    for seed in range(4):
        yield prefix_laws(seed, zeros=zeros, **shape), prefix_laws(100 + seed, zeros=zeros, **shape)


def one_block(draft, target, drafted):
    """The block after the empty prefix; `target` reaches one token further than `draft`."""
    path = [drafted[:kept] for kept in range(len(drafted) + 1)]
    return Block(
        drafted=drafted,
        draft=np.stack([draft[len(each)][each] for each in path[:-1]]),
        target=np.stack([target[len(each)][each] for each in path]),
    )


def kept_law(rule, draft, target, length):
    """Law of the number of tokens kept in the first round, `[length + 1]`."""
    total = np.zeros(length + 1)
    for drafted in itertools.product(range(len(draft[0])), repeat=length):
        chance = math.prod(draft[i][drafted[: i + 1]] for i in range(length))
        if chance > 0:
            total += chance * rule.verdict(one_block(draft, target, drafted), rule.initial_state()).accepted
    return total


# --- lossless ---


@pytest.mark.parametrize("rule", [EXACT, BlockVerification()], ids=["token", "block"])
@pytest.mark.parametrize("draft_length", [1, 2, 3, 4])
@pytest.mark.parametrize(("horizon", "zeros"), [(3, 0.0), (4, 0.0), (4, 0.4)])
def test_lossless_rules_write_the_targets_text_exactly(rule, draft_length, horizon, zeros):
    for draft, target in pairs(zeros, horizon=horizon):
        found = joint_law(rule, draft, target, draft_length=draft_length, horizon=horizon)
        assert_close(found.law, found.target, "mass")
        assert_close([found.tv, found.divergence_in("hellinger")], [0.0, 0.0], "mass")
        # every round emits one token of its own unless the last block fills the text
        assert_at_most(found.accepted + found.rejections, horizon, "mass")


def test_the_targets_text_is_the_product_of_its_laws():
    target = prefix_laws(1, horizon=3)
    found = joint_law(EXACT, prefix_laws(0, horizon=3), target, draft_length=2, horizon=3)
    for text in itertools.product(range(3), repeat=3):
        assert_close(found.target[text], target[0][text[0]] * target[1][text[:2]] * target[2][text], "mass")


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_block_verification_keeps_at_least_as_many_tokens_per_round(length, zeros):
    more = 0
    for seed in range(12):
        draft = prefix_laws(seed, zeros=zeros)
        target = prefix_laws(50 + seed, horizon=5, zeros=zeros)
        block, token = (kept_law(rule, draft, target, length) for rule in (BlockVerification(), EXACT))
        assert_law(block)
        # not only on average: for every n it is at least as likely to keep n tokens
        assert_at_most(token[::-1].cumsum(), block[::-1].cumsum(), "mass")
        more += block @ np.arange(length + 1) > token @ np.arange(length + 1) + 1e-6
    assert more > 0 or length == 1


def test_block_verification_keeps_eleven_ninths_where_token_verification_keeps_ten():
    # the example of the paper: laws (2/3, 1/3) and (1/3, 2/3), two drafted tokens
    draft, target = np.array([2, 1]) / 3, np.array([1, 2]) / 3
    for rule, expected in ((EXACT, 10 / 9), (BlockVerification(), 11 / 9)):
        assert_close(kept_law(rule, iid(draft, 2), iid(target, 3), 2) @ np.arange(3), expected, "mass")


def sampled_block_verification(rng, block):
    """The algorithm drawn step by step, every coin thrown, the last success kept."""
    owed, kept = 1.0, 0
    for i, token in enumerate(block.drafted, start=1):
        owed = min(1.0, owed * block.target[i - 1, token] / block.draft[i - 1, token])
        if i < len(block.drafted):
            short = np.maximum(owed * block.target[i] - block.draft[i], 0).sum()
            chance = 1.0 if owed == 1 else short / (short + 1 - owed)
        else:
            chance = owed
        if rng.random() < chance:
            kept = i
    return kept


def test_block_verification_keeps_as_often_as_its_algorithm_when_sampled():
    # 20000 rounds, one chi-square test of probability 1e-4 of failing by chance; seeded
    rng, draft, target = np.random.default_rng(5), prefix_laws(7), prefix_laws(8, horizon=5)
    counts = np.zeros(4)
    for _ in range(20000):
        drafted = ()
        for length in range(3):
            drafted += (int(rng.choice(3, p=draft[length][drafted])),)
        counts[sampled_block_verification(rng, one_block(draft, target, drafted))] += 1
    law = kept_law(BlockVerification(), draft, target, 3)
    assert (law > 0.02).all()
    assert chisquare(counts, law * counts.sum()).pvalue > 1e-4


@pytest.mark.parametrize("rule", [EXACT, BlockVerification()], ids=["token", "block"])
def test_extremes_of_the_lossless_rules(rule):
    law, off, hot = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.5, 0.0])
    for draft, target, calls, accepted in (
        (law, law, 2.0, 4.0),  # all kept: 3 drafted and a bonus, then the fifth token alone
        (off, off, 2.0, 4.0),
        (off, hot, 5.0, 0.0),  # disjoint: nothing kept
        (hot, off, 5.0, 0.0),
    ):
        found = joint_law(rule, iid(draft, 5), iid(target, 5), draft_length=3, horizon=5)
        assert_close(found.law, found.target, "mass")
        assert_close([found.target_calls, found.accepted], [calls, accepted], "mass")
        assert_close(found.rejections, 5.0 * (accepted == 0), "mass")


# --- ordinary rules ---


class Others:
    """Law of the target's other tokens, row by row."""

    def __init__(self, target):
        rows = np.where(np.eye(target.shape[-1], dtype=bool), 0.0, target[..., None, :])
        total = rows.sum(-1, keepdims=True)
        self.array = np.where(total > 0, rows / np.where(total > 0, total, 1), target[..., None, :])

    def after(self, rejected):
        return np.take_along_axis(self.array, np.asarray(rejected)[..., None, None], -2)[..., 0, :]

    def mixture(self, weights):
        return (weights[..., None, :] @ self.array)[..., 0, :]


@dataclass(frozen=True)
class SampleMatch:
    """Kernel residual, as an array or as an object."""

    lazily: bool

    def acceptance(self, draft, target):
        return target

    def residual(self, draft, target):
        return Others(target) if self.lazily else Others(target).array


@dataclass(frozen=True)
class DraftBonus(SpeculativeSampling):
    """Samples half draft, half target after a full block."""

    def bonus(self, draft, target):
        return (draft + target) / 2


def text_law(rule, draft, target, draft_length, horizon):
    """Law of the text, token by token: the place within the block is all that is remembered."""
    law = np.zeros((3,) * horizon)

    def write(prefix, place, probability):
        if len(prefix) == horizon:
            law[prefix] += probability
            return
        p, q = draft[len(prefix)][prefix], target[len(prefix)][prefix]
        if place == draft_length:
            bonus = rule.bonus(p, q) if hasattr(rule, "bonus") else q
            for token in range(3):
                write((*prefix, token), 0, probability * bonus[token])
            return
        outcome = evaluate(rule, p, q)
        accepted = p * outcome.acceptance
        for token in range(3):
            write((*prefix, token), place + 1, probability * accepted[token])
            write((*prefix, token), 0, probability * (outcome.output_law - accepted)[token])

    write((), 0, 1.0)
    return law


ORDINARY = [DecodingUNO(epsilon=0.1), RatioClip(ceiling=1.5), SampleMatch(lazily=False), DraftBonus()]


@pytest.mark.parametrize("draft_length", [1, 2, 3])
@pytest.mark.parametrize("rule", ORDINARY, ids=lambda rule: type(rule).__name__)
def test_token_by_token_writes_the_product_of_the_rules_output_laws(rule, draft_length):
    for draft, target in pairs(0.2, horizon=3):
        found = joint_law(TokenByToken(rule), draft, target, draft_length=draft_length, horizon=3)
        assert_close(found.law, text_law(rule, draft, target, draft_length, 3), "mass")
        assert_law(found.law.ravel())


def test_a_residual_kernel_is_its_array():
    draft, target = prefix_laws(0), prefix_laws(1)
    rules = [TokenByToken(SampleMatch(lazily)) for lazily in (True, False)]
    lazy, eager = (joint_law(rule, draft, target, draft_length=3, horizon=4) for rule in rules)
    assert_close(lazy.law, eager.law, "mass")
    assert_close(lazy.law, lazy.target, "mass")


@dataclass(frozen=True)
class LogitGate:
    """Accepts where the target's raw logit is positive."""

    logits: Any = None

    def with_logits(self, draft_logits, target_logits):
        return LogitGate(target_logits)

    def acceptance(self, draft, target):
        return (np.zeros_like(target) if self.logits is None else self.logits > 0) * 1.0

    def residual(self, draft, target):
        return target


def test_rules_that_compare_logits_get_the_raw_ones():
    law, logits = np.array([0.2, 0.3, 0.5]), np.array([1.0, -1.0, 2.0])
    for given, kept in ((None, 0.0), (iid(logits, 1), 0.7)):
        lengths = {"draft_length": 1, "horizon": 1, "target_logits": given}
        assert_close(joint_law(TokenByToken(LogitGate()), iid(law, 1), iid(law, 1), **lengths).accepted, kept, "mass")


# --- bad input ---


@dataclass(frozen=True)
class Given:
    accepted: list[float]
    following: list[list[float]]

    def initial_state(self):
        return ()

    def verdict(self, block, state):
        return Verdict(accepted=np.array(self.accepted), following=np.array(self.following))


LAWS, ONE_HOT = iid(np.array([0.5, 0.5]), 2), [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon: expected a whole number"),
        ({"draft_length": 1.5}, "draft_length: expected a whole number"),
        ({"horizon": 3}, "draft laws: expected 3 entries"),
        ({"draft": []}, "draft laws: expected one entry"),
        ({"target": [LAWS[0], LAWS[0]]}, r"target laws: expected shape \(2, 2\) after 1 tokens; got \(2,\)"),
        ({"target": iid(np.full(3, 1 / 3), 2)}, r"target laws: expected shape \(2,\)"),
        ({"draft": lambda prefix: np.ones(2 + len(prefix)) / 2}, r"expected a law of 2 tokens after \(0,\)"),
        ({"draft": [LAWS[0], LAWS[1] / 2]}, "draft law: expected probabilities that sum to 1"),
        ({"target_logits": [LAWS[0], LAWS[1] * np.nan]}, "target_logits: expected numbers or -inf"),
        ({"horizon": 20, "draft": lambda prefix: LAWS[0]}, "joint_law: expected at most 200000 blocks"),
        ({"rule": Given([1.0], ONE_HOT)}, "expected accepted of shape"),
        ({"rule": Given([0.5, 0.4], ONE_HOT)}, "expected probabilities of keeping 0 to 1 tokens"),
        ({"rule": Given([0.5, 0.5], [[1.0, 1.0], [1.0, 0.0]])}, "expected laws of the following token"),
    ],
)
def test_what_cannot_be_enumerated_is_a_one_line_input_error(change, message):
    given = {"rule": EXACT, "draft": LAWS, "target": LAWS, "draft_length": 1, "horizon": 2, **change}
    with pytest.raises(InputError, match=message) as caught:
        joint_law(given.pop("rule"), given.pop("draft"), given.pop("target"), **given)
    assert "\n" not in str(caught.value)


def test_a_bonus_of_ones_own_needs_the_drafts_law_after_the_block():
    block = Block(drafted=(0,), draft=LAWS[1][:1], target=LAWS[1])
    with pytest.raises(InputError, match=r"expected the draft's law after the block, draft of shape \[2, vocab\]"):
        TokenByToken(DraftBonus()).verdict(block, ())


def test_functions_of_the_prefix_and_torch_laws_are_laws_too():
    draft, target = prefix_laws(0, horizon=3), prefix_laws(1, horizon=3)
    lengths: dict[str, Any] = {"draft_length": 2, "horizon": 3}
    tables = joint_law(Consultant(), draft, target, **lengths)
    functions = joint_law(Consultant(), lambda t: draft[len(t)][t], lambda t: target[len(t)][t].tolist(), **lengths)
    tensors = joint_law(Consultant(), [torch.asarray(each) for each in draft], target, **lengths)
    assert_close(functions.law, tables.law, "mass")
    assert_close(tensors.law, tables.law, "mass")
