"""What a model's saved generation config does to its texts: nothing where they are measured, else it is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
WARPING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that greedy decoding leaves out."""

SHAPING = (
    "do_sample",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "renormalize_logits",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "token_healing",
    "guidance_scale",
    "watermarking_config",
    "min_length",
    "min_new_tokens",
    "max_time",
    "stop_strings",
    "num_return_sequences",
)
"""Settings that decide a text of one beam, however it is sampled; the greatest length shows by itself."""


def plain_config(model: Any) -> GenerationConfig:
    """Make a fresh generation config: of a model's saved one only the tokens that begin, end and pad texts."""
    return GenerationConfig(**{name: getattr(model.generation_config, name) for name in TOKENS})


@contextmanager
def plainly(
    model: Any, *, max_new_tokens: int, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0
) -> Iterator[dict[str, Any]]:
    """Within this, a model has a fresh generation config; gives the arguments for `generate`.

    What `generate` is not told it looks up in the model's own config, so that one has to be away.

    Parameters
    ----------
    model
        It has its saved config back afterwards.
    max_new_tokens
        Of a text.
    temperature, top_p, top_k
        Of sampling, from all tokens by default; temperature 0 is greedy.
    """
    saved = model.generation_config
    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    sampling = drawn if temperature > 0 else {"do_sample": False}
    model.generation_config = plain_config(model)
    try:
        yield {**sampling, "max_new_tokens": max_new_tokens}
    finally:
        model.generation_config = saved


def acting_settings(model: Any, config: GenerationConfig) -> dict[str, Any]:
    """Which settings of a model's saved generation config decide the texts of a call, by name.

    Parameters
    ----------
    model
        With the saved config.
    config
        Under which the call runs: the caller's settings, those the model saved, and defaults, in this order.
    """
    saved, used, usual = model.generation_config.to_dict(), config.to_dict(), config._get_default_generation_params()
    return {
        name: saved[name]
        for name in ((*WARPING, *SHAPING) if config.do_sample else SHAPING)
        if saved.get(name) is not None and saved[name] != usual.get(name) and used.get(name) == saved[name]
    }
