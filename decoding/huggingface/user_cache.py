"""A cache that the caller owns: read before a call, filled after it as `generate` fills it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from decoding.models.cached_model import CachedModel
from solvers.errors import InputError


def users_cache(past_key_values: Any, prompt: int, longest: int) -> Any:
    """Return the caller's cache; None where `generate` made one, which nobody sees.

    Parameters
    ----------
    past_key_values
        What `generate` hands over.
    prompt, longest
        Columns of the prompts, and of the texts when all is written.

    Raises
    ------
    InputError
        A kind that changes keys and values, columns of another text, or too little room.
    """
    if past_key_values is None or not getattr(past_key_values, "_is_user_defined", False):
        return None
    if not isinstance(past_key_values, DynamicCache | StaticCache) or past_key_values.offloading:
        offloaded = "an offloaded " if getattr(past_key_values, "offloading", False) else ""
        raise InputError(
            f"past_key_values: expected a DynamicCache or StaticCache on the model's device; got "
            f"{offloaded}{type(past_key_values).__name__}; leave it out, and the prompt is read again"
        )
    held = int(past_key_values.get_seq_length())
    if held > prompt:
        raise InputError(
            f"past_key_values: expected at most the {prompt} columns of input_ids; got {held}; give whole texts, "
            "those the cache knows included"
        )
    layers: list[Any] = past_key_values.layers  # of what kinds, transformers does not say
    rooms = [layer.max_cache_len for layer in layers if not layer.is_sliding and _fixed(layer)]
    if rooms and min(rooms) < longest - 1:
        raise InputError(
            f"past_key_values: expected room for {longest - 1} columns; got a StaticCache of {min(rooms)}; "
            "make it larger or lower max_new_tokens"
        )
    return past_key_values


def fill(cache: Any, target: CachedModel, sequences: Tensor, padding: Sequence[int], written: Sequence[int]) -> None:
    """Append to the caller's cache what it lacks of all tokens but the last, at the columns `generate` uses.

    Rows that ended before the others go on with padding tokens, which `generate` feeds to the model too.

    Parameters
    ----------
    cache
        A DynamicCache or StaticCache.
    target
        The model after the call, with the lines of every row.
    sequences
        Prompts and generated tokens, `[batch, length]`, padding included.
    padding
        On the left of every row.
    written
        Tokens that every row generated.
    """
    batch, columns = sequences.shape[0], sequences.shape[1] - 1
    drafts = target.batch // batch
    pads = torch.tensor(padding, device=target.device)
    ends = torch.arange(columns + 1, device=target.device) + pads[:, None]
    tokens = sequences.to(target.device).gather(1, ends.clamp(max=columns)).repeat_interleave(drafts, 0)
    fed = min(sequences.shape[1] - max(written) + count - pad for count, pad in zip(written, padding, strict=True)) - 1
    # decoding ran in inference mode, and its buffers can be written in no other
    with torch.inference_mode():
        target.prefill(tokens, first=fed, last=columns - min(padding))
    held = int(cache.get_seq_length())
    places = (torch.arange(held, columns, device=target.device) - pads[:, None]).clamp(min=0)
    lines = torch.arange(0, target.batch, drafts, device=target.device)
    if held < columns:
        for layer, keys, values in target.stored(lines, places):
            cache.update(keys, values, layer)


def _fixed(layer: Any) -> bool:
    return getattr(layer, "max_cache_len", None) is not None
