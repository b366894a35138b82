"""Rules with several drafts of one position: exact fractions, plain scans of a coin, and bounds by enumeration."""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, law_pairs, random_pair, tv
from tolerances import assert_at_most, assert_close, assert_law

from solvers.errors import InputError
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.rule import Selection
from tradeoff.rules.multi_draft import GreedyMultiDraft, KSeq, RecursiveRejection, SGLangTree

WITH, WITHOUT = RecursiveRejection(), RecursiveRejection(replacement=False)
LOSSLESS = [WITH, WITHOUT, KSeq(), KSeq(rho=4.0), GreedyMultiDraft(), SGLangTree()]
SMALL = {name: pair for name, pair in EXTREME_PAIRS.items() if len(pair[0]) <= 7}
NAMES = [repr(rule) for rule in LOSSLESS]


def fractions(*weights):
    return [Fraction(each, sum(weights)) for each in weights]


PAIRS = [
    (fractions(4, 3, 1), fractions(1, 3, 4)),
    (fractions(1, 2, 3, 4), fractions(5, 0, 4, 1)),
    (fractions(0, 5, 3, 0), fractions(1, 2, 3, 4)),
    (fractions(2, 1), fractions(0, 1)),
]


# --- lossless ---


@pytest.mark.parametrize("rule", LOSSLESS, ids=NAMES)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("drafts", [1, 2, 3, 4])
def test_lossless_rules_emit_the_target_at_the_extremes(rule, name, drafts):
    draft, target = SMALL[name]
    outcome = evaluate_multi_draft(rule, draft, target, drafts=drafts)
    assert_close(outcome.output_law, target, "mass")
    assert_law(outcome.output_law)
    assert_at_most(0.0, outcome.rejection, "mass")


@pytest.mark.parametrize("rule", LOSSLESS, ids=NAMES)
@given(pair=law_pairs(max_vocab=5), drafts=st.integers(1, 3))
def test_lossless_rules_emit_the_target(rule, pair, drafts):
    outcome = evaluate_multi_draft(rule, *pair, drafts=drafts)
    assert_close(outcome.output_law, pair[1], "mass")
    assert_close([outcome.tv, outcome.divergence_in("tv")], [0.0, 0.0], "mass")


@pytest.mark.parametrize("rule", [WITH, WITHOUT, KSeq(), GreedyMultiDraft()], ids=repr)
@given(pair=law_pairs(max_vocab=7))
def test_one_draft_is_speculative_sampling(rule, pair):
    assert_close(evaluate_multi_draft(rule, *pair, drafts=1).rejection, tv(*pair), "mass")


@pytest.mark.parametrize("rule", [WITH, WITHOUT, KSeq(), GreedyMultiDraft()], ids=repr)
def test_equal_laws_never_reject_and_disjoint_supports_always_do(rule):
    law = np.array([0.5, 0.3, 0.2, 0.0, 0.0])
    assert_close(evaluate_multi_draft(rule, law, law, drafts=2).rejection, 0.0, "mass")
    disjoint = np.array([0.0, 0.0, 0.0, 0.4, 0.6])
    assert_close(evaluate_multi_draft(rule, law, disjoint, drafts=2).rejection, 1.0, "mass")


# --- recursive rejection ---


