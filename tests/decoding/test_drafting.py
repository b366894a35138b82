import copy
from typing import Any

import numpy as np
import pytest
import torch
from drafts import (
    FLOAT32,
    LENGTHS,
    MODEL,
    PLAIN,
    VOCAB,
    advance,
    assert_exact,
    proposed,
    ragged,
    started,
    uniforms_of,
)
from host_sync import no_host_sync
from tiny import FavourEven
from torch import Tensor

from decoding.drafting import Drafter, ModelDrafter, PromptLookup
from decoding.sampling.processors import Whole
from decoding.sampling.warping import Warping
from solvers.errors import InputError

GRID = np.append(np.arange(0, 1, 1 / 64), 1 - 2.0**-53)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("static", [False, True])
def test_laws_follow_exact_prefixes_round_after_round(static: bool) -> None:
    tokens, length = ragged(LENGTHS)
    drafter = ModelDrafter(MODEL, static=static)
    started(drafter, tokens, length)
    generator = torch.Generator().manual_seed(1)
    for round_ in range(5):
        uniforms = uniforms_of(5, 3, seed=round_)
        before = tokens.clone()
        proposal = drafter.propose(tokens, length, 3, uniforms, width=30 if static else int(length.max()) + 3)
        assert torch.equal(tokens, before)
        assert_exact(proposal, tokens, length, uniforms)
        # 3 of 3 is the case in which a token of the text was never fed
        kept = torch.full((5,), 3) if round_ == 1 else torch.randint(4, (5,), generator=generator)
        advance(tokens, length, proposal, kept, torch.randint(VOCAB, (5,), generator=generator))


@pytest.mark.parametrize("lengths", [[1], [2], [8], [4, 4], [1, 1]])
def test_texts_of_one_length_take_the_same_laws(lengths: list[int]) -> None:
    tokens, length = ragged(lengths)
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length)
    for round_ in range(3):
        uniforms = uniforms_of(len(lengths), 4, seed=round_)
        proposal = proposed(drafter, tokens, length, uniforms)
        assert_exact(proposal, tokens, length, uniforms)
        advance(tokens, length, proposal, torch.full_like(length, 4 - round_), torch.full_like(length, round_))


def test_tokens_have_the_frequencies_of_their_law() -> None:
    # n midpoints of [0, 1) draw a token of mass m between n m - 1 and n m + 1 times
    midpoints = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    tokens, length = ragged([4])
    tokens, length = tokens.expand(2000, -1), length.expand(2000)
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length)
    proposal = proposed(drafter, tokens, length, midpoints[:, None])
    law = MODEL(tokens[:1, :4]).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(proposal.tokens[:, 0], minlength=VOCAB)
    assert ((counts - 2000 * law).abs() <= 1 + 2000 * FLOAT32).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_every_uniform_draws_at_the_temperature(temperature: float) -> None:
    uniforms = torch.from_numpy(GRID)[:, None]
    tokens, length = ragged([3] * len(GRID))
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length, Warping(temperature=temperature))
    proposal = proposed(drafter, tokens, length, uniforms)
    assert_exact(proposal, tokens, length, uniforms, temperature=temperature)


def test_greedy_drafts_are_greedy_text_at_any_uniform() -> None:
    tokens, length = ragged(LENGTHS)
    texts = [tokens[row, :n] for row, n in enumerate(LENGTHS)]
    for _ in range(4):
        texts = [torch.cat([text, MODEL(text[None]).logits[0, -1:].argmax(-1)]) for text in texts]
    drafter = ModelDrafter(MODEL)
    for uniforms in (torch.zeros(5, 4, dtype=torch.float64), torch.full((5, 4), 1 - 2.0**-53, dtype=torch.float64)):
        started(drafter, tokens, length, Warping(temperature=0.0))
        proposal = proposed(drafter, tokens, length, uniforms)
        assert proposal.tokens.tolist() == [text[-4:].tolist() for text in texts]


def test_processors_see_the_drafted_text() -> None:
    tokens, length = ragged(LENGTHS)
    uniforms = uniforms_of(5, 4)
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length, Warping(processors=[Whole(FavourEven())], reads_text=True))
    proposal = proposed(drafter, tokens, length, uniforms)
    assert not torch.equal(proposal.logits, proposal.raw_logits)
    assert_exact(proposal, tokens, length, uniforms, processors=FavourEven())


