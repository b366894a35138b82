"""Block verification on tensors, and any block rule by its own verdict, against `tradeoff.outcome.block`."""

import numpy as np
import pytest
import torch
from prefixes import prefix_laws
from tiny import FALSE_ALARM, chi_square_p_value

from decoding.sampling import draw
from decoding.sampling.draw import inverse_cdf, law
from decoding.verification.block import verify_block, verify_block_rule
from decoding.verification.ratio import verify_ratio
from decoding.verification.ratio_form import RatioForm
from tradeoff.outcome.block import joint_law
from tradeoff.rule import Block, TokenByToken
from tradeoff.rules import ApproximateSD, BlockVerification, Consultant, FLy, SpeculativeSampling

BELOW_ONE = 1 - 2**-53


def random_case(seed, batch, k, vocab):
    """Drafts near the target and far from it, with masks in some rows; tokens drawn from them."""
    generator = torch.manual_seed(seed)
    target = torch.randn(batch, k + 1, vocab, generator=generator) * 2
    distance = torch.tensor([0.2, 1.0, 3.0, 0.0])[torch.arange(batch) % 4][:, None, None]
    draft = target[:, :k] + distance * torch.randn(batch, k, vocab, generator=generator)
    for logits in (draft, target):
        hidden = torch.rand(logits.shape, generator=generator) < 0.3
        hidden[..., 0] = False
        hidden[::2] = False
        logits.masked_fill_(hidden, -torch.inf)
    drafted = inverse_cdf(law(draft, 1.0), torch.rand(batch, k, dtype=torch.float64, generator=generator))
    return draft, target, drafted, torch.rand(batch, k + 1, dtype=torch.float64, generator=generator)


def block_of(case, b, tested):
    draft, target, drafted, _ = case
    p, q = (each[b].double().softmax(-1).numpy() for each in (draft, target))
    return Block(drafted=tuple(drafted[b, :tested].tolist()), draft=p[:tested], target=q[: tested + 1])


def coins_of(verdict):
    """Chances h_1 .. h_k of a verdict: accepted[i] = h_i prod over j > i of (1 - h_j)."""
    left, coins = 1.0, []
    for chance in verdict.accepted[:0:-1]:
        coins.append(chance / left if left > 1e-9 else np.nan)
        left -= chance
    return np.array(coins[::-1])


