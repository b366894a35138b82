from typing import Any

import pytest
import torch
import transformers as hf
from cached_models import CAPACITY, CONFIGS, VOCAB, alone, ragged_rounds, texts, tiny
from host_sync import no_host_sync
from torch._dynamo.testing import CompileCounter

from decoding.models.cached_model import BUCKET, CachedModel
from solvers.errors import InputError


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2", "mistral", "gemma3"])
def test_nothing_synchronises(name: str, attention: str):
    cached = CachedModel(tiny(name, attention), "target", batch=4, capacity=CAPACITY, static=True)
    with no_host_sync():
        cached.feed(texts(4, 8), torch.arange(8).expand(4, 8), width=CAPACITY, keep=1, start=0)
        columns = torch.tensor([[8, 9, 10], [5, 6, 7], [3, 4, 5], [8, 9, 10]])
        cached.feed(texts(4, 3), columns, width=CAPACITY, keep=3)
        cached.share(torch.tensor([1, 0]), columns[[0, 2]])


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2", "mistral", "gemma3"])
def test_nothing_reads_a_tensor_back(name: str):
    # a meta tensor has no values: whatever asks for one fails
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval().to("meta")
    cached = CachedModel(model, "target", batch=2, capacity=CAPACITY, static=True)
    columns = torch.empty(2, 3, dtype=torch.int64, device="meta")
    for _ in range(2):
        assert cached.feed(columns, columns, width=CAPACITY, keep=2).shape == (2, 2, VOCAB)
    cached.share(columns[:1, 0], columns[:1])


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_a_static_model_compiles_to_one_graph(name: str):
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    model.load_state_dict(tiny(name).state_dict())
    cached = CachedModel(model, "target", batch=2, capacity=CAPACITY, static=True)
    text = texts(2, 12)
    cached.feed(text[:, :3], torch.arange(3).expand(2, 3), width=3, keep=1, start=0)
    counter = CompileCounter()
    torch._dynamo.reset()
    model.compile(backend=counter, fullgraph=True)
    for first in ((3, 3), (5, 4), (7, 7)):
        columns = torch.tensor(first)[:, None] + torch.arange(3)
        logits = cached.feed(text.gather(1, columns), columns, width=CAPACITY, keep=3)
        expected = torch.stack([alone(tiny(name), text[row])[first[row] :][:3] for row in range(2)])
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=2e-5)
    assert counter.frame_count == 1


def test_gradients_are_not_recorded():
    cached = CachedModel(tiny("llama"), "target", batch=1, capacity=CAPACITY)
    at = torch.tensor([[0]])
    assert not cached.feed(at, at, width=1, keep=1).requires_grad
    assert not cached._cache._buffers[0].keys.requires_grad


def test_the_head_runs_on_kept_tokens_only():
    model, shapes = tiny("gpt_neox"), []
    handle = model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    cached = CachedModel(model, "target", batch=2, capacity=CAPACITY)
    cached.feed(texts(2, 9), torch.arange(9).expand(2, 9), width=9, keep=2, start=0)
    handle.remove()
    assert shapes == [(2, 2, VOCAB)]


def test_plainly_causal_feeds_have_no_mask():
    model, masks = tiny("gpt_neox"), []
    handle = model.register_forward_pre_hook(
        lambda module, positional, named: masks.append(named["attention_mask"]), with_kwargs=True
    )
    cached = CachedModel(model, "target", batch=2, capacity=CAPACITY)
    cached.feed(texts(2, 9), torch.arange(9).expand(2, 9), width=9, keep=1, start=0)
    cached.feed(texts(2, 2), torch.arange(9, 11).expand(2, 2), width=11, keep=1, start=9)
    cached.feed(texts(2, 1), torch.tensor([[11], [11]]), width=12, keep=1, start=11)
    handle.remove()
    assert masks[0] is None
    assert masks[2] is None
    # one mask for rows that share their columns
    assert masks[1].shape == (1, 1, 2, 11)


