"""FLy, Consultant and ASD against their definitions written differently, and against values worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from prefixes import prefix_laws
from tolerances import assert_close

from solvers.errors import InputError
from tradeoff.outcome.block import joint_law
from tradeoff.rule import Block
from tradeoff.rules.blocks import ApproximateSD, Consultant, FLy


def fly_keeps(block, state, window, entropy, form):
    """Masks over the whole block, as the published code builds them."""
    best = [int(np.argmax(row)) for row in block.target]
    k = len(block.drafted)
    matches = [token == best[i] for i, token in enumerate(block.drafted)]
    forgiven = [False] * k
    for start in range(k - window + 1):
        forgiven[start] = matches[start : start + window] == [False] + [True] * (window - 1)
    forgiven = [each and i < k - window for i, each in enumerate(forgiven)]
    for i in range(k):
        terms = sorted((-p * math.log(p) for p in block.target[i] if p > 0), reverse=True)
        if form == "full":
            level = sum(terms) / math.log(len(block.target[i]))
        else:
            level = sum(-p * math.log(p) for p in sorted(block.target[i])[-3:] if p > 0)
        forgiven[i] = forgiven[i] and level >= entropy
    kept = next((i for i in range(k) if not (matches[i] or forgiven[i])), k)
    return kept, np.eye(block.target.shape[1])[best[kept]], lambda token: ()


def consultant_keeps(block, state, threshold, smoothing):
    """Averages as sums of powers over the history of emitted tokens, which is the state."""

    def average(history):
        weights = [smoothing**age * (1 - smoothing) for age in range(len(history))]
        weights[-1] = smoothing ** (len(history) - 1)
        return sum(w * n for w, n in zip(weights, reversed(history), strict=True))

    def surprise(i, token):
        return -math.log(block.target[i][token]) if block.target[i][token] > 0 else math.inf

    seen, kept = tuple(state or ()), 0
    for i, token in enumerate(block.drafted):
        if surprise(i, token) == math.inf:
            break
        if surprise(i, token) > threshold and average((*seen, surprise(i, token))) > threshold:
            break
        seen, kept = (*seen, surprise(i, token)), i + 1
    return kept, block.target[kept], lambda token: (*seen, surprise(kept, token))


def asd_keeps(block, state, budget, mismatches, tolerance):
    """The longest prefix that meets every constraint, longest first."""
    k, scores = len(block.drafted), np.log(np.maximum(block.target, 1e-300))
    best = block.target.argmax(-1)
    wrong = [i for i in range(k) if block.drafted[i] != best[i]]
    regret = {i: scores[i].max() - scores[i, block.drafted[i]] for i in wrong}
    for kept in range(k, -1, -1):
        bought = [i for i in wrong if i < kept]
        spent = (state or 0.0) + sum(regret[i] for i in bought)
        if (
            (not bought or spent <= budget)
            and len(bought) <= mismatches
            and all(regret[i] / (k - i) <= tolerance for i in bought)
        ):
            return kept, np.eye(block.target.shape[1])[best[kept]], lambda token, spent=spent: spent
    raise AssertionError("nothing kept is always possible")


def enumerated(keeps, draft, target, draft_length, horizon):
    """Law of the text and expected calls by recursion over every block, nothing merged."""
    vocab = target[0].shape[0]
    law, calls = np.zeros((vocab,) * horizon), 0.0
    longer = [*target, np.full((vocab,) * (horizon + 1), 1 / vocab)]

    def write(prefix, state, probability):
        nonlocal calls
        room = horizon - len(prefix)
        if room == 0:
            law[prefix] += probability
            return
        calls += probability
        k = min(draft_length, room)
        for drafted in itertools.product(range(vocab), repeat=k):
            chance = math.prod(draft[len(prefix) + i][prefix + drafted[: i + 1]] for i in range(k))
            if chance == 0:
                continue
            path = [prefix + drafted[:i] for i in range(k + 1)]
            rows = np.stack([longer[len(each)][each] for each in path])
            kept, following, after = keeps(Block(drafted=drafted, draft=rows[:k], target=rows), state)
            if kept == room:
                write(prefix + drafted, None, probability * chance)
                continue
            for token in np.flatnonzero(following):
                text = (*prefix, *drafted[:kept], int(token))
                write(text, after(token), probability * chance * following[token])

    write((), None, 1.0)
    return law, calls


LOSSY = [
    (FLy(window=2, entropy=0.5), lambda b, s: fly_keeps(b, s, 2, 0.5, "full")),
    (FLy(window=2, entropy=0.6, entropy_form="top3"), lambda b, s: fly_keeps(b, s, 2, 0.6, "top3")),
    (FLy(window=1, entropy=0.4), lambda b, s: fly_keeps(b, s, 1, 0.4, "full")),
    (Consultant(threshold=1.1, smoothing=0.2), lambda b, s: consultant_keeps(b, s, 1.1, 0.2)),
    (Consultant(threshold=1.3, smoothing=0.6), lambda b, s: consultant_keeps(b, s, 1.3, 0.6)),
    (ApproximateSD(budget=1.5, mismatches=2, tolerance=0.6), lambda b, s: asd_keeps(b, s, 1.5, 2, 0.6)),
    (ApproximateSD(budget=2.5, mismatches=1, tolerance=2.0), lambda b, s: asd_keeps(b, s, 2.5, 1, 2.0)),
]


@pytest.mark.parametrize(("rule", "keeps"), LOSSY, ids=[f"{type(r).__name__}-{i}" for i, (r, _) in enumerate(LOSSY)])
@pytest.mark.parametrize(("vocab", "horizon", "draft_length"), [(3, 4, 3), (4, 3, 3), (2, 6, 4)])
def test_lossy_block_rules_write_what_their_definitions_say(rule, keeps, vocab, horizon, draft_length):
    differs = 0.0
    for seed in range(2):
        shape = {"vocab": vocab, "horizon": horizon, "concentration": 1.5, "zeros": 0.1}
        draft, target = prefix_laws(seed, **shape), prefix_laws(10 + seed, **shape)
        found = joint_law(rule, draft, target, draft_length=draft_length, horizon=horizon)
        law, calls = enumerated(keeps, draft, target, draft_length, horizon)
        assert_close(found.law, law, "mass")
        assert_close(found.target_calls, calls, "mass")
        differs += found.tv
    assert differs > 0.01


def judged(rule, drafted, laws, logits=None, state=None):
    laws = np.asarray(laws, dtype=float)
    block = Block(drafted=drafted, draft=laws[:-1], target=laws, raw_logits=logits)
    verdict = rule.verdict(block, rule.initial_state() if state is None else state)
    kept = int(verdict.accepted.argmax())
    assert verdict.accepted.tolist() == [float(n == kept) for n in range(len(drafted) + 1)]
    return kept, verdict


def test_fly_forgives_a_mismatch_that_the_window_clears():
    def kept(drafted, law=(0.6, 0.4), **rule):
        found, verdict = judged(FLy(**rule), drafted, [law] * (len(drafted) + 1))
        assert verdict.following[found].tolist() == [1.0] + [0.0] * (len(law) - 1)
        return found

    assert kept((1, 0, 0, 0, 0, 0), window=3) == 6
    assert kept((0, 0, 0, 1, 0, 0), window=3) == 3  # its window ends with the block: one of the last three
    assert kept((0, 1, 0, 1, 0, 0, 0, 0), window=3) == 1  # another mismatch within the window
    assert kept((1, 0, 0, 0, 0, 0), window=3, entropy=0.98) == 0  # the entropy is 0.971
    assert kept((*[0] * 8, 1, *[0] * 6)) == 15  # as published: six of fifteen
    assert kept((*[0] * 9, 1, *[0] * 5)) == 9
    # uniform over 5: 1 in full, 3 of its 5 terms of 0.32 nats otherwise
    flat = {"law": [0.2 + 1e-9] + [0.2 - 2.5e-10] * 4, "window": 1}
    assert [kept((1, 0), entropy=h, **flat) for h in (0.97, 1.01)] == [2, 0]
    assert [kept((1, 0), entropy=h, entropy_form="top3", **flat) for h in (0.96, 0.97)] == [2, 0]


def test_fly_takes_its_entropy_from_the_logits_of_one_hot_laws():
    logits = np.log([[0.6, 0.4]] * 3)
    hot = [[1.0, 0.0]] * 3
    assert [judged(FLy(window=1), (1, 0), hot, given)[0] for given in (None, logits)] == [0, 2]


def test_logits_of_every_prefix_reach_the_rule():
    shape = {"vocab": 2, "horizon": 5, "concentration": 1.5}
    draft, soft = prefix_laws(3, **shape), prefix_laws(13, **shape)
    greedy = [np.eye(2)[each.argmax(-1)] for each in soft]
    logits = [7.0 + np.log(each) for each in soft]
    for rule in (FLy(window=2, entropy=0.6), ApproximateSD(budget=2.0, tolerance=1.0)):
        found = joint_law(rule, draft, greedy, draft_length=4, horizon=5, target_logits=logits)
        assert_close(found.law, joint_law(rule, draft, soft, draft_length=4, horizon=5).law, "mass")
        assert found.target.max() == 1.0
        assert 0 < found.tv < 1


def test_consultant_averages_over_the_text():
    kept, lost = math.exp(-0.5), math.exp(-2.2)
    laws = [[kept, lost, 1 - kept - lost]] * 3
    assert judged(Consultant(), (1, 0), laws)[0] == 0  # 2.2 > 2 and nothing before it
    found, verdict = judged(Consultant(), (0, 1), laws)
    assert found == 2  # 0.2 * 0.5 + 0.8 * 2.2 = 1.86
    assert_close(verdict.state(2, 0), 0.2 * 1.86 + 0.8 * 0.5, "mass")
    assert judged(Consultant(smoothing=0.0), (0, 1), laws)[0] == 1
    assert judged(Consultant(), (1, 0), laws, state=1.21)[0] == 0  # 0.2 * 1.21 + 0.8 * 2.2 = 2.002


def test_asd_spends_its_budget_over_rounds():
    # the example of its code: regrets 0.2, 0, 1 against a quarter of 3, 2, 1 tokens left
    logits = np.array([[4.8, 5.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0], [2.0, 0.0, 0.0, 3.0], [1.0, 0.0, 0.0, 0.0]])
    laws = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found, verdict = judged(ApproximateSD(), (0, 1, 0), laws, logits)
    assert found == 2
    assert_close(verdict.state(2, 3), 0.2, "mass")
    assert verdict.following.argmax(-1).tolist() == [1, 1, 3, 0]
    assert judged(ApproximateSD(tolerance=1.0), (0, 1, 0), laws, logits)[0] == 3
    assert judged(ApproximateSD(tolerance=1.0, mismatches=1), (0, 1, 0), laws, logits)[0] == 2
    assert judged(ApproximateSD(), (0, 1, 0), laws, logits, state=7.9)[0] == 0
    tie = [[0.5, 0.5]] * 2
    assert judged(ApproximateSD(), (1,), tie)[0] == 1  # a regret of 0 is no match, but free
    for strict in (ApproximateSD(budget=0.0), ApproximateSD(mismatches=0), ApproximateSD(tolerance=0.0)):
        assert judged(strict, (1,), tie)[0] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FLy(window=0), "window: expected a whole number"),
        (lambda: FLy(entropy=-0.1), "entropy: expected a finite number >= 0"),
        (lambda: FLy(entropy_form="half"), "entropy_form: expected 'full' or 'top3'"),  # pyright: ignore
        (lambda: Consultant(threshold=math.nan), "threshold: expected a finite number"),
        (lambda: Consultant(smoothing=1.0), r"smoothing: expected a weight in \[0, 1\)"),
        (lambda: ApproximateSD(budget=math.inf), "budget: expected a finite number"),
        (lambda: ApproximateSD(mismatches=-1), "mismatches: expected a whole number"),
        (lambda: ApproximateSD(tolerance=-1.0), "tolerance: expected a finite number"),
    ],
)
def test_parameters_out_of_range_are_input_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()