@pytest.mark.parametrize("host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_every_coin_and_every_replacement_is_that_of_the_verdict(k, host, monkeypatch):
    monkeypatch.setattr(draw, "on_host", lambda values: host)
    batch = 200
    case = random_case(k, batch, k, 6)
    count = torch.arange(batch) % (k + 1)
    uniforms = case[3]
    kept, token = verify_block(*case, count=count, temperature=1.0)
    decided = 0
    for b in range(batch):
        tested = int(count[b])
        verdict = BlockVerification().verdict(block_of(case, b, tested), ())
        coins, given = coins_of(verdict), uniforms[b, :tested].numpy()
        passed = [i + 1 for i in range(tested) if not np.isnan(coins[i]) and given[i] < coins[i]]
        if any(abs(given[i] - coins[i]) < 1e-5 for i in range(tested) if not np.isnan(coins[i])):
            continue
        assert int(kept[b]) == max(passed, default=0)
        if verdict.accepted[int(kept[b])] > 1e-4:
            running = verdict.following[int(kept[b])].cumsum()
            before, upto = (
                running[int(token[b])] - verdict.following[int(kept[b])][int(token[b])],
                running[int(token[b])],
            )
            assert before - 1e-4 <= float(uniforms[b, -1]) <= upto + 1e-4
            decided += 1
    assert decided > 0.8 * batch


class Rounds:
    """Writes many texts at once from laws after every prefix, one round after the other."""

    def __init__(self, step, initial, draft, target, *, draws, seed):
        self.step, self.draft, self.target, self.horizon = step, draft, target, len(draft)
        self.rng = np.random.default_rng(seed)
        self.texts, self.states = [()] * draws, [initial] * draws

    def counts(self, k):
        """How often each text was written, `[vocab] * horizon`."""
        while live := [i for i, text in enumerate(self.texts) if len(text) < self.horizon]:
            self.round(live, k)
        counts = np.zeros(self.target[-1].shape)
        np.add.at(counts, tuple(np.array(self.texts).T), 1)
        return counts

    def round(self, live, k):
        tested = [min(k, self.horizon - len(self.texts[i])) for i in live]
        vocab = len(self.draft[0])
        draft, target = np.ones((len(live), k, vocab)), np.ones((len(live), k + 1, vocab))
        drafted = np.zeros((len(live), k), dtype=np.int64)
        for row, i in enumerate(live):
            path = self.texts[i]
            for place in range(tested[row] + 1):
                if len(path) < self.horizon:
                    target[row, place] = self.target[len(path)][path]
                if place < tested[row]:
                    draft[row, place] = self.draft[len(path)][path]
                    drafted[row, place] = self.rng.choice(vocab, p=draft[row, place])
                    path = (*path, int(drafted[row, place]))
        with np.errstate(divide="ignore"):
            logits = [torch.from_numpy(np.log(each)) for each in (draft, target)]
        tokens, uniforms = torch.from_numpy(drafted), torch.from_numpy(self.rng.random((len(live), k + 1)))
        kept, token, states = self.step(*logits, tokens, uniforms, torch.tensor(tested), [self.states[i] for i in live])
        for row, i in enumerate(live):
            emitted = (*drafted[row, : int(kept[row])].tolist(), int(token[row]))
            self.texts[i] = (self.texts[i] + emitted)[: self.horizon]
            self.states[i] = states[row]


def by_tensors(draft, target, drafted, uniforms, count, states):
    return *verify_block(draft, target, drafted, uniforms, count=count, temperature=1.0), states


def by_verdict(rule):
    def step(draft, target, drafted, uniforms, count, states):
        return verify_block_rule(
            rule,
            draft,
            target,
            drafted,
            uniforms,
            count=count,
            temperature=1.0,
            raw_target_logits=target,
            states=states,
        )

    return step


def keeps_all(draft, target, drafted, uniforms, count, states):
    return count, inverse_cdf(law(target, 1.0)[torch.arange(len(count)), count], uniforms[:, -1]), states


CONSULTANT = Consultant(threshold=1.1, smoothing=0.5)
FORGIVING = FLy(window=1, entropy=0.8)
CASES = {
    "block verification": (by_tensors, BlockVerification()),
    "block verification by its verdict": (by_verdict(BlockVerification()), BlockVerification()),
    "consultant": (by_verdict(CONSULTANT), CONSULTANT),
    "fly": (by_verdict(FORGIVING), FORGIVING),
    "token by token": (by_verdict(TokenByToken(SpeculativeSampling())), TokenByToken(SpeculativeSampling())),
}


@pytest.mark.parametrize(("name", "k"), [*((name, 3) for name in CASES), ("consultant", 1)])
def test_the_texts_have_the_exact_joint_law(name, k, monkeypatch):
    step, rule = CASES[name]
    monkeypatch.setattr(draw, "on_host", lambda values: False)
    draft, target = prefix_laws(3, horizon=4), prefix_laws(8, horizon=4)
    rounds = Rounds(step, rule.initial_state(), draft, target, draws=1500, seed=k)
    expected = joint_law(rule, draft, target, draft_length=k, horizon=4).law
    assert chi_square_p_value(rounds.counts(k), expected) > FALSE_ALARM


def test_the_comparison_of_texts_finds_a_rule_that_keeps_all():
    draft, target = prefix_laws(3, horizon=4), prefix_laws(8, horizon=4)
    counts = Rounds(keeps_all, (), draft, target, draws=1500, seed=0).counts(3)
    assert chi_square_p_value(counts, joint_law(BlockVerification(), draft, target, draft_length=3, horizon=4).law) == 0


def test_block_verification_of_one_token_is_speculative_sampling():
    case = random_case(9, 100, 1, 8)
    count = torch.ones(100, dtype=torch.int64)
    block = verify_block(*case, count=count, temperature=0.7)
    ratio = verify_ratio(RatioForm(), *case, count=count, temperature=0.7)
    for each, other in zip(block, ratio, strict=True):
        assert torch.equal(each, other)


def test_equal_laws_keep_the_whole_block_and_disjoint_ones_nothing():
    same = torch.randn(1, 4, 9)
    uniforms = torch.full((1, 4), BELOW_ONE, dtype=torch.float64)
    drafted = torch.tensor([[3, 1, 2]])
    kept, _ = verify_block(same[:, :3], same, drafted, uniforms, count=torch.tensor([3]), temperature=1.0)
    assert int(kept) == 3
    first, second = torch.zeros(1, 3, 4), torch.zeros(1, 4, 4)
    first[..., 2:], second[..., :2] = -torch.inf, -torch.inf
    kept, token = verify_block(
        first, second, torch.zeros(1, 3, dtype=torch.int64), uniforms * 0, count=torch.tensor([3]), temperature=1.0
    )
    assert (int(kept), int(token)) == (0, 2)


def test_temperature_0_keeps_the_drafted_tokens_that_are_the_targets_argmax():
    draft, target, _, uniforms = random_case(11, 50, 3, 5)
    drafted = draft.argmax(-1)
    kept, token = verify_block(draft, target, drafted, uniforms, count=torch.full((50,), 3), temperature=0.0)
    best = target.argmax(-1)
    expected = (drafted == best[:, :3]).long().cumprod(-1).sum(-1)
    assert torch.equal(kept, expected)
    assert torch.equal(token, best[torch.arange(50), expected])


@pytest.mark.parametrize("host", [True, False], ids=["host", "device"])
def test_rows_do_not_disturb_each_other_nor_do_positions_beyond_the_count(host, monkeypatch):
    monkeypatch.setattr(draw, "on_host", lambda values: host)
    draft, target, drafted, uniforms = random_case(13, 25, 4, 30)
    count = torch.arange(25) % 5
    together = verify_block(draft, target, drafted, uniforms, count=count, temperature=1.0)
    for b, tested in enumerate(count.tolist()):
        alone = verify_block(
            draft[b : b + 1, :tested],
            target[b : b + 1, : tested + 1],
            drafted[b : b + 1, :tested],
            torch.cat([uniforms[b : b + 1, :tested], uniforms[b : b + 1, -1:]], dim=1),
            count=torch.tensor([tested]),
            temperature=1.0,
        )
        assert [int(each) for each in alone] == [int(each[b]) for each in together]


def test_a_row_of_a_block_rule_without_a_law_keeps_its_state_and_leaves_the_others_alone():
    draft, target, drafted, uniforms = random_case(17, 4, 3, 6)
    count, states = torch.tensor([3, 2, 0, 3]), [0.5, None, 0.25, 3.0]

    def judged():
        return verify_block_rule(
            CONSULTANT,
            draft,
            target,
            drafted,
            uniforms,
            count=count,
            temperature=1.0,
            raw_target_logits=target,
            states=list(states),
        )

    kept, token, after = judged()
    target[1, 2] = torch.nan
    spoilt_kept, spoilt_token, spoilt_after = judged()
    assert (int(spoilt_kept[1]), int(spoilt_token[1]), spoilt_after[1]) == (0, 0, None)
    for b in (0, 2, 3):
        assert (kept[b], token[b], after[b]) == (spoilt_kept[b], spoilt_token[b], spoilt_after[b])
        assert after[b] != states[b]


def test_a_rule_that_compares_logits_gets_the_raw_ones():
    # laws that are one hot, raw logits that are nearly level: the drafted token costs 0.1
    target = torch.full((1, 2, 3), -torch.inf)
    target[..., 0] = 0.0
    raw = torch.tensor([[[1.0, 0.9, -5.0]] * 2])
    arguments = torch.zeros(1, 1, 3), target, torch.tensor([[1]]), torch.full((1, 2), 0.5).double()
    for tolerance, expected in ((0.2, 1), (0.05, 0)):
        rule = ApproximateSD(tolerance=tolerance)
        kept, token, states = verify_block_rule(
            rule,
            *arguments,
            count=torch.tensor([1]),
            temperature=1.0,
            raw_target_logits=raw,
            states=[rule.initial_state()],
        )
        assert (int(kept), int(token)) == (expected, 0)
        assert states[0] == pytest.approx(0.1 * expected, abs=1e-6)
