"""Recursive rejection sampling on tensors against the rule's own selection."""

import itertools

import numpy as np
import pytest
import torch
from tiny import DRAFT, PROMPT, TARGET

import decoding
from decoding.verification.multi_draft import verify_drafts
from solvers.errors import InputError
from tradeoff.rules import BlockVerification, Consultant, RecursiveRejection

BELOW_ONE = 1 - 2**-53
PAIRS = {
    "ordinary": ([0.5, 0.3, 0.2, 0.0], [0.2, 0.3, 0.1, 0.4]),
    "near": ([0.4, 0.3, 0.2, 0.1], [0.35, 0.3, 0.2, 0.15]),
    "disjoint": ([0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.3, 0.7]),
    "equal": ([0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]),
    "one-hot draft": ([0.0, 1.0, 0.0, 0.0], [0.3, 0.3, 0.3, 0.1]),
    "one-hot target": ([0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 1.0, 0.0]),
}
GRID = {1: 60, 2: 24, 3: 9}
"""Cells of each uniform, by drafts."""


def logits_of(law):
    return torch.tensor(law, dtype=torch.float64).log()


def verified(draft, target, candidates, uniforms, temperature=1.0):
    """Rows of one pair of logits `[vocab]`."""
    rows, drafts = candidates.shape
    first = draft[None, None].expand(rows, drafts, -1)
    return verify_drafts(first, target[None].expand(rows, -1), candidates, uniforms, temperature=temperature)


@pytest.mark.parametrize("drafts", [1, 2, 3])
@pytest.mark.parametrize("name", PAIRS)
def test_the_emitted_law_of_every_tuple_of_drafts_is_the_rules_own(name, drafts):
    draft, target = (np.array(each) for each in PAIRS[name])
    grid = GRID[drafts]
    cells = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    uniforms = torch.cartesian_prod(*[cells] * (drafts + 1))
    total = np.zeros(4)
    for tokens, probability in RecursiveRejection().proposals(draft, drafts):
        candidates = torch.tensor([tokens]).expand(len(uniforms), -1)
        chosen, token = verified(logits_of(draft), logits_of(target), candidates, uniforms)
        expected = RecursiveRejection().selection(draft, target, tokens)
        kept = chosen >= 0
        assert torch.equal(token[kept], candidates.gather(1, chosen.clamp(min=0)[:, None])[kept, 0])
        # each coin is off by a cell at most, the replacement by one for each of its 4 steps
        accepted = np.bincount(token[kept], minlength=4) / len(uniforms)
        np.testing.assert_allclose(accepted, expected.accepted, atol=drafts / grid)
        replaced = np.bincount(token[~kept], minlength=4) / len(uniforms)
        np.testing.assert_allclose(replaced, expected.replaced, atol=(drafts + 4) / grid)
        total += probability * (accepted + replaced)
    np.testing.assert_allclose(total, target, atol=(drafts + 4) / grid)


@pytest.mark.parametrize("drafts", [1, 2, 4])
def test_every_draft_meets_exactly_the_chance_the_rule_gives_it(drafts):
    generator = torch.manual_seed(drafts)
    rows, vocab = 4000, 7
    draft, target = torch.randn(2, rows, vocab, generator=generator) * 2
    laws = [each.double().softmax(-1).numpy() for each in (draft, target)]
    candidates = torch.randint(vocab, (rows, drafts), generator=generator)
    chances = np.zeros((rows, drafts))
    for b in range(rows):
        p, q = (each[b] for each in laws)
        for m in range(drafts):
            x = int(candidates[b, m])
            chances[b, m] = min(1.0, q[x] / p[x])
            q = np.maximum(q - p, 0.0) / np.maximum(q - p, 0.0).sum()
    first = draft[:, None].expand(-1, drafts, -1)
    for place, side in itertools.product(range(drafts), (-1, 1)):
        # all before it rejected if that can be, and its own uniform a little to one side of its chance
        uniforms = torch.full((rows, drafts + 1), BELOW_ONE, dtype=torch.float64)
        uniforms[:, place] = torch.from_numpy(np.clip(chances[:, place] + side * 1e-5, 0.0, BELOW_ONE))
        chosen, _ = verify_drafts(first, target, candidates, uniforms, temperature=1.0)
        certain = (chances[:, :place] == 1).any(-1) | (chances[:, place] == 1)
        reached = torch.from_numpy(~certain & ((chances[:, place] > 1e-5) | (side > 0)))
        assert reached.sum() >= 5
        assert ((chosen == place) == (side < 0))[reached].all()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("uniform", [0.0, BELOW_ONE])
def test_no_token_the_target_masks_is_emitted(name, uniform):
    draft, target = PAIRS[name]
    for tokens, _ in RecursiveRejection().proposals(np.array(draft), 3):
        _, token = verified(
            logits_of(draft), logits_of(target), torch.tensor([tokens]), torch.full((1, 4), uniform).double()
        )
        assert target[int(token)] > 0


def test_rows_do_not_disturb_each_other_and_temperature_0_follows_the_target():
    generator = torch.manual_seed(5)
    draft, target = torch.randn(2, 20, 9, generator=generator)
    candidates = torch.randint(9, (20, 3), generator=generator)
    uniforms = torch.rand(20, 4, dtype=torch.float64, generator=generator)
    first = draft[:, None].expand(-1, 3, -1)
    together = verify_drafts(first, target, candidates, uniforms, temperature=0.7)
    for b in range(20):
        alone = verify_drafts(
            first[b : b + 1], target[b : b + 1], candidates[b : b + 1], uniforms[b : b + 1], temperature=0.7
        )
        assert [int(each) for each in alone] == [int(each[b]) for each in together]
    greedy = draft.argmax(-1)[:, None].expand(-1, 3)
    chosen, token = verify_drafts(first, target, greedy, uniforms, temperature=0.0)
    assert torch.equal(token, target.argmax(-1))
    assert torch.equal(chosen, torch.where(greedy[:, 0] == target.argmax(-1), 0, -1))


def test_a_rule_that_judges_blocks_is_refused_beside_several_drafts():
    drafts = decoding.MultiDraft(DRAFT, drafts=2)
    for rule in (BlockVerification(), Consultant()):
        with pytest.raises(InputError, match="expected one that judges tokens one by one beside several drafts; got"):
            decoding.generate(PROMPT, target=TARGET, draft=drafts, rule=rule, max_new_tokens=4, do_sample=False)
