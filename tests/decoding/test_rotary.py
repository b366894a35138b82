"""Rotary scaling that depends on the longest position, against the model's own text and its own forward."""

from functools import cache
from typing import Any

import pytest
import torch
import transformers as hf

import decoding
from decoding.drafting import MultiDraft, PromptLookup
from decoding.models import cached_model
from decoding.models.cached_model import CachedModel
from solvers.errors import InputError

SWITCH = 16
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "max_position_embeddings": 128,
}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 8.0, 16.0, 32.0],
    "original_max_position_embeddings": SWITCH,
}
ORIGINAL: dict[str, Any] = {"original_max_position_embeddings": SWITCH}
MSCALES = {"short_mscale": 1.1, "long_mscale": 1.4}
FAMILIES: dict[str, Any] = {
    "phi3": lambda: hf.Phi3Config(**SIZES, rope_parameters=LONGROPE, **ORIGINAL),
    "llama": lambda: hf.LlamaConfig(**SIZES, rope_parameters=LONGROPE),
    "phimoe": lambda: hf.PhimoeConfig(**SIZES, num_local_experts=2, rope_parameters=LONGROPE | MSCALES, **ORIGINAL),
}
GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}


@cache
def model_of(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def prompts(*lengths: int) -> dict[str, Any]:
    """Random prompts of these lengths, padded on the left."""
    generator = torch.Generator().manual_seed(3)
    rows, longest = [torch.randint(3, 64, (length,), generator=generator) for length in lengths], max(lengths)
    padded = [torch.cat([torch.zeros(longest - len(row), dtype=torch.int64), row]) for row in rows]
    mask = torch.tensor([[0] * (longest - length) + [1] * length for length in lengths])
    return {"input_ids": torch.stack(padded), "attention_mask": mask}


def assert_own_text(target: Any, draft: Any, new_tokens: int, *lengths: int, **arguments: Any) -> None:
    given: dict[str, Any] = prompts(*lengths) | GREEDY | {"max_new_tokens": new_tokens}
    ours = decoding.generate(target=target, draft=draft, **given, **arguments).sequences
    assert torch.equal(ours, target.generate(**given))
    # every row is what it is alone
    for row, length in enumerate(lengths):
        alone: dict[str, Any] = {name: given[name][row : row + 1, -length:] for name in ("input_ids", "attention_mask")}
        own = target.generate(**alone, **GREEDY, max_new_tokens=new_tokens)
        assert ours[row, -len(own[0]) :].tolist() == own[0].tolist()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_short_texts_are_the_models_own_up_to_the_switch(family: str, static: bool):
    arguments: dict[str, Any] = {"cache_implementation": "static"} if static else {}
    # the last drafts stand behind the switch
    given: dict[str, Any] = prompts(5, 9) | GREEDY | {"max_new_tokens": SWITCH - 9}
    own = model_of(family).generate(**given)
    ours = decoding.generate(
        target=model_of(family), draft=model_of(family, 1), **given, draft_length=6, **arguments
    ).sequences
    assert torch.equal(ours, own)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_on_one_side_are_what_they_are_alone(family: str):
    target = model_of(family)
    # a draft that is nearly always right puts drafted tokens behind the switch, too
    assert_own_text(target, target, 7, 5, 9, draft_length=6)
    assert_own_text(target, model_of(family, 1), 12, SWITCH + 3, SWITCH + 6)
    assert_own_text(target, PromptLookup(), 12, SWITCH + 3, SWITCH + 6)


def test_a_long_prompt_is_read_in_one_piece(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cached_model, "PIECE", 8)
    assert_own_text(model_of("phi3"), model_of("phi3", 1), 8, 30, 21)


@pytest.mark.parametrize(
    ("lengths", "new_tokens", "told"),
    [
        ((10,), 30, "a prompt of 10 and 30 new"),
        ((16,), 1, "a prompt of 16 and 1 new"),
        ((18,), 4, "a prompt of 18 and 4 new"),
        ((5, 20), 4, "prompts of 5 to 20 and 4 new"),
    ],
)
def test_texts_that_cross_are_refused(lengths: tuple[int, ...], new_tokens: int, told: str):
    other = hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(**SIZES)).eval()
    given: dict[str, Any] = prompts(*lengths) | GREEDY | {"max_new_tokens": new_tokens}
    message = f"expected texts within 16 tokens.*or prompts of at least 19; got {told}.*lower max_new_tokens"
    for target, draft, name in (
        (model_of("phi3"), other, "target"),
        (other, model_of("phi3"), "draft"),
        (other, MultiDraft(model_of("phi3"), drafts=2), "draft"),
    ):
        with pytest.raises(InputError, match=f"{name} model: {message}"):
            decoding.generate(target=target, draft=draft, **given)


def test_keys_from_before_the_switch_are_refused_behind_it():
    model = model_of("phi3")
    given = prompts(24)
    with torch.no_grad():
        past = model(given["input_ids"][:, :12], use_cache=True).past_key_values
    with pytest.raises(InputError, match="past_key_values: expected more than 16 columns.*got 12; leave"):
        decoding.generate(target=model, draft=model, **given, **GREEDY, max_new_tokens=4, past_key_values=past)


def test_dynamic_scaling_ends_at_the_context():
    torch.manual_seed(0)
    scaling = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    sizes: dict[str, Any] = SIZES | {"max_position_embeddings": SWITCH}
    model = hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(**sizes, rope_parameters=scaling)).eval()
    # drafts behind the text would be the first beyond the context
    assert_own_text(model, model, 7, 5, 9, draft_length=6)
    with pytest.raises(InputError, match="within the target model's context of 16; got 9 \\+ 8"):
        decoding.generate(target=model, draft=model, **prompts(5, 9), **GREEDY, max_new_tokens=8)


def test_offloaded_weights_run_where_their_hook_brings_them():
    accelerate = pytest.importorskip("accelerate")
    model = model_of("llama", 5)
    text = prompts(6)["input_ids"]
    with torch.no_grad():
        expected = model(text).logits
    offloaded = accelerate.cpu_offload(model, execution_device="cpu")
    assert offloaded.device.type == "meta"
    cached = CachedModel(offloaded, "target", batch=1, capacity=6)
    assert cached.device.type == "cpu"
    torch.testing.assert_close(cached.feed(text, torch.arange(6)[None], width=6, keep=6, start=0), expected)
