"""A causal language model with a key-value cache that follows a growing, and shrinking, sequence."""

import inspect
from typing import Any

from torch import Tensor

from solvers.errors import InputError


class CachedModel:
    """Feed a model only the tokens it has not seen, and forget those that were rejected.

    Parameters
    ----------
    model
        A Hugging Face causal LM.
    name
        "draft" or "target", for messages.
    cache
        A cache to start from; by default the model makes its own.
    """

    def __init__(self, model: Any, name: str, cache: Any = None) -> None:
        self.model = model
        self.name = name
        self.length = 0 if cache is None else int(cache.get_seq_length())
        self.calls = 0
        self._cache: Any = cache
        # logits of a whole prompt at a large vocabulary are gigabytes; most models can keep only the last ones
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def logits(self, tokens: Tensor, keep: int) -> Tensor:
        """Feed `tokens[length:]` and return the logits after the last `keep` tokens, `[keep, vocab]`.

        Parameters
        ----------
        tokens
            The whole sequence so far, `[length]`, on any device.
        """
        extra = {"logits_to_keep": keep} if self._keeps else {}
        fresh = tokens[self.length :].to(self.model.device)[None]
        output = self.model(input_ids=fresh, past_key_values=self._cache, use_cache=True, return_dict=True, **extra)
        self._cache = output.past_key_values
        self.length = len(tokens)
        self.calls += 1
        return output.logits[0, -keep:]

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens; does nothing if less was seen.

        Raises
        ------
        InputError
            The model's cache cannot be cut (recurrent state, a full sliding window, a static cache).
        """
        surplus = self.length - length
        if surplus <= 0:
            return
        try:
            # the only call that both releases agree on: positive lengths are deprecated, then refused
            self._cache.crop(-surplus)
        except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{self.name} model: expected a key-value cache that can be cut back; got "
                f"{type(self._cache).__name__} ({error}); use a full-attention model with a dynamic cache"
            ) from error
        self.length = length
