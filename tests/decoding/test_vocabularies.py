"""A target keeps all of its tokens, whatever the draft knows of them."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny import FALSE_ALARM, chi_square_p_value, law_after, tiny_model
from torch import Tensor

import decoding
from decoding.drafting import MultiDraft
from decoding.evaluation.positions.collect import raw_logits
from decoding.huggingface.pair import Pair
from solvers.errors import InputError
from tradeoff.rules import BlockVerification, CommonPrice, LogitComparison, SpeculativeSampling

KNOWN, TOKENS = 40, 42
"""Tokens of the draft and of the target."""

END = TOKENS - 1


def resized(model: Any, vocab: int, fill: float | None = None) -> Any:
    """The same model with other tokens at the end of its vocabulary; new ones random, or all `fill`."""
    config = copy.deepcopy(model.config)
    config.vocab_size = vocab
    torch.manual_seed(0)
    other = type(model)(config).eval()
    old = model.state_dict()
    with torch.no_grad():
        for name, values in other.state_dict().items():
            rows = slice(min(len(values), len(old[name])))
            if fill is not None:
                values.fill_(fill)
            values[rows] = old[name][rows]
    return other


TARGET = tiny_model(28, TOKENS)
DRAFT = resized(TARGET, KNOWN)


def ending(model: Any) -> Any:
    """The model, its last token often the likeliest."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight[END] *= 3
    return other


def test_an_end_token_that_the_draft_lacks_ends_the_text_as_in_the_targets_own():
    target = ending(TARGET)
    prompts = torch.randint(KNOWN, (8, 4), generator=torch.Generator().manual_seed(0))
    arguments: dict[str, Any] = {
        "attention_mask": torch.ones_like(prompts),
        "do_sample": False,
        "max_new_tokens": 12,
        "eos_token_id": END,
        "pad_token_id": 0,
    }
    own = target.generate(prompts, **arguments)
    assert 0 < int((own == END).sum()) < own.numel() // 2
    for kind in ("dynamic", "static"):
        output = decoding.generate(prompts, target=target, draft=DRAFT, cache_implementation=kind, **arguments)
        assert torch.equal(output.sequences, own)


@pytest.mark.parametrize("draft", [DRAFT, MultiDraft(DRAFT, drafts=2)])
def test_tokens_that_the_draft_lacks_may_stand_in_the_prompt(draft: Any):
    prompt = torch.tensor([[END, 5, TOKENS - 2, 7, END]])
    arguments = {"do_sample": False, "max_new_tokens": 12}
    own = TARGET.generate(prompt, **arguments)
    assert torch.equal(decoding.generate(prompt, target=TARGET, draft=draft, **arguments).sequences, own)


def joint(first: Tensor, second: Tensor) -> np.ndarray:
    return (first[:, None] * second).detach().numpy()


@pytest.mark.parametrize("rule", [SpeculativeSampling(), BlockVerification()])
@pytest.mark.parametrize("width", [KNOWN, TOKENS + 2])
def test_the_law_of_the_text_is_the_targets_over_all_its_tokens(rule: Any, width: int):
    target = tiny_model(28, TOKENS)
    # beyond the target's vocabulary the draft has tokens likelier than any other: they must not be drawn
    draft = resized(target, width, fill=None if width < TOKENS else 100.0)
    prompts = torch.tensor([[1, END]]).repeat(4000, 1)
    output = decoding.generate(
        prompts,
        target=target,
        draft=draft,
        attention_mask=torch.ones_like(prompts),
        rule=rule,
        generator=torch.Generator().manual_seed(0),
        do_sample=True,
        top_k=0,
        max_new_tokens=2,
        account="counts",
    )
    laws = [law_after(target, torch.tensor([[1, END, first]])) for first in range(TOKENS)]
    law = joint(law_after(target, prompts[:1])[0], torch.cat(laws))
    written = output.sequences[:, 2] * TOKENS + output.sequences[:, 3]
    counts = torch.bincount(written, minlength=TOKENS**2).numpy()
    assert (output.sequences[:, 2:] >= KNOWN).any()
    assert chi_square_p_value(counts, law) > FALSE_ALARM


@pytest.mark.parametrize("rule", [CommonPrice(price=0.5), LogitComparison(), SpeculativeSampling()])
def test_equal_vocabularies_and_padding_of_the_draft_write_one_text_without_a_word(rule: Any):
    prompt = torch.tensor([[1, 3]])

    def run(draft: Any) -> Tensor:
        seed = torch.Generator().manual_seed(0)
        return decoding.generate(
            prompt, target=TARGET, draft=draft, rule=rule, generator=seed, do_sample=True, max_new_tokens=20, top_k=0
        ).sequences

    draft = tiny_model(2, TOKENS)
    assert torch.equal(run(resized(draft, TOKENS + 1, fill=100.0)), run(draft))


@pytest.mark.parametrize("sampled", [False, True])
def test_where_only_tokens_that_the_draft_lacks_are_allowed_they_are_written(sampled: bool):
    def masked(input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.arange(TOKENS) < KNOWN, -torch.inf)

    output = decoding.generate(
        torch.tensor([[1, 3]]),
        target=TARGET,
        draft=DRAFT,
        logits_processor=[masked],
        do_sample=sampled,
        top_k=0,
        max_new_tokens=8,
    )
    assert (output.sequences[0, 2:] >= KNOWN).all()
    if not sampled:
        own = TARGET.generate(torch.tensor([[1, 3]]), logits_processor=[masked], do_sample=False, max_new_tokens=8)
        assert torch.equal(output.sequences, own)


def test_the_exact_account_gives_the_draft_no_mass_there():
    prompt = torch.tensor([[1, 3]])
    output = decoding.generate(prompt, target=TARGET, draft=DRAFT, do_sample=False, max_new_tokens=1, top_k=0)
    sampled = decoding.generate(
        prompt,
        target=TARGET,
        draft=DRAFT,
        generator=torch.Generator().manual_seed(0),
        do_sample=True,
        max_new_tokens=1,
        top_k=0,
    )
    draft = torch.nn.functional.pad(law_after(DRAFT, prompt), (0, TOKENS - KNOWN))
    expected = float((law_after(TARGET, prompt) - draft).clamp(min=0).sum())
    np.testing.assert_allclose(sampled.statistics.rejection, [expected], atol=1e-6)
    assert output.statistics.generated == 1


def test_positions_are_over_the_targets_tokens():
    text = torch.tensor([[1, END, 3, 5, END, 7]])
    pair = Pair(target=TARGET, draft=DRAFT, tokenizer=None, name="")
    draft, target = raw_logits(pair, text, 2)
    assert draft.shape == target.shape == (4, TOKENS)
    assert torch.equal(target, TARGET(text[:, :-1]).logits[0, 1:])
    assert not draft.softmax(-1)[:, KNOWN:].any()


def test_unlike_vocabularies_are_refused():
    with pytest.raises(InputError, match="expected one vocabulary; got 42 tokens in the target and 39 in the draft"):
        decoding.generate(torch.tensor([[1]]), target=TARGET, draft=tiny_model(2, 39), max_new_tokens=2)
