"""Every architecture that transformers can build small: random models of two layers, by model type."""

import dataclasses
import inspect
from typing import Any

import torch
import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCAB, WINDOW, CONTEXT = 64, 4, 128

SMALL: dict[str, Any] = {
    # one meaning, many spellings
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("embedding_dim", "hidden_size_global", "embed_dim", "out_hidden_size", "projection_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "depth"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_depth"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads",), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim"), 32),
    **dict.fromkeys(("ffn_hidden_size", "expert_ffn_hidden_size", "feed_forward_size", "decoder_hidden_size"), 32),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_top_k", "top_k_experts", "zero_expert_num"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "attention_head_size", "router_hidden_size"), 8),
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"), CONTEXT),
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size"), WINDOW),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "num_dense_layers"), 1),
    "num_key_value_heads": 2,
    "index_topk": 4,
    "index_n_heads": 2,
    "rotary_dim": 4,
    "full_attention_interval": 2,
    "is_decoder": True,
    # a model whose head is its embedding repeats itself
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    # pictures
    "image_size": 16,
    "patch_size": 8,
    "in_channels": 3,
    "num_channels": 3,
    "spatial_merge_size": 1,
    "temporal_patch_size": 1,
}


def listed(names: str) -> list[str]:
    """Model types, separated by spaces and line ends."""
    return names.split()


# latent attention has a key for every query head
LATENT: dict[str, Any] = {"num_key_value_heads": 4}
MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_d_ssm": 32}
LINEAR: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
CONVOLUTION: dict[str, Any] = {"layer_types": ["conv", "full_attention"]}
SECTIONS: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
INDEXER: dict[str, Any] = {
    **dict.fromkeys(("indexer_n_heads", "indexer_budget", "indexer_compress_ratio"), 2),
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
}
PIECES = {"pronunciation_vocab_size": 8, "shape_vocab_size": 8, "pronunciation_embed_dim": 8, "shape_embed_dim": 8}
LATENT_FAMILIES = listed(
    "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text glm4_moe_lite glm_moe_dsa longcat_flash minicpm3 "
    "youtu mistral4 mistral_large4_text"
)
LINEAR_FAMILIES = listed("qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text qwen3_next")
SECTIONED = listed("glm4v_text paddleocr_vl_text qwen2_vl_text qwen2_5_vl_text")
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(LATENT_FAMILIES, LATENT),
    **dict.fromkeys(LINEAR_FAMILIES, LINEAR),
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), CONVOLUTION),
    **dict.fromkeys(SECTIONED, {"rope_parameters": SECTIONS}),
    "bailing_hybrid": LATENT | LINEAR,
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32},
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "altup_num_inputs": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": LATENT | LINEAR,
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"], "attention_chunk_size": WINDOW},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"]},
    # scales queries by their position, from the fourth on
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": WINDOW,
            "llama_4_scaling_beta": 0.5,
        }
    },
    "qwen4_exp_text": {"layer_types": ["linear_attention", "indexed_attention"]} | INDEXER,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "reformer": {
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
        "num_buckets": 2,
    },
    "roc_bert": PIECES,
    # no position embedding in the second layer
    "smollm3": {"no_rope_layers": [1, 0]},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zaya": {"num_experts_per_tok": 1},
}
OWN_TEXT = ("hyperclovax_vision_v2", "paligemma", "pi0")
"""Wrappers around one kind of text model only; others get one that mixes both kinds of layers."""
# both kinds of layers, so that a mask of one kind for all shows
TEXT = {"use_sliding_window": True, "max_window_layers": 1, "layer_types": ["sliding_attention", "full_attention"]}


def fields(kind: Any) -> set[str]:
    """Names a config class takes."""
    if dataclasses.is_dataclass(kind):
        names = {field.name for field in dataclasses.fields(kind)}
    else:
        names = set(inspect.signature(kind.__init__).parameters)
    return names | set(getattr(kind, "attribute_map", {}))


def small_config(kind: Any, **changes: Any) -> Any:
    """A config of this class with two layers, sub-configs likewise."""
    names = fields(kind)
    given = {name: value for name, value in SMALL.items() if name in names}
    for alias, name in getattr(kind, "attribute_map", {}).items():
        if alias in given and name in given:
            del given[alias]
    for name, sub in getattr(kind, "sub_configs", {}).items():
        default = getattr(kind(), name, None)
        if default is None:
            continue
        if sub is hf.AutoConfig and name == "text_config" and kind.model_type not in OWN_TEXT:
            given[name] = small_config(hf.Qwen2Config, **TEXT)
        else:
            given[name] = small_config(type(default), **OVERRIDES.get(default.model_type, {}))
    return kind(**given | changes)


def build(model_type: str, mapping: Any = hf.AutoModelForCausalLM) -> Any:
    """A random model; weights are large enough for texts to be varied."""
    config = small_config(CONFIG_MAPPING[model_type], **OVERRIDES.get(model_type, {}))
    torch.manual_seed(0)
    model = mapping.from_config(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model
