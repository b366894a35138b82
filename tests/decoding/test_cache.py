import copy
from typing import Any

import pytest
import torch
import transformers as hf
from cached_models import CAPACITY, EVERY_FAMILY, VOCAB, WINDOW, alone, ragged_rounds, texts, tiny
from torch import Tensor

from decoding.models.cached_model import BUCKET, CachedModel
from decoding.models.ragged_cache import RaggedCache
from solvers.errors import InputError


@pytest.mark.parametrize(("name", "attention"), EVERY_FAMILY)
@pytest.mark.parametrize("static", [False, True])
def test_ragged_rounds_are_the_uncached_model(name: str, attention: str, static: bool):
    model = tiny(name, attention)
    cached = CachedModel(model, "target", batch=3, capacity=CAPACITY, static=static)
    for logits, expected in ragged_rounds(model, cached):
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=2e-5)
    assert cached.calls == 6


@pytest.mark.parametrize(("name", "attention"), EVERY_FAMILY)
def test_one_row_from_a_common_column(name: str, attention: str):
    model = tiny(name, attention)
    text = texts(2, 20)
    expected = torch.stack([alone(model, row) for row in text])
    cached = CachedModel(model, "target", batch=2, capacity=20)
    start = 0
    # a first token alone, one by one, in blocks, and back to an earlier column
    for count, back in ((1, 0), (1, 0), (9, 4), (1, 0), (5, 1), (8, 0)):
        columns = torch.arange(start, start + count).expand(2, count)
        logits = cached.feed(text[:, start : start + count], columns, width=start + count, keep=count, start=start)
        torch.testing.assert_close(logits, expected[:, start : start + count], atol=2e-5, rtol=2e-5)
        start += count - back
    assert start == 20


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "mistral"])
def test_bfloat16_stays_bfloat16(name: str):
    model = copy.deepcopy(tiny(name)).to(torch.bfloat16)
    cached = CachedModel(model, "target", batch=3, capacity=CAPACITY)
    for logits, expected in ragged_rounds(model, cached):
        assert logits.dtype == torch.bfloat16
        # 8 bits of mantissa, a few of which two layers lose
        assert (logits - expected).abs().max() < 0.06 * expected.abs().max()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("garbage", [1e4, -1e4, 1e30])
def test_stale_columns_have_no_influence(attention: str, garbage: float):
    model = tiny("llama", attention)
    logits = []
    for poisoned in (False, True):
        cached = CachedModel(model, "target", batch=2, capacity=CAPACITY, static=True)
        text = texts(2, 12)
        cached.feed(text, torch.arange(12).expand(2, 12), width=12, keep=1, start=0)
        if poisoned:
            # row 0 is rewound to 3 tokens, row 1 to 8
            for keys, values in buffers(cached):
                for row, length in ((0, 3), (1, 8)):
                    keys[row, :, length:], values[row, :, length:] = garbage, -garbage
        columns = torch.tensor([[3, 4], [8, 9]])
        logits.append(cached.feed(texts(2, 2, seed=3), columns, width=20, keep=2))
    assert torch.equal(*logits)


def buffers(cached: CachedModel) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cached._cache._buffers.values()]


def test_rows_are_independent_even_of_nan():
    model = tiny("gpt_neox")
    logits = []
    for poisoned in (False, True):
        cached = CachedModel(model, "target", batch=3, capacity=CAPACITY)
        cached.feed(texts(3, 8), torch.arange(8).expand(3, 8), width=8, keep=1, start=0)
        for keys, values in buffers(cached):
            if poisoned:
                keys[1], values[1] = torch.nan, torch.nan
        columns = torch.tensor([[8, 9], [5, 6], [2, 3]])
        logits.append(cached.feed(texts(3, 2, seed=4), columns, width=10, keep=2))
    clean, poisoned = logits
    assert poisoned[1].isnan().all()
    assert torch.equal(clean[[0, 2]], poisoned[[0, 2]])


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gemma3"])
def test_growing_is_static(name: str):
    rounds = []
    for static in (False, True):
        cached = CachedModel(tiny(name), "target", batch=3, capacity=CAPACITY, static=static)
        rounds.append([logits for logits, _ in ragged_rounds(tiny(name), cached)])
    for growing, static in zip(*rounds, strict=True):
        torch.testing.assert_close(growing, static, atol=1e-6, rtol=1e-6)


def test_a_masked_wide_static_feed_is_a_narrow_one():
    cached = CachedModel(tiny("llama"), "target", batch=2, capacity=CAPACITY, static=True)
    text = texts(2, 9)
    cached.feed(text[:, :5], torch.arange(5).expand(2, 5), width=CAPACITY, keep=1, start=0)
    logits = cached.feed(text[:, 5:], torch.arange(5, 9).expand(2, 4), width=CAPACITY, keep=4)
    expected = torch.stack([alone(tiny("llama"), row)[5:] for row in text])
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=2e-5)


