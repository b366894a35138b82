"""The one door to transformers: generation through `generate`, loading, and what configs say."""

from decoding.huggingface.generation import generate, speculative
from decoding.huggingface.loading import (
    check_context,
    common_vocabulary,
    context_length,
    hide_progress_bars,
    load_model,
    load_tokenizer,
    vocabulary_size,
)
from decoding.huggingface.measured import generate_plainly, kept_tokens, measured_law
from decoding.huggingface.output import SpeculativeOutput
from decoding.huggingface.reward import RewardScorer
from decoding.huggingface.saved_settings import plain_config, plainly

__all__ = [
    "RewardScorer",
    "SpeculativeOutput",
    "check_context",
    "common_vocabulary",
    "context_length",
    "generate",
    "generate_plainly",
    "hide_progress_bars",
    "kept_tokens",
    "load_model",
    "load_tokenizer",
    "measured_law",
    "plain_config",
    "plainly",
    "speculative",
    "vocabulary_size",
]