def test_masked_tokens_are_not_drafted() -> None:
    def only_odd(text: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.arange(VOCAB) % 2 == 0, -torch.inf)

    tokens, length = ragged([5] * len(GRID))
    uniforms = torch.from_numpy(GRID)[:, None].expand(-1, 3)
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length, Warping(processors=[Whole(only_odd)]))
    proposal = proposed(drafter, tokens, length, uniforms)
    assert (proposal.tokens % 2 == 1).all()
    assert (proposal.logits[..., ::2] == -torch.inf).all()
    assert proposal.raw_logits.isfinite().all()


def test_logits_are_held_once_without_processors() -> None:
    tokens, length = ragged(LENGTHS)
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length)
    proposal = proposed(drafter, tokens, length, uniforms_of(5, 2))
    assert proposal.raw_logits is proposal.logits


def test_a_coarse_model_drafts_from_float32_laws() -> None:
    coarse = copy.deepcopy(MODEL).to(torch.bfloat16)
    tokens, length = ragged(LENGTHS)
    drafter = ModelDrafter(coarse)
    started(drafter, tokens, length)
    proposal = proposed(drafter, tokens, length, uniforms_of(5, 2))
    assert proposal.logits.dtype == proposal.raw_logits.dtype == torch.float32
    assert torch.equal(proposal.logits, proposal.logits.bfloat16().float())
    for row in range(5):
        scores = MODEL(tokens[row : row + 1, : LENGTHS[row]]).logits[0, -1]
        # a bfloat16 has 8 bits, and a layer's roundings add up
        torch.testing.assert_close(proposal.logits[row, 0], scores, rtol=0, atol=0.1)


@pytest.mark.parametrize("warping", [PLAIN, Warping(processors=[Whole(FavourEven())], reads_text=True)])
def test_a_proposal_moves_as_a_whole(warping: Warping) -> None:
    tokens, length = ragged(LENGTHS)
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length, warping)
    proposal = proposed(drafter, tokens, length, uniforms_of(5, 2))
    moved = proposal.to(torch.device("meta"))
    for before, after in ((getattr(each, name) for each in (proposal, moved)) for name in vars(proposal)):
        assert after.device.type == "meta"
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
    assert (moved.raw_logits is moved.logits) == (proposal.raw_logits is proposal.logits)
    assert torch.equal(proposal.to(torch.device("cpu")).raw_logits, proposal.raw_logits)


def test_vocabulary_is_cut_to_the_targets() -> None:
    tokens, length = ragged(LENGTHS)
    tokens = tokens % 4
    uniforms = uniforms_of(5, 3)
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length, vocab=4)
    proposal = proposed(drafter, tokens, length, uniforms)
    assert proposal.logits.shape == (5, 3, 4)
    assert_exact(proposal, tokens, length, uniforms)


@pytest.mark.parametrize("rows", [[3, 0], [4], [0, 1, 2, 3, 4]])
def test_rows_go_on_alone(rows: list[int]) -> None:
    tokens, length = ragged(LENGTHS)
    drafter = ModelDrafter(MODEL)
    started(drafter, tokens, length)
    proposal = proposed(drafter, tokens, length, uniforms_of(5, 3))
    advance(tokens, length, proposal, torch.tensor([3, 0, 1, 2, 3]), torch.zeros(5, dtype=torch.int64))
    drafter.select(torch.tensor(rows))
    tokens, length, uniforms = tokens[rows], length[rows], uniforms_of(len(rows), 3, seed=1)
    assert_exact(proposed(drafter, tokens, length, uniforms), tokens, length, uniforms)


def test_a_static_drafter_keeps_its_rows() -> None:
    drafter = ModelDrafter(MODEL, static=True)
    started(drafter, *ragged(LENGTHS))
    with pytest.raises(InputError, match="static"):
        drafter.select(torch.tensor([0]))


def test_a_drafter_starts_anew() -> None:
    used, fresh = ModelDrafter(MODEL), ModelDrafter(MODEL)
    started(
        used, *ragged([12, 7, 3], seed=5), warping=Warping(temperature=0.0, processors=[Whole(FavourEven())]), vocab=5
    )
    proposed(used, *ragged([12, 7, 3], seed=5), uniforms_of(3, 4))
    tokens, length = ragged([2, 6])
    proposals = []
    for drafter in (used, fresh):
        started(drafter, tokens, length)
        proposals.append(proposed(drafter, tokens, length, uniforms_of(2, 3)))
    assert torch.equal(proposals[0].logits, proposals[1].logits)
    assert torch.equal(proposals[0].tokens, proposals[1].tokens)
    assert used.calls == fresh.calls