def test_a_column_may_be_fed_twice_and_hides_the_next():
    model = tiny("gpt_neox")
    cached = CachedModel(model, "draft", batch=2, capacity=CAPACITY)
    first, second = texts(2, 2, seed=6)
    logits = cached.feed(torch.stack([first[[0, 0]], second]), torch.tensor([[0, 0], [0, 1]]), width=2, keep=2)
    torch.testing.assert_close(logits[0], alone(model, first[:1]).expand(2, VOCAB), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(logits[1], alone(model, second), atol=2e-5, rtol=2e-5)


def test_buffers_double_up_to_the_capacity():
    cached = CachedModel(tiny("gpt_neox"), "draft", batch=1, capacity=CAPACITY)
    sizes = []
    for column in range(CAPACITY):
        at = torch.tensor([[column]])
        cached.feed(at % VOCAB, at, width=column + 1, keep=1, start=column)
        sizes.append(buffers(cached)[0][0].shape[2])
    assert sorted(set(sizes)) == [1, 2, 4, 8, 16, 32, CAPACITY]


def test_static_buffers_never_move():
    cached = CachedModel(tiny("gpt_neox"), "draft", batch=1, capacity=CAPACITY, static=True)
    addresses = set()
    for column in range(CAPACITY):
        at = torch.tensor([[column]])
        cached.feed(at, at, width=column + 1, keep=1)
        addresses.add(tuple(tensor.data_ptr() for pair in buffers(cached) for tensor in pair))
    assert len(addresses) == 1
    # what a model asks before it leaves out a mask
    assert cached._cache.is_compileable
    assert all(tensor.shape[2] == BUCKET for pair in buffers(cached) for tensor in pair)


def test_the_layers_store_what_a_dictionary_would():
    generator = torch.Generator().manual_seed(5)
    ragged = RaggedCache(capacity=30, static=False)
    stored: list[dict[int, tuple[Tensor, Tensor]]] = [{}, {}, {}]
    for width in (4, 5, 9, 30):
        columns = torch.stack([torch.randperm(width, generator=generator)[:3] for _ in range(3)])
        # keys and values of different widths, heads split as models split them
        keys = torch.randn(3, 3, 2, 4, generator=generator).transpose(1, 2)
        values = torch.randn(3, 3, 2, 6, generator=generator).transpose(1, 2)
        ragged.place(columns, width=width, start=None)
        seen = ragged.update(keys, values, 0)
        for row in range(3):
            for n in range(3):
                stored[row][int(columns[row, n])] = keys[row, :, n], values[row, :, n]
            for column, (key, value) in stored[row].items():
                assert torch.equal(seen[0][row, :, column], key)
                assert torch.equal(seen[1][row, :, column], value)
    assert seen[0].shape == (3, 2, 30, 4)
    assert seen[1].shape == (3, 2, 30, 6)
    assert torch.equal(seen[0][1, :, min(set(range(30)) - set(stored[1]))], torch.zeros(2, 4))


def fed_alike(cached: CachedModel, text: Tensor) -> None:
    columns = torch.arange(text.shape[1]).expand(text.shape)
    cached.feed(text, columns, width=text.shape[1], keep=1, start=0)


def continued(cached: CachedModel, rows: list[Tensor], seen: list[int]) -> None:
    """Feed each row's tokens from column `seen` on and compare with the model alone; as many for every row."""
    fresh = torch.stack([row[start:] for row, start in zip(rows, seen, strict=True)])
    columns = torch.tensor(seen)[:, None] + torch.arange(fresh.shape[1])
    logits = cached.feed(fresh, columns, width=int(columns.max()) + 1, keep=fresh.shape[1])
    expected = torch.stack([alone(cached.model, row)[start:] for row, start in zip(rows, seen, strict=True)])
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["gpt_neox", "gemma3"])
def test_select_keeps_rows_in_order(name: str):
    cached = CachedModel(tiny(name), "target", batch=4, capacity=CAPACITY)
    text = texts(4, 12)
    fed_alike(cached, text[:, :8])
    cached.select(torch.tensor([3, 1]))
    continued(cached, [text[3, :10], text[1, :7]], [8, 5])
    cached.select(torch.tensor([1]))
    continued(cached, [text[1, :12]], [7])


