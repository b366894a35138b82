"""Models and tokenizers by hub name or path, and what their configs say."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from solvers.errors import InputError

UNLIKE_VOCABULARY = 1024
"""Models of one tokenizer differ by padding and by added tokens: by less than this, and by at most 5 %."""


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
    """Most positions a model was made for; None if its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def common_vocabulary(target: Any, draft: Any) -> int:
    """Tokens that the texts of a pair are written in: the target's, all of them.

    The draft need not know every one: it gives no mass to what it lacks, and what it has beyond is cut off.

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
    if most - least >= UNLIKE_VOCABULARY or most > 1.05 * least:
        raise InputError(
            f"models: expected one vocabulary; got {sizes[0]} tokens in the target and {sizes[1]} in the draft; "
            "choose a draft trained with the target's tokenizer"
        )
    return sizes[0]


def check_context(target: Any, draft: Any | None, prompt: int, longest: int) -> None:
    """Check that a prompt of `prompt` tokens, grown to `longest`, fits both models; a drafter without one is None.

    Raises
    ------
    InputError
        An empty prompt, nothing to generate, or a context that is too short.
    """
    if prompt == 0:
        raise InputError("prompt: expected at least one token; got none; start from the BOS token")
    if longest <= prompt:
        raise InputError(f"max_new_tokens: expected at least 1; got {longest - prompt} after a prompt of {prompt}")
    for name, model in (("target", target), ("draft", draft)):
        context = None if model is None else context_length(model)
        if context is not None and longest > context:
            raise InputError(
                f"prompt: expected prompt plus new tokens within the {name} model's context of {context}; got "
                f"{prompt} + {longest - prompt}; shorten the prompt or lower max_new_tokens"
            )
