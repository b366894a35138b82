"""Texts that are measured, and the laws they are drawn from."""

from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as process

from decoding.huggingface.generation import generate
from decoding.huggingface.output import SpeculativeOutput
from decoding.huggingface.saved_settings import plainly
from decoding.sampling.draw import law
from decoding.sampling.parameters import PLAIN, Sampling


def generate_plainly(
    input_ids: Tensor, *, target: Any, draft: Any, max_new_tokens: int, sampling: Sampling = PLAIN, **arguments: Any
) -> SpeculativeOutput:
    """Generate by the models' own laws, or as `sampling` says, whatever generation config was saved with them.

    Every text that is measured comes from here.

    Parameters
    ----------
    input_ids, target, draft, arguments
        As in `generate`.
    max_new_tokens
        Of a text.
    sampling
        Temperature, top-p and top-k.

    Raises
    ------
    InputError
        As in `generate`.
    """
    with plainly(target, max_new_tokens=max_new_tokens, **vars(sampling)) as settings:
        return generate(input_ids, target=target, draft=draft, **settings, **arguments)


def measured_law(logits: Tensor, sampling: Sampling, dtype: torch.dtype = torch.float32) -> Tensor:
    """Law from which `generate_plainly` draws, `[positions, vocab]`, from a model's raw logits there.

    Parameters
    ----------
    logits, sampling
        The logits, and as in `generate_plainly`.
    dtype
        Of the law and of the arithmetic.
    """
    return law(kept_tokens(logits, sampling), sampling.temperature, dtype)


def kept_tokens(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits `[positions, vocab]` with -inf for what top-k and top-p cut off, by transformers' own processors."""
    none: Any = None  # neither of them looks at the text
    scores = logits / sampling.temperature
    if sampling.top_k:
        scores = process.TopKLogitsWarper(sampling.top_k)(none, scores)
    if sampling.top_p < 1:
        scores = process.TopPLogitsWarper(sampling.top_p)(none, scores)
    return logits.masked_fill(scores == -torch.inf, -torch.inf)