def test_sharing_gives_the_group_its_winner():
    cached = CachedModel(tiny("llama"), "target", batch=6, capacity=CAPACITY)
    text = texts(2, 6)
    fed_alike(cached, text.repeat_interleave(3, 0))
    drafts = texts(6, 4, seed=8)
    prefixes = [text[row // 3, : 6 if row < 3 else 4] for row in range(6)]
    chains = [torch.cat([prefix, draft]) for prefix, draft in zip(prefixes, drafts, strict=True)]
    continued(cached, chains, [6, 6, 6, 4, 4, 4])
    cached.share(torch.tensor([2, 1]), torch.tensor([[6, 7, 8, 9], [4, 5, 6, 7]]))
    winners = [chains[2]] * 3 + [chains[4]] * 3
    after = [torch.cat([winner, more]) for winner, more in zip(winners, texts(6, 2, seed=9), strict=True)]
    continued(cached, after, [10, 10, 10, 8, 8, 8])


def left_padded(model: Any, past: Any, text: Tensor, pad: list[int]) -> None:
    """Fill a user's cache as `generate` does: padding first, positions from the first real token."""
    mask = torch.stack([(torch.arange(text.shape[1]) >= count).long() for count in pad])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        model(text, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True)


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2", "opt"])
@pytest.mark.parametrize("pad", [[0, 0, 0], [3, 0, 5]])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("static", [False, True])
def test_load_continues_a_users_cache(name: str, pad: list[int], kind: str, static: bool):
    model, text = tiny(name), texts(3, 10)
    past = hf.DynamicCache() if kind == "dynamic" else hf.StaticCache(config=model.config, max_cache_len=17)
    left_padded(model, past, text[:, :8], pad)
    cached = CachedModel(model, "target", batch=3, capacity=CAPACITY, static=static)
    assert cached.load(past, torch.tensor(pad)) == 8
    assert {tensor.shape[2] for pair in buffers(cached) for tensor in pair} == {BUCKET if static else 8}
    continued(cached, [row[count:] for row, count in zip(text, pad, strict=True)], [8 - count for count in pad])


def test_load_of_an_empty_cache_is_a_fresh_start():
    cached = CachedModel(tiny("llama"), "target", batch=1, capacity=CAPACITY)
    for empty in (hf.DynamicCache(), hf.DynamicCache(config=tiny("llama").config)):
        assert cached.load(empty, torch.tensor([0])) == 0
    text = texts(1, 5)
    continued(cached, [text[0]], [0])


def test_load_of_a_sliding_cache_that_has_dropped_nothing():
    model, text = tiny("mistral"), texts(1, 9)
    past = hf.DynamicCache(config=model.config)
    left_padded(model, past, text[:, : WINDOW - 1], [0])
    cached = CachedModel(model, "target", batch=1, capacity=CAPACITY)
    assert cached.load(past, torch.tensor([0])) == WINDOW - 1
    continued(cached, [text[0]], [WINDOW - 1])


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_load_refuses_a_sliding_cache_that_has_dropped_columns(kind: str):
    model = tiny("mistral")
    config = model.config
    past = hf.DynamicCache(config=config) if kind == "dynamic" else hf.StaticCache(config=config, max_cache_len=17)
    left_padded(model, past, texts(1, WINDOW + 1), [0])
    with pytest.raises(InputError, match=rf"all {WINDOW + 1} columns.*layer 0, a .*Sliding"):
        CachedModel(model, "target", batch=1, capacity=CAPACITY).load(past, torch.tensor([0]))


def test_load_refuses_what_does_not_fit():
    model = tiny("llama")
    past = hf.DynamicCache()
    left_padded(model, past, texts(2, 8), [0, 0])
    cases = [(past, 3, 40, [0, 0]), (past, 2, 7, [0, 0]), (past, 2, 40, [0])]
    for wrong, batch, capacity, pad in cases:
        with pytest.raises(InputError, match=rf"{batch} rows of at most {capacity} columns.*got 2 rows of 8"):
            CachedModel(model, "target", batch=batch, capacity=capacity).load(wrong, torch.tensor(pad))
    layer: Any = past.layers[1]
    holding = layer.keys
    # as a layer that shares another's keys, and one that has packed them
    for keys in (None, torch.tensor([])):
        layer.keys = keys
        with pytest.raises(InputError, match="holds all 8 columns.*layer 1, a DynamicLayer, does not"):
            CachedModel(model, "target", batch=2, capacity=40).load(past, torch.tensor([0, 0]))
    layer.keys = holding
    both = hf.EncoderDecoderCache(hf.DynamicCache(), hf.DynamicCache())
    for wrong, name in ((both, "EncoderDecoderCache"), (((),), "tuple")):
        with pytest.raises(InputError, match=f"DynamicCache or StaticCache; got {name}"):
            CachedModel(model, "target", batch=2, capacity=40).load(wrong, torch.tensor([0, 0]))
    past.offloading = True
    with pytest.raises(InputError, match="offloaded"):
        CachedModel(model, "target", batch=2, capacity=40).load(past, torch.tensor([0, 0]))
