"""Texts that are measured."""

from typing import Any

from torch import Tensor

from decoding.huggingface.generation import generate
from decoding.huggingface.output import SpeculativeOutput
from decoding.huggingface.saved_settings import plainly


def generate_plainly(
    input_ids: Tensor, *, target: Any, draft: Any, max_new_tokens: int, temperature: float = 1.0, **arguments: Any
) -> SpeculativeOutput:
    """Generate by the models' own laws at a temperature, whatever generation config was saved with them.

    Every text that is measured comes from here: rules are compared, and their knobs set, on raw logits.

    Parameters
    ----------
    input_ids, target, draft, arguments
        As in `generate`.
    max_new_tokens, temperature
        As in `plainly`.

    Raises
    ------
    InputError
        As in `generate`.
    """
    with plainly(target, max_new_tokens=max_new_tokens, temperature=temperature) as settings:
        return generate(input_ids, target=target, draft=draft, **settings, **arguments)
