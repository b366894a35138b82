"""Models and tokenizers by hub name or path, and what their configs say."""

import logging as python_logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from decoding.models.architecture import check_rotary
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
        Nothing loadable there, weights that are not the model's, or a device that is not there.
    """
    return load_weights(AutoModelForCausalLM, name_or_path, what="model", dtype=dtype, device=device)


def load_weights(kind: Any, name_or_path: str, *, what: str, dtype: torch.dtype, device: str) -> Any:
    """Load a model of a kind, in evaluation mode, if its files have exactly its weights.

    Parameters
    ----------
    kind
        One of transformers' auto classes.
    name_or_path
        Hub name, or a folder made by save_pretrained.
    what
        What messages call it.
    dtype, device
        Of the weights.

    Raises
    ------
    InputError
        Nothing loadable there, weights that are missing, left over or of other shapes, or a device that is not there.
    """
    check_device(device)
    with _told_once(), _loadable(what, name_or_path):
        model, found = kind.from_pretrained(
            name_or_path,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the account, by name, and refused below
            trust_remote_code=False,  # unsaid, transformers asks the terminal
        )
    _check_complete(f"{what} {name_or_path!r}", found)
    try:
        return model.to(device).eval()
    except RuntimeError as error:
        raise InputError(f"device: expected one with room for {name_or_path!r}; got {device!r}: {error}") from error


def load_tokenizer(name_or_path: str) -> Any:
    """Load a tokenizer by hub name or path.

    Raises
    ------
    InputError
        Nothing loadable there.
    """
    with _loadable("tokenizer", name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        tokenizer("a")  # some files are read without complaint and fail when they are first used
    return tokenizer


def check_device(device: str) -> None:
    """Check that tensors with values can be on a device.

    Raises
    ------
    InputError
        They cannot.
    """
    try:
        made = torch.zeros(1, device=device)
    # torch has an error of its own for every kind of device that is not there
    except Exception as error:  # noqa: BLE001
        raise InputError(
            f"device: expected one this torch can use; got {device!r}: {_reason(error)}; try cpu or cuda"
        ) from None
    if made.is_meta:
        raise InputError("device: expected one that keeps numbers; got 'meta'; try cpu or cuda")


@contextmanager
def _loadable(what: str, name_or_path: str) -> Iterator[None]:
    try:
        yield
    # transformers, safetensors, tokenizers, pickle, jinja and the hub raise errors of their own for broken files,
    # and tokenizers' are plain Exceptions
    except Exception as error:  # noqa: BLE001
        raise InputError(
            f"{what} {name_or_path!r}: expected a hub name or a folder made by save_pretrained; got: {_reason(error)}; "
            "choose another"
        ) from error


def _reason(error: Exception) -> str:
    """An error's first sentence or so, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _told_once() -> Iterator[None]:
    """Without transformers' table of weights that do not fit: they are an error here, told in one line."""
    logger = python_logging.getLogger("transformers.modeling_utils")

    def other(record: python_logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _check_complete(what: str, found: dict[str, Any]) -> None:
    """Refuse weights that are not the model's: transformers would go on with random ones, or without some.

    What a family is known to leave out or to leave over, such as tied weights, is not in transformers' account.
    """
    faults = {
        "missing, which would be random": sorted(found["missing_keys"]),
        "of other shapes, which would be random": sorted(name for name, *_ in found["mismatched_keys"]),
        "left over, which would be ignored": sorted(found["unexpected_keys"]),
    }
    told = [f"{_some(names)} {fault}" for fault, names in faults.items() if names]
    if told:
        raise InputError(
            f"{what}: expected the weights that its config.json describes; got {', and '.join(told)}; "
            "choose a model that is whole"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def vocabulary_size(model: Any) -> int:
    """Width of a model's logits."""
    return model.config.get_text_config().vocab_size


def context_length(model: Any) -> int | None:
    """Most positions a model was made for; None if its config does not say, or says -1 for any number."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if context is None or context < 0 else context


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