def recursive_rejection(draft, target, count, replacement):
    """Draw, judge, and only then draw the next: output law and rejection by recursion, in fractions."""
    output = [Fraction(0)] * len(draft)
    rejected = Fraction(0)

    def judge(p, q, left, probability):
        nonlocal rejected
        if left == 0 or not any(p):
            rejected += probability
            for token, mass in enumerate(q):
                output[token] += probability * mass
            return
        excess = [max(b - a, 0) for a, b in zip(p, q, strict=True)]
        for token, mass in enumerate(p):
            if mass == 0:
                continue
            kept = min(Fraction(1), q[token] / mass)
            output[token] += probability * mass * kept
            if kept == 1:
                continue
            rest = [0 if y == token else a for y, a in enumerate(p)]
            following = p if replacement else [Fraction(a, sum(rest)) if sum(rest) else 0 for a in rest]
            judge(following, [e / sum(excess) for e in excess], left - 1, probability * mass * (1 - kept))

    judge(draft, target, count, Fraction(1))
    return rejected, output


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("drafts", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", [WITH, WITHOUT], ids=["with", "without"])
def test_recursive_rejection_is_exact_in_fractions(pair, drafts, rule):
    draft, target = pair
    rejected, output = recursive_rejection(draft, target, drafts, rule.replacement)
    assert output == target
    outcome = evaluate_multi_draft(rule, *np.array(pair, dtype=float), drafts=drafts)
    assert_close(outcome.rejection, float(rejected), "mass")


@given(pair=law_pairs(max_vocab=5), drafts=st.integers(1, 4))
def test_with_replacement_all_are_rejected_with_the_product_of_total_variations(pair, drafts):
    draft, left = pair
    product = 1.0
    for _ in range(drafts):
        distance = tv(left, draft)
        product *= distance
        if distance > 0:
            left = np.maximum(left - draft, 0) / distance
    assert_close(evaluate_multi_draft(WITH, *pair, drafts=drafts).rejection, product, "mass")


def test_without_replacement_the_drafts_run_out_with_the_draft():
    draft = np.array([0.5, 0.3, 0.2, 0.0])
    tuples = dict(WITHOUT.proposals(draft, 5))
    assert set(tuples) == set(itertools.permutations(range(3)))
    assert_close([tuples[0, 1, 2], tuples[2, 0, 1]], [0.5 * 0.6, 0.2 * 0.625], "mass")
    assert_close(sum(tuples.values()), 1.0, "mass")


# --- bounds ---


def subsets(vocab):
    return (np.array(each, dtype=bool) for each in itertools.product([0, 1], repeat=vocab))


def best_acceptance(rule, draft, target, drafts):
    """Most that any selection from these drafts can accept: 1 + min over H of q(H) - Pr(all drafts in H)."""
    tuples = list(rule.proposals(draft, drafts))
    return 1 + min(
        target[inside].sum() - sum(chance for tokens, chance in tuples if inside[list(tokens)].all())
        for inside in subsets(len(draft))
    )


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("rule", LOSSLESS, ids=NAMES)
def test_no_lossless_rule_accepts_more_than_is_possible(rule, drafts):
    for seed in range(8):
        draft, target = random_pair(seed, vocab=4, masked=seed % 2 == 0)
        accepted = 1 - evaluate_multi_draft(rule, draft, target, drafts=drafts).rejection
        best = best_acceptance(rule, draft, target, drafts)
        assert_at_most(accepted, best, "mass")
        if isinstance(rule, GreedyMultiDraft | SGLangTree):
            assert_close(accepted, best, "mass")


@pytest.mark.parametrize("drafts", [2, 3, 4])
@given(pair=law_pairs(max_vocab=5))
def test_k_seq_accepts_its_share_of_the_optimum(drafts, pair):
    draft, target = pair
    best = 1 + min(target[inside].sum() - draft[inside].sum() ** drafts for inside in subsets(len(draft)))
    accepted = 1 - evaluate_multi_draft(KSeq(), draft, target, drafts=drafts).rejection
    assert_at_most(accepted, best, "mass")
    assert_at_most((1 - (1 - 1 / drafts) ** drafts) * best, accepted, "mass")


# --- K-SEQ ---


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("rho", [Fraction(2), Fraction(3), Fraction(5)])
def test_k_seq_at_a_fixed_rho_is_exact_in_fractions(pair, rho):
    draft, target = pair
    common = [min(p, q / rho) for p, q in zip(draft, target, strict=True)]
    rejected = (1 - sum(common)) ** 2
    residual = [q - c * (2 - sum(common)) for q, c in zip(target, common, strict=True)]
    assert min(residual) >= 0
    assert sum(residual) == rejected
    outcome = evaluate_multi_draft(KSeq(rho=float(rho)), *np.array(pair, dtype=float), drafts=2)
    assert_close(outcome.rejection, float(rejected), "mass")
    assert_close(outcome.output_law, np.array(target, dtype=float), "mass")


def test_k_seq_solves_for_the_least_rho_that_is_lossless():
    # p = (1, 0), q = (1/2, 1/2), K = 2: beta = min(1, 1 / (2 rho)), A = 2 beta - beta^2 = rho beta: rho = 2 - beta
    draft, target = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    rho = 1 + math.sqrt(0.5)
    solved, fixed = (evaluate_multi_draft(rule, draft, target, drafts=2) for rule in (KSeq(), KSeq(rho=rho)))
    assert_close(solved.rejection, (1 - 0.5 / rho) ** 2, "mass")
    assert_close([solved.rejection, 0.5], [fixed.rejection, fixed.rejection], "mass")
    less, more = (evaluate_multi_draft(KSeq(rho=rho * factor), draft, target, drafts=2) for factor in (0.9, 1.1))
    assert less.tv > 1e-3
    assert_close(more.tv, 0.0, "mass")
    assert less.rejection < solved.rejection < more.rejection


# --- greedy ---


@given(pair=law_pairs(max_vocab=6), drafts=st.integers(1, 4))
def test_greedy_drafts_accept_the_top_and_the_overlap_off_it(pair, drafts):
    draft, target = pair
    top = sorted(range(len(draft)), key=lambda token: (-draft[token], token))[: drafts - 1]
    off = np.array([0.0 if token in top else mass for token, mass in enumerate(draft)])
    off = off / off.sum() if off.sum() > 0 else off
    expected = target[top].sum() + np.minimum(np.delete(target, top), np.delete(off, top)).sum()
    assert_close(1 - evaluate_multi_draft(GreedyMultiDraft(), draft, target, drafts=drafts).rejection, expected, "mass")


@pytest.mark.parametrize("rule", [GreedyMultiDraft(), SGLangTree()], ids=repr)
def test_ties_in_the_draft_go_to_the_lower_token(rule):
    # more tokens than an unstable sort leaves in order by luck
    tokens, _ = next(iter(rule.proposals(np.tile([1.0, 3.0, 2.0], 70) / 420, 40)))
    assert tokens[:39] == tuple(range(1, 118, 3))


# --- SGLang's tree ---


def scanned(draft, target, drafts, single, acc):
    """One coin in the middle of every stretch on which the scan cannot change."""
    siblings = sorted(range(len(draft)), key=lambda token: (-draft[token], token))[:drafts]
    ends = sorted({0.0, 1.0, *(min(1.0, sum(target[siblings[:n]]) / acc) for n in range(1, drafts + 1))})
    output, rejected = np.zeros(len(draft)), 0.0
    for low, high in itertools.pairwise(ends):
        coin, passed, left = (low + high) / 2, 0.0, np.array(target)
        for token in siblings:
            passed += target[token]
            if coin <= passed / acc or target[token] >= single:
                output[token] += high - low
                break
            left[token] = 0.0
        else:
            rejected += high - low
            output += (high - low) * left / (left.sum() or 1.0)  # no mass is left but rounding
    return rejected, output


@pytest.mark.parametrize(("single", "acc"), [(1.0, 1.0), (1.0, 0.4), (0.3, 1.0), (0.2, 0.7), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("drafts", [1, 2, 3, 6])
def test_the_tree_is_its_coin_scanned_over_the_siblings(single, acc, drafts):
    for seed in range(12):
        draft, target = random_pair(seed, vocab=5, masked=seed % 2 == 0)
        outcome = evaluate_multi_draft(SGLangTree(single=single, acc=acc), draft, target, drafts=drafts)
        rejected, output = scanned(draft, target, drafts, single, max(acc, 1e-9))
        assert_close(outcome.rejection, rejected, "mass")
        assert_close(outcome.output_law, output, "mass")


@pytest.mark.parametrize("acc", [1.0, 0.5, 0.2])
@given(pair=law_pairs(max_vocab=6))
def test_a_chain_of_point_masses_is_lenient_sampling(acc, pair):
    draft, target = np.eye(len(pair[0]))[0], pair[1]
    outcome = evaluate_multi_draft(SGLangTree(acc=acc), draft, target, drafts=1)
    assert_close(1 - outcome.rejection, min(1.0, target[0] / acc), "mass")


def test_a_sibling_above_the_single_threshold_takes_the_rest_of_the_coin():
    rule = SGLangTree(single=0.3, acc=0.8)
    selection = rule.selection(np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.4, 0.4]), (0, 1))
    assert_close(selection.accepted, [0.25, 0.75, 0.0], "mass")
    assert_close(selection.replaced, [0.0, 0.0, 0.0], "mass")


# --- the door ---


def test_torch_laws_and_unnormalised_ones_come_back_as_host_arrays():
    draft, target = torch.tensor([2.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 2.0])
    outcome = evaluate_multi_draft(WITH, draft, target, drafts=2, normalise=True)
    assert isinstance(outcome.output_law, np.ndarray)
    assert_close(outcome.output_law, [0.25, 0.25, 0.5], "mass")
    # TV 1/4, then the residual is one-hot and its distance from the draft 3/4
    assert_close([outcome.rejection, outcome.kl], [3 / 16, 0.0], "mass")
    assert outcome.drafts == 2


@dataclass(frozen=True)
class Given:
    tuples: Any = (((0,), 1.0),)
    accepted: Any = (1.0, 0.0)
    replaced: Any = (0.0, 0.0)

    def proposals(self, draft, drafts):
        return self.tuples

    def selection(self, draft, target, tokens):
        return Selection(accepted=np.array(self.accepted), replaced=np.array(self.replaced))


HALF = np.array([0.5, 0.5])
BAD = [
    ({"draft": HALF / 2}, "draft law: expected probabilities that sum to 1"),
    ({"draft": [HALF] * 2, "target": [HALF] * 2}, r"laws: expected one pair of laws \[vocab\]; got shape \(2, 2\)"),
    ({"drafts": 0}, "drafts: expected a whole number"),
    ({"drafts": 2.0}, "drafts: expected a whole number"),
    ({"drafts": 18, "rule": KSeq(rho=1.0)}, "KSeq.*expected at most 200 tuples of drafts"),
    ({"rule": Given(tuples=[((0,), 0.5)])}, "expected drafts whose probabilities sum to 1; got 0.5"),
    ({"rule": Given(accepted=[1.0])}, r"expected accepted and replaced masses of shape \(2,\); got \(1,\)"),
    ({"rule": Given(replaced=[0.5, -0.5])}, "expected masses >= 0"),
    ({"rule": Given(accepted=[math.nan, 0.0])}, "expected masses >= 0"),
    ({"rule": Given(accepted=[0.5, 0.0])}, "expected masses that sum to 1"),
    ({"rule": Given(accepted=[0.5, 0.5])}, r"expected accepted mass on the drafts \(0,\) only"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_a_one_line_error(change, message, monkeypatch):
    monkeypatch.setattr("tradeoff.outcome.multi_draft.MOST_PROPOSALS", 200)
    given: dict[str, Any] = {"rule": WITH, "draft": HALF, "target": HALF, "drafts": 2, **change}
    with pytest.raises(InputError, match=message) as caught:
        evaluate_multi_draft(given["rule"], given["draft"], given["target"], drafts=given["drafts"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda: KSeq(rho=0.9), lambda: KSeq(rho=math.inf), lambda: KSeq(rho=math.nan)])
def test_rho_is_at_least_one(make):
    with pytest.raises(InputError, match="rho: expected a finite number >= 1"):
        make()


@pytest.mark.parametrize("thresholds", [{"single": 1.1}, {"acc": -0.1}, {"acc": math.nan}])
def test_thresholds_are_probabilities(thresholds):
    with pytest.raises(InputError, match=r"expected a threshold in \[0, 1\]"):
        SGLangTree(**thresholds)
