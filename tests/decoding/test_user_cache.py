"""The caller's cache after a call is what the target's own generate leaves, so that a chat can go on."""

from typing import Any

import pytest
import torch
from tiny import DRAFT, TARGET
from transformers import DynamicCache, QuantizedCache, StaticCache

import decoding
from decoding import MultiDraft, PromptLookup
from decoding.drafting import ModelDrafter
from solvers.errors import InputError

TURNS = [[1, 3], [4, 1], [2, 2, 3]]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}


def fresh(kind: str) -> Any:
    return (
        DynamicCache(config=TARGET.config) if kind == "dynamic" else StaticCache(config=TARGET.config, max_cache_len=32)
    )


def assert_same_columns(cache: Any, own: Any, hidden: torch.Tensor | None = None) -> None:
    """Keys and values agree where `hidden [batch, columns]` is not set."""
    length = int(own.get_seq_length())
    assert int(cache.get_seq_length()) == length
    for layer, expected in zip(cache.layers, own.layers, strict=True):
        for name in ("keys", "values"):
            mine, others = (getattr(each, name)[:, :, :length].clone() for each in (layer, expected))
            if hidden is not None:
                mine[hidden[:, None, :, None].expand_as(mine)] = 0
                others[hidden[:, None, :, None].expand_as(others)] = 0
            torch.testing.assert_close(mine, others, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("draft", [DRAFT, PromptLookup(), TARGET], ids=["model", "lookup", "itself"])
def test_a_chat_goes_on_from_its_cache(kind, draft):
    ours, own = fresh(kind), fresh(kind)
    text = torch.empty(1, 0, dtype=torch.int64)
    for turn in TURNS:
        text = torch.cat([text, torch.tensor([turn])], dim=1)
        # token 0 is padding, and the models write it too
        arguments: dict[str, Any] = GREEDY | {"attention_mask": torch.ones_like(text)}
        expected = TARGET.generate(text, past_key_values=own, **arguments)
        output = decoding.generate(text, target=TARGET, draft=draft, past_key_values=ours, **arguments)
        assert torch.equal(output.sequences, expected)
        assert output.past_key_values is ours
        assert_same_columns(ours, own)
        text = output.sequences


def test_the_text_a_cache_knows_is_not_read_again():
    cache = fresh("dynamic")
    text = decoding.generate(
        torch.tensor([[1, 3, 2, 2]]), target=TARGET, draft=DRAFT, past_key_values=cache, **GREEDY
    ).sequences
    calls = []
    hook = TARGET.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        more = torch.cat([text, torch.tensor([[4, 1]])], dim=1)
        mask = torch.ones_like(more)
        decoding.generate(more, target=TARGET, draft=DRAFT, attention_mask=mask, past_key_values=cache, **GREEDY)
    finally:
        hook.remove()
    assert calls[0] == 2  # the last token of the answer and the first of the turn; the second comes with the block


def test_without_the_statistics_it_is_filled_too():
    cache, own = fresh("dynamic"), fresh("dynamic")
    prompt = torch.tensor([[1, 3]])
    expected = TARGET.generate(prompt, past_key_values=own, **GREEDY)
    sequences = TARGET.generate(
        prompt, custom_generate=decoding.speculative, draft=DRAFT, past_key_values=cache, **GREEDY
    )
    assert torch.equal(sequences, expected)
    assert_same_columns(cache, own)
    assert decoding.generate(prompt, target=TARGET, draft=DRAFT, **GREEDY).past_key_values is None


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_padded_batch_whose_rows_end_at_different_times(kind):
    prompt = torch.tensor([[1, 3, 2, 4], [0, 0, 4, 3], [0, 2, 2, 1]])
    mask = torch.tensor([[1] * 4, [0, 0, 1, 1], [0, 1, 1, 1]])
    arguments = GREEDY | {"max_new_tokens": 9, "eos_token_id": 4, "attention_mask": mask}
    own, ours = fresh(kind), fresh(kind)
    expected = TARGET.generate(prompt, past_key_values=own, **arguments)
    ended = (expected[:, 4:] == 4).any(dim=1)
    assert ended.any()
    assert not ended.all()  # padding was written behind some text
    for draft in (DRAFT, ModelDrafter(TARGET)):
        ours = fresh(kind)
        output = decoding.generate(prompt, target=TARGET, draft=draft, past_key_values=ours, **arguments)
        assert torch.equal(output.sequences, expected)
        hidden = torch.nn.functional.pad(mask == 0, (0, expected.shape[1] - 5))
        assert_same_columns(ours, own, hidden)


def test_several_drafts_fill_it_with_the_text_they_agreed_on():
    prompt, ours, own = torch.tensor([[1, 3]]), fresh("dynamic"), fresh("dynamic")
    output = decoding.generate(prompt, target=TARGET, draft=MultiDraft(DRAFT, drafts=3), past_key_values=ours, **GREEDY)
    assert torch.equal(TARGET.generate(prompt, past_key_values=own, **GREEDY), output.sequences)
    assert_same_columns(ours, own)


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        (lambda: DynamicCache(offloading=True), "past_key_values: expected a DynamicCache or StaticCache on the model"),
        (lambda: StaticCache(config=TARGET.config, max_cache_len=6), "expected room for 7 columns; got a .* of 6"),
        (lambda: [], "past_key_values: expected a DynamicCache or StaticCache; got list"),
    ],
)
def test_a_cache_that_cannot_be_filled_is_refused(cache, said):
    with pytest.raises(InputError, match=said):
        decoding.generate(torch.tensor([[1, 3]]), target=TARGET, draft=DRAFT, past_key_values=cache(), **GREEDY)


def test_a_quantized_cache_is_refused():
    cache = object.__new__(QuantizedCache)  # its back ends are not installed
    cache.layers, cache.offloading = [], False
    with pytest.raises(InputError, match="on the model's device; got QuantizedCache"):
        decoding.generate(torch.tensor([[1, 3]]), target=TARGET, draft=DRAFT, past_key_values=cache, **GREEDY)


def test_new_tokens_alone_are_refused():
    cache = fresh("dynamic")
    text = decoding.generate(
        torch.tensor([[1, 3]]), target=TARGET, draft=DRAFT, past_key_values=cache, **GREEDY
    ).sequences
    with pytest.raises(InputError, match="past_key_values: expected at most the 2 columns .* got 7; give whole texts"):
        decoding.generate(torch.tensor([[4, 1]]), target=TARGET, draft=DRAFT, past_key_values=cache, **GREEDY)
    mask = torch.ones(1, text.shape[1] + 2, dtype=torch.int64)
    with pytest.raises(InputError, match="one entry for each of the 2 tokens of input_ids; got 10; give whole texts"):
        TARGET.generate(
            torch.tensor([[4, 1]]),
            attention_mask=mask,
            custom_generate=decoding.speculative,
            draft=DRAFT,
            past_key_values=cache,
            **GREEDY,
        )
