"""What a model's text body does with masks and positions; asked of the body itself, not of its wrapper."""

import inspect
from typing import Any

from solvers.errors import InputError

ROTARY_MARGIN = 3
"""Tokens behind the rotary switch from which a draft's first feed, of all but the last two, lies behind it too."""

_FULL, _SLIDING = "full_attention", "sliding_attention"


def text_body(model: Any) -> Any:
    """The module that runs a model's layers of text, inside a multimodal wrapper too."""
    body = model
    while (inner := _decoder_of(body)) is not body:
        body = inner
    return body


def _decoder_of(model: Any) -> Any:
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    # some call their output layer "decoder"
    return decoder if hasattr(decoder, "config") else model.base_model


def windows(model: Any, name: str) -> dict[str, int | None]:
    """Window of each kind of layer, None for full attention; of one kind only where one mask serves all layers.

    Parameters
    ----------
    model
        A Hugging Face causal LM, or a multimodal wrapper around one.
    name
        "draft" or "target", for messages.

    Raises
    ------
    InputError
        Sliding layers without a window, or a body that does not say which mask its layers get.
    """
    body, config = text_body(model), model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    asked = set(inspect.unwrap(type(body).forward).__code__.co_names)
    expected, got = f"{name} model: expected ", f"got {type(model).__name__}, whose {type(body).__name__}"
    if "dict" in asked and kinds:  # the body looks for a dictionary of masks, one for each kind of layer
        if _SLIDING in kinds and window is None:
            raise InputError(f"{expected}config.sliding_window beside sliding layers; got None; set it to the window")
        return {kind: window if kind == _SLIDING else None for kind in sorted(kinds)}
    if window is None:
        return {_FULL: None}
    if len(kinds) > 1:
        raise InputError(
            f"{expected}masks for each kind of layer; {got} mixes sliding and full layers and takes "
            "one mask for all; choose another model"
        )
    if "create_sliding_window_causal_mask" not in asked:
        # transformers' own cache would drop columns by the window, whatever the attention sees before that
        raise InputError(
            f"{expected}masks with config.sliding_window {window}; {got} makes none; set it to None if no "
            "layer has a window, or choose another model"
        )
    return {_SLIDING: window}


def rotary_switch(model: Any) -> int | None:
    """Most tokens of a text that a model with "longrope" scaling reads with its short factors; None without one.

    A feed takes the factors that its last position asks for, for all its rows and positions; keys in the cache keep
    theirs. ("dynamic" scaling changes at the context, which texts never leave.)
    """
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    # one dictionary, or one for each kind of layer
    scalings = [each for each in parameters.values() if isinstance(each, dict)] or [parameters]
    ends = [each["original_max_position_embeddings"] for each in scalings if each.get("rope_type") == "longrope"]
    return min(ends, default=None)


def check_rotary(model: Any, name: str, shortest: int, longest: int, new_tokens: int) -> None:
    """Check that texts begin and end on one side of a model's rotary switch, all on the same one.

    There the text of a row is what it is alone. A text that crosses would need all its keys again.

    Parameters
    ----------
    model, name
        The model, and "draft" or "target" for messages.
    shortest, longest
        Tokens of the batch's shortest and longest prompt.
    new_tokens
        Tokens added at most.

    Raises
    ------
    InputError
        A text that would cross, or rows on both sides.
    """
    switch = rotary_switch(model)
    if switch is None or longest + new_tokens <= switch or shortest >= switch + ROTARY_MARGIN:
        return
    prompts = f"prompts of {shortest} to {longest}" if shortest < longest else f"a prompt of {longest}"
    raise InputError(
        f"{name} model: expected texts within {switch} tokens, where its rotary frequencies change for the whole text, "
        f"or prompts of at least {switch + ROTARY_MARGIN}; got {prompts} and {new_tokens} new tokens; lower "
        "max_new_tokens, or decode short and long prompts in calls of their own"
    )
