"""Models and tokenizers by hub name or path, and what their configs say."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from decoding.architecture import check_rotary
from solvers.errors import InputError

PADDED_VOCABULARY = 1024
"""Models of one tokenizer differ by their embeddings' padding: by less than this."""


def hide_progress_bars() -> None:
    """Keep transformers from drawing progress bars of its own, for this process."""
    logging.disable_progress_bar()


def load_model(name_or_path: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Load a causal LM by hub name or path, in evaluation mode.

    Raises
    ------
    InputError
        Nothing loadable there, or a device that is not there.
    """
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise _not_loadable("model", name_or_path, error) from error
    try:
        return model.to(device).eval()
    except (AssertionError, RuntimeError) as error:
        raise InputError(f"device: expected one this torch can use; got {device!r}: {error}") from error


def load_tokenizer(name_or_path: str) -> Any:
    """Load a tokenizer by hub name or path.

    Raises
    ------
    InputError
        Nothing loadable there.
    """
    try:
        return AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise _not_loadable("tokenizer", name_or_path, error) from error


def _not_loadable(what: str, name_or_path: str, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0]
    return InputError(
        f"{what} {name_or_path!r}: expected a hub name or a folder made by save_pretrained; got: {reason}"
    )


def vocabulary_size(model: Any) -> int:
    """Width of a model's logits."""
    return model.config.get_text_config().vocab_size


def context_length(model: Any) -> int | None:
    """Most positions a model was made for; None if its config does not say, or says -1 for any number."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if context is None or context < 0 else context


def common_vocabulary(target: Any, draft: Any) -> int:
    """Tokens that both models know; of unlike widths that are mere padding, the smaller, with a warning.

    Raises
    ------
    InputError
        Something else than a causal LM, or vocabularies of different tokenizers.
    """
    for name, model in (("target", target), ("draft", draft)):
        if not hasattr(model, "config") or model.config.is_encoder_decoder:
            raise InputError(f"{name} model: expected a Hugging Face causal LM; got {type(model).__name__}")
    sizes = vocabulary_size(target), vocabulary_size(draft)
    least, most = min(sizes), max(sizes)
    if most - least >= PADDED_VOCABULARY or most > 1.05 * least:
        raise InputError(
            f"models: expected one vocabulary; got {sizes[0]} tokens in the target and {sizes[1]} in the draft; "
            "choose a draft trained with the target's tokenizer"
        )
    if most > least:
        warnings.warn(
            f"the target's vocabulary of {sizes[0]} and the draft's of {sizes[1]} differ by padding: "
            f"tokens from {least} on are never written",
            stacklevel=2,
        )
    return least


def check_context(target: Any, draft: Any | None, prompts: Sequence[int], new_tokens: int) -> None:
    """Check that prompts of so many tokens, each with new ones, fit both models; a drafter without one is None.

    Raises
    ------
    InputError
        An empty prompt, nothing to generate, a context that is too short, or texts on both sides of a rotary switch.
    """
    shortest, longest = min(prompts), max(prompts)
    if shortest == 0:
        raise InputError("prompt: expected at least one token; got none; start from the BOS token")
    if new_tokens < 1:
        raise InputError(f"max_new_tokens: expected at least 1; got {new_tokens} after a prompt of {longest}")
    for name, model in (("target", target), ("draft", draft)):
        if model is None:
            continue
        context = context_length(model)
        if context is not None and longest + new_tokens > context:
            raise InputError(
                f"prompt: expected prompt plus new tokens within the {name} model's context of {context}; got "
                f"{longest} + {new_tokens}; shorten the prompt or lower max_new_tokens"
            )
        check_rotary(model, name, shortest, longest, new_tokens)
