"""The loop inside Hugging Face's own front door; the one room that imports transformers."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.utils import logging
from transformers.utils.generic import ModelOutput

from decoding.cache import CachedModel
from decoding.loop import Sampling, speculate
from decoding.statistics import Statistics
from solvers.errors import InputError
from tradeoff.rule import Rule
from tradeoff.rules import SpeculativeSampling


@dataclass
class SpeculativeOutput(ModelOutput):
    """Generated text and its account.

    Parameters
    ----------
    sequences
        Prompt and generated tokens, `[1, length]`.
    statistics
        Counts and exact per-position quantities.
    """

    sequences: Tensor
    # never None in fact; ModelOutput allows one field without a default
    statistics: Statistics = cast(Statistics, None)


def speculative(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    *,
    draft: Any,
    rule: Rule | None = None,
    draft_length: int = 4,
    generator: torch.Generator | None = None,
    **model_kwargs: Any,
) -> Tensor | SpeculativeOutput:
    """Decode speculatively with any rule: `model.generate(**inputs, custom_generate=speculative, draft=..., ...)`.

    Everything `generate` prepares is honoured: generation config, temperature, top-k, top-p, penalties and
    custom logits processors (each applied once, to both models), max_new_tokens, EOS lists, stopping criteria
    (asked after every token), do_sample=False (the rule then sees one-hot laws; lossless rules give greedy
    decoding's text).

    Parameters
    ----------
    model, input_ids, logits_processor, stopping_criteria, generation_config
        Supplied by `generate`; `input_ids` is `[1, length]`.
    draft
        The draft model, a causal LM over the same vocabulary. (`generate` keeps `assistant_model` to itself.)
    rule
        The verification rule; lossless `SpeculativeSampling()` by default.
    draft_length
        Tokens drafted per round, at least 1.
    generator
        Source of randomness; torch's default generator, so `torch.manual_seed`, if None. Equal seeds give
        equal text only for the same rule and draft length: lossless means the same law, not the same text.

    Returns
    -------
    Tensor or SpeculativeOutput
        As `generate` does: tokens `[1, length]`, or with return_dict_in_generate=True a `SpeculativeOutput`
        with the statistics.

    Raises
    ------
    InputError
        More than one sequence, padding, unlike vocabularies, a context that is too short, NaN logits.
    """
    _check_models(model, draft)
    if draft_length < 1:
        raise InputError(f"draft_length: expected at least 1; got {draft_length}")
    if input_ids.shape[0] != 1 or (generation_config.num_beams or 1) > 1:
        raise InputError(
            f"speculative decoding: expected one sequence and no beams; got batch {input_ids.shape[0]}, "
            f"num_beams {generation_config.num_beams}; call it once per prompt"
        )
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool((mask == 1).all()):
        raise InputError("attention_mask: expected an unpadded prompt; got masked tokens; strip the padding")
    check_context(model, draft, input_ids.shape[1], generation_config.max_length)
    tokens, statistics = speculate(
        CachedModel(model, "target", model_kwargs.get("past_key_values")),
        CachedModel(draft, "draft"),
        input_ids[0],
        rule=SpeculativeSampling() if rule is None else rule,
        draft_length=draft_length,
        max_length=generation_config.max_length,
        finished=lambda sequence: bool(stopping_criteria(sequence[None], None).all()),
        sampling=Sampling(
            processors=logits_processor if len(logits_processor) else None,
            greedy=not generation_config.do_sample,
            generator=generator,
        ),
    )
    if generation_config.return_dict_in_generate:
        return SpeculativeOutput(sequences=tokens[None], statistics=statistics)
    return tokens[None]


def generate(
    target_model: Any,
    draft_model: Any,
    input_ids: Tensor,
    *,
    rule: Rule | None = None,
    draft_length: int = 4,
    generator: torch.Generator | None = None,
    **generate_arguments: Any,
) -> SpeculativeOutput:
    """Generate from a draft and a target model; always returns the text with its statistics.

    Parameters
    ----------
    target_model, draft_model
        Causal LMs over one vocabulary.
    input_ids
        The prompt, `[1, length]`.
    rule, draft_length, generator
        As in `speculative`.
    generate_arguments
        Anything `target_model.generate` takes: max_new_tokens, do_sample, temperature, top_k, top_p,
        generation_config, logits_processor, stopping_criteria, ...

    Raises
    ------
    InputError
        As in `speculative`.
    """
    return target_model.generate(
        input_ids,
        custom_generate=speculative,
        draft=draft_model,
        rule=rule,
        draft_length=draft_length,
        generator=generator,
        **generate_arguments | {"return_dict_in_generate": True},
    )


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


def _check_models(target: Any, draft: Any) -> None:
    for name, model in (("target", target), ("draft", draft)):
        if not hasattr(model, "config") or model.config.is_encoder_decoder:
            raise InputError(f"{name} model: expected a Hugging Face causal LM; got {type(model).__name__}")
    sizes = vocabulary_size(target), vocabulary_size(draft)
    if sizes[0] != sizes[1]:
        raise InputError(
            f"models: expected one vocabulary; got {sizes[0]} tokens in the target and {sizes[1]} in the draft; "
            "choose a draft trained with the target's tokenizer"
        )


def check_context(target: Any, draft: Any, prompt: int, longest: int) -> None:
    """Check that a prompt of `prompt` tokens, grown to `longest`, fits both models.

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
        context = context_length(model)
        if context is not None and longest > context:
            raise InputError(
                f"prompt: expected prompt plus new tokens within the {name} model's context of {context}; got "
                f"{prompt} + {longest - prompt}; shorten the prompt or lower max_new_tokens"
            )