@pytest.mark.parametrize("drafter", [ModelDrafter(MODEL), PromptLookup()])
def test_what_lies_beyond_a_text_has_no_influence(drafter: Drafter) -> None:
    proposals = []
    for beyond in (0, 1, VOCAB - 1):
        tokens, length = ragged(LENGTHS, beyond=beyond)
        started(drafter, tokens, length)
        proposals.append(proposed(drafter, tokens, length, uniforms_of(5, 3)))
    for other in proposals[1:]:
        assert torch.equal(proposals[0].logits, other.logits)
        assert torch.equal(proposals[0].count, other.count)


@pytest.mark.parametrize(("length", "calls"), [(1, 3), (2, 3), (3, 4), (9, 4)])
def test_forward_passes_are_counted(length: int, calls: int) -> None:
    drafter = ModelDrafter(MODEL)
    started(drafter, *ragged([length]))
    proposed(drafter, *ragged([length]), uniforms_of(1, 3))
    assert drafter.calls == calls


@pytest.mark.parametrize("drafter", [ModelDrafter(MODEL, static=True), PromptLookup()])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafting_never_waits_for_the_device(drafter: Drafter, temperature: float) -> None:
    tokens, length = ragged(LENGTHS)
    started(drafter, tokens, length, Warping(temperature=temperature))
    uniforms = uniforms_of(5, 3)
    with no_host_sync():
        drafter.propose(tokens, length, 3, uniforms, width=30)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: bool((x > 0).any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.index_put_((x > 0,), torch.tensor(1)),
        lambda x: x.numpy(),
        lambda x: x.unique(),
    ],
)
def test_the_watch_on_the_device_sees_waiting(waits: Any) -> None:
    values = torch.arange(4)
    with pytest.raises(AssertionError, match="waits for the device"), no_host_sync():
        waits(values)


def naive_lookup(text: list[int], longest: int, shortest: int, count: int) -> list[int]:
    for n in range(longest, shortest - 1, -1):
        for end in range(len(text) - 1, n - 1, -1):
            if text[end - n : end] == text[-n:]:
                return text[end : end + count]
    return []


@pytest.mark.parametrize(
    ("text", "continuation"),
    [
        ([1, 2, 3, 1, 2], [3, 1, 2]),
        ([1, 2, 3, 4, 5, 1, 2], [3, 4, 5, 1]),
        ([1, 2, 5, 3, 2, 6, 1, 2], [5, 3, 2, 6]),
        ([1, 2, 5, 1, 2, 6, 1, 2], [6, 1, 2]),
        ([4, 4], [4]),
        ([4, 5], []),
        ([4], []),
    ],
)
def test_lookup_by_hand(text: list[int], continuation: list[int]) -> None:
    tokens, length = torch.tensor([text]), torch.tensor([len(text)])
    tokens = torch.nn.functional.pad(tokens, (0, 4))
    drafter = PromptLookup()
    started(drafter, tokens, length)
    proposal = proposed(drafter, tokens, length, uniforms_of(1, 4))
    assert proposal.tokens[0, : proposal.count[0]].tolist() == continuation
    assert naive_lookup(text, 3, 1, 4) == continuation


@pytest.mark.parametrize(("longest", "shortest"), [(1, 1), (2, 1), (3, 1), (3, 2), (4, 4), (20, 1)])
@pytest.mark.parametrize("alphabet", [2, 3, VOCAB])
def test_lookup_is_the_naive_one(longest: int, shortest: int, alphabet: int) -> None:
    drafter = PromptLookup(longest, shortest)
    generator = torch.Generator().manual_seed(alphabet)
    counts = []
    for count in (1, 2, 5):
        tokens = torch.randint(alphabet, (300, 16 + count), generator=generator)
        length = torch.randint(1, 17, (300,), generator=generator)
        started(drafter, tokens, length)
        proposal = proposed(drafter, tokens, length, uniforms_of(300, count))
        for row in range(300):
            wanted = naive_lookup(tokens[row, : length[row]].tolist(), longest, shortest, count)
            assert proposal.count[row] == len(wanted)
            assert proposal.tokens[row, : len(wanted)].tolist() == wanted
        one_hot = torch.nn.functional.one_hot(proposal.tokens, VOCAB).float()
        assert torch.equal((proposal.logits / 0.5).softmax(-1), one_hot)
        counts += proposal.count.tolist()
    # texts of all lengths without and, but for the longest n-grams, with an occurrence
    assert min(counts) == 0
    assert max(counts) > 0


@pytest.mark.parametrize(("longest", "shortest"), [(0, 0), (2, 0), (1, 2)])
def test_lengths_out_of_order_are_refused(longest: int, shortest: int) -> None:
    with pytest.raises(InputError, match="longest >= shortest >= 1"):
        PromptLookup(longest, shortest)
