"""What a model's saved generation config does to its texts: nothing where they are measured, else it is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import GenerationConfig

from decoding.huggingface.generation import generate
from decoding.huggingface.output import SpeculativeOutput

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def plain_config(model: Any, **settings: Any) -> GenerationConfig:
    """Make a fresh generation config: of a model's saved one only the tokens that begin, end and pad texts."""
    return GenerationConfig(**{name: getattr(model.generation_config, name) for name in TOKENS}, **settings)


@contextmanager
def plainly(model: Any, *, max_new_tokens: int, temperature: float = 1.0) -> Iterator[GenerationConfig]:
    """Within this, a model has a fresh generation config, which is also what it gives, for `generate`.

    What `generate` is not told it looks up in the model's own config, so that one has to be away.

    Parameters
    ----------
    model
        It has its saved config back afterwards.
    max_new_tokens
        Of a text.
    temperature
        Of sampling from all tokens; 0 is greedy.
    """
    saved = model.generation_config
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    model.generation_config = plain_config(model)
    try:
        yield plain_config(model, **sampling, max_new_tokens=max_new_tokens)
    finally:
        model.generation_config = saved


def generate_plainly(
    target: Any, draft: Any, input_ids: Tensor, *, max_new_tokens: int, temperature: float = 1.0, **arguments: Any
) -> SpeculativeOutput:
    """Generate by the models' own laws at a temperature, whatever generation config was saved with them.

    Every text that is measured comes from here: rules are compared, and their knobs set, on raw logits.

    Parameters
    ----------
    target, draft, input_ids, arguments
        As in `generate`.
    max_new_tokens, temperature
        As in `plainly`.

    Raises
    ------
    InputError
        As in `generate`.
    """
    with plainly(target, max_new_tokens=max_new_tokens, temperature=temperature) as config:
        return generate(target, draft, input_ids, generation_config=config, **arguments)