class WithoutKeep(hf.GPTNeoXForCausalLM):
    """A forward that always computes every logit."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Any,
        attention_mask: Any,
        position_ids: Any,
        past_key_values: Any,
        use_cache: Any,
        return_dict: Any,
    ) -> Any:
        """Forward without logits_to_keep."""
        return super().forward(input_ids, attention_mask, position_ids, None, past_key_values, use_cache=use_cache)


def test_a_model_that_computes_every_logit_is_cut():
    model = WithoutKeep(tiny("gpt_neox").config).eval()
    model.load_state_dict(tiny("gpt_neox").state_dict())
    text = texts(1, 9)
    logits = CachedModel(model, "target", batch=1, capacity=9).feed(
        text, torch.arange(9)[None], width=9, keep=2, start=0
    )
    torch.testing.assert_close(logits[0], alone(tiny("gpt_neox"), text[0])[-2:], atol=2e-5, rtol=2e-5)


def test_the_capacity_is_checked_before_the_model_runs():
    cached = CachedModel(tiny("llama"), "draft", batch=1, capacity=4)
    text, columns = texts(1, 5), torch.arange(5)[None]
    for width, start in ((5, 0), (5, None), (4, 0), (4, 2), (4, -1)):
        with pytest.raises(InputError, match="draft model: expected columns within.*capacity of 4.*longest text"):
            cached.feed(text, columns, width=width, keep=1, start=start)
    assert cached.calls == 0
    assert not cached._cache._buffers


def test_a_static_cache_has_whole_buckets_and_sees_whole_buckets():
    cached = CachedModel(tiny("llama"), "draft", batch=1, capacity=BUCKET + 1, static=True)
    assert cached.capacity == 2 * BUCKET
    assert [cached.width(columns) for columns in (1, BUCKET, BUCKET + 1)] == [BUCKET, BUCKET, 2 * BUCKET]
    text, columns = texts(1, 1), torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(InputError, match=f"capacity of {2 * BUCKET}"):
        cached.feed(text, columns, width=2 * BUCKET + 1, keep=1)


def test_shapes_are_checked():
    cached = CachedModel(tiny("llama"), "draft", batch=2, capacity=9)
    columns = torch.arange(3).expand(2, 3)
    for tokens, at, keep in ((columns, columns, 0), (columns, columns, 4), (columns[:1], columns[:1], 1)):
        with pytest.raises(InputError, match=r"feed: expected tokens and columns \[2, n\]"):
            cached.feed(tokens, at, width=9, keep=keep)
    with pytest.raises(InputError, match="feed: expected"):
        cached.feed(columns, columns[:, :2], width=9, keep=1)
    cached = CachedModel(tiny("llama"), "draft", batch=3, capacity=9)
    for groups in (2, 4):
        with pytest.raises(InputError, match="share: expected equal groups of the 3 rows"):
            cached.share(torch.zeros(groups, dtype=torch.int64), torch.zeros(groups, 1, dtype=torch.int64))
    with pytest.raises(InputError, match="share: expected equal groups of the 3 rows"):
        cached.share(torch.zeros(3, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))


def test_a_static_cache_does_not_move():
    cached = CachedModel(tiny("llama"), "draft", batch=2, capacity=9, static=True)
    with pytest.raises(InputError, match="select: expected a cache that may move.*static=False"):
        cached.select(torch.tensor([0]))


SMALL: dict[str, Any] = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
REFUSED = [
    (hf.BloomConfig(**SMALL), "without position_ids"),
    (hf.MptConfig(vocab_size=11, d_model=16, n_layers=1, n_heads=2), "without position_ids"),
    (hf.MambaConfig(**SMALL, state_size=2), "without position_ids"),
    (hf.JambaConfig(**SMALL, intermediate_size=16, num_key_value_heads=2, use_mamba_kernels=False), "layers"),
    (hf.Qwen2Config(**SMALL, layer_types=["full_attention", "chunked_attention"]), "with chunked_attention layers"),
    (hf.BertConfig(**SMALL, intermediate_size=16), "attends to later tokens"),
    (hf.Gemma3TextConfig(**SMALL, head_dim=8, use_bidirectional_attention=True), "attends to later tokens"),
    (hf.FalconConfig(**SMALL, alibi=True), "derives positions otherwise"),
    (
        hf.GPTNeoConfig(
            vocab_size=11, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
        ),
        "derives positions otherwise",
    ),
]


@pytest.mark.parametrize(("config", "reason"), REFUSED, ids=lambda value: getattr(value, "model_type", None))
def test_other_architectures_are_refused_by_name(config: Any, reason: str):
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match=f"draft model: expected .*got {type(model).__name__}.*{reason}"):
        CachedModel(model, "draft", batch=1, capacity=8)


def test_encoder_decoders_and_other_objects_are_refused():
    with torch.device("meta"):
        model = hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=11, d_model=16, d_ff=16, num_layers=1, num_heads=2)
        )
    for wrong in (model, torch.nn.Linear(2, 2)):
        with pytest.raises(InputError, match=f"attention layers only; got {type(wrong).__name__}; choose a decoder"):
            CachedModel(wrong, "target", batch=1, capacity=8)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_attention_without_an_explicit_mask_is_refused(attention: str):
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    model.config._attn_implementation = attention
    with pytest.raises(InputError, match=f"{attention}.*attn_implementation=.sdpa"):
        CachedModel(model, "target", batch=1, capacity=8)


def test_recurrent_models_are_refused():
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    model._is_stateful = True
    with pytest.raises(InputError, match="got LlamaForCausalLM with recurrent layers"):
        CachedModel(model, "target", batch=1, capacity=8)


def test_a_model_with_one_mask_goes_by_its_window():
    model = hf.AutoModelForCausalLM.from_config(CONFIGS["mistral"]()).eval()
    model.config.layer_types = ["full_attention", "full_attention"]
    for logits, expected in ragged_rounds(model, CachedModel(model, "target", batch=2, capacity=CAPACITY)):
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=2e-5)


def test_sliding_layers_need_a_window():
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(CONFIGS["qwen2_sliding"]())
    model.config.sliding_window = None
    with pytest.raises(InputError, match=r"config\.sliding_window beside sliding layers; got None"):
        CachedModel(model, "target", batch=1, capacity=8)
