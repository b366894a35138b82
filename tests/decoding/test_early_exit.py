from typing import Any

import pytest
import torch
from drafts import LENGTHS, VOCAB, advance, assert_exact, proposed, ragged, started, uniforms_of
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from decoding.drafting import ModelDrafter, early_exit
from solvers.errors import InputError


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


COMMON = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "pad_token_id": 0}
ARCHITECTURES: dict[str, tuple[Any, Any, str, dict[str, Any]]] = {
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, "gpt_neox.final_layer_norm", {"intermediate_size": 32}),
    "llama": (LlamaForCausalLM, LlamaConfig, "model.norm", {"intermediate_size": 32, "num_key_value_heads": 1}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, "transformer.ln_f", {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, "model.norm", {"intermediate_size": 32, "num_key_value_heads": 1}),
    "mistral": (MistralForCausalLM, MistralConfig, "model.norm", {"intermediate_size": 32, "num_key_value_heads": 1}),
    "opt": (OPTForCausalLM, OPTConfig, "model.decoder.final_layer_norm", {"ffn_dim": 32, "word_embed_proj_dim": 16}),
    "phi": (PhiForCausalLM, PhiConfig, "model.final_layernorm", {"intermediate_size": 32}),
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config,
        "model.norm",
        {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": None},
    ),
}


def deep_model(architecture: str) -> Any:
    model, config, _, sizes = ARCHITECTURES[architecture]
    torch.manual_seed(3)
    return model(config(**COMMON, **sizes, initializer_range=0.35, bos_token_id=None, eos_token_id=None)).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_layers_are_the_targets(architecture: str) -> None:
    target, tokens = deep_model(architecture), torch.tensor([[1, 5, 2, 2, 6]])
    before = target(tokens, output_hidden_states=True)
    assert torch.equal(early_exit(target, 4)(tokens).logits, before.logits)
    for layers in (1, 2, 3):
        draft = early_exit(target, layers)
        norm = target.get_submodule(ARCHITECTURES[architecture][2])
        by_hand = target.get_output_embeddings()(norm(before.hidden_states[layers]))
        torch.testing.assert_close(draft(tokens).logits, by_hand)
        assert draft.config.num_hidden_layers == layers
        assert len(getattr(draft.config, "layer_types", None) or range(layers)) == layers
    after = target(tokens, output_hidden_states=True)
    assert target.config.num_hidden_layers == 4
    assert len(after.hidden_states) == 5
    assert torch.equal(after.logits, before.logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_layers_share_their_weights(architecture: str) -> None:
    target = deep_model(architecture)
    draft = early_exit(target, 2)
    weights = dict(target.named_parameters()) | dict(target.named_buffers())
    shared = dict(draft.named_parameters()) | dict(draft.named_buffers())
    assert set(shared) < set(weights)
    assert all(weights[name].data_ptr() == tensor.data_ptr() for name, tensor in shared.items())
    draft.get_input_embeddings().weight.zero_()
    assert (target.get_input_embeddings().weight == 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_layers_draft(architecture: str) -> None:
    draft = early_exit(deep_model(architecture), 2)
    tokens, length = ragged(LENGTHS)
    drafter = ModelDrafter(draft)
    started(drafter, tokens, length)
    for round_ in range(2):
        uniforms = uniforms_of(5, 3, seed=round_)
        proposal = proposed(drafter, tokens, length, uniforms)
        assert_exact(proposal, tokens, length, uniforms, model=draft)
        advance(tokens, length, proposal, torch.tensor([3, 0, 1, 2, 3]), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize("layers", [-1, 0, 5])
def test_layers_out_of_range_are_refused(layers: int) -> None:
    with pytest.raises(InputError, match="layers from 1 to 4"):
        early_exit(deep_model("llama"), layers)


def test_an_encoder_decoder_is_refused() -> None:
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2, vocab_size=VOCAB)
    with pytest.raises(InputError, match="a decoder-only model; got T5ForConditionalGeneration; draft with another"):
        early_exit(T5ForConditionalGeneration(config), 1)


def test_two_lists_of_layers_are_refused() -> None:
    target = deep_model("llama")
    target.model.adapters = nn.ModuleList(nn.Linear(1, 1) for _ in range(4))
    with pytest.raises(InputError, match=r"one list of 4 layers in Llama.*model\.layers.*model\.adapters"):
        early_exit(target, 1)


def test_a_list_inside_a_layer_is_not_the_layers() -> None:
    target = deep_model("llama")
    for layer in target.model.layers:
        layer.experts = nn.ModuleList(nn.Linear(1, 1) for _ in range(4))
    assert len(early_exit(target, 3).model.layers) == 3
