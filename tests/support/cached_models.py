"""Random models of many families, small enough to run every row alone, and rounds of ragged feeds with an oracle."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from decoding.models.cached_model import CachedModel

VOCAB, CAPACITY = 41, 40
WINDOW = 5
"""Shorter than every text below, so that a mask without it shows."""

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
BOTH_KINDS: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}

CONFIGS: dict[str, Any] = {
    "gpt_neox": lambda: hf.GPTNeoXConfig(**COMMON, **SIZES),
    "llama": lambda: hf.LlamaConfig(**COMMON, **SIZES, num_key_value_heads=2),
    "gpt2": lambda: hf.GPT2Config(**COMMON, n_embd=32, n_layer=2, n_head=4),
    "qwen2": lambda: hf.Qwen2Config(**COMMON, **SIZES, num_key_value_heads=2),
    "qwen2_sliding": lambda: hf.Qwen2Config(
        **COMMON, **SIZES, num_key_value_heads=2, use_sliding_window=True, **BOTH_KINDS
    ),
    "opt": lambda: hf.OPTConfig(
        vocab_size=VOCAB,
        max_position_embeddings=64,
        init_std=0.3,
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        pad_token_id=0,
    ),
    "phi": lambda: hf.PhiConfig(**COMMON, **SIZES),
    "gemma2": lambda: hf.Gemma2Config(**COMMON, **SIZES, **GROUPED, **BOTH_KINDS),
    "gemma3": lambda: hf.Gemma3TextConfig(**COMMON, **SIZES, **GROUPED, **BOTH_KINDS),
    "modernbert": lambda: hf.ModernBertDecoderConfig(
        vocab_size=VOCAB,
        max_position_embeddings=64,
        **SIZES,
        **BOTH_KINDS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    "mistral": lambda: hf.MistralConfig(**COMMON, **SIZES, num_key_value_heads=2, sliding_window=WINDOW),
    "falcon": lambda: hf.FalconConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        alibi=False,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=1,
    ),
}
EVERY_FAMILY = [(name, attention) for name in CONFIGS for attention in ("sdpa", "eager") if name != "gemma2"]
EVERY_FAMILY.append(("gemma2", "eager"))  # its scores are capped, which sdpa cannot do


@cache
def tiny(name: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(7)
    return hf.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention).eval()


def texts(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def alone(model: Any, text: Tensor) -> Tensor:
    """Logits after every token of one row `[length]`, by one uncached forward pass."""
    return model(text[None], use_cache=False).logits[0]


def ragged_rounds(
    model: Any, cached: CachedModel, rounds: int = 5, drafted: int = 4
) -> Iterator[tuple[Tensor, Tensor]]:
    """Speculative rounds with random acceptance; yields logits and the oracle's, `[batch, n, vocab]` both."""
    generator = torch.Generator().manual_seed(1)
    batch = cached.batch
    written = texts(batch, 6, seed=2)
    shared = torch.arange(6).expand(batch, 6)
    logits = cached.feed(written, shared, width=6, keep=6, start=0)
    yield logits, torch.stack([alone(model, row) for row in written])
    rows = [row[: 4 + index % 3] for index, row in enumerate(written)]
    for turn in range(rounds):
        # the last token of each row again, then a draft of which a random part is kept
        draft = texts(batch, drafted, seed=10 + turn)
        block = torch.cat([torch.stack([row[-1:] for row in rows]), draft], 1)
        columns = torch.tensor([len(row) - 1 for row in rows])[:, None] + torch.arange(drafted + 1)
        logits = cached.feed(block, columns, width=int(columns.max()) + 1, keep=drafted + 1)
        longer = [torch.cat([row, more]) for row, more in zip(rows, draft, strict=True)]
        yield logits, torch.stack([alone(model, row)[-drafted - 1 :] for row in longer])
        kept = torch.randint(0, drafted + 1, (batch,), generator=generator)
        rows = [row[: len(row) - drafted + int(count)] for row, count in zip(longer, kept, strict=True)]
