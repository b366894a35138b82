"""The loop inside Hugging Face's own front door."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from decoding.cache import CachedModel
from decoding.control import Controller
from decoding.draft_length import DraftLength
from decoding.drafting import Drafter, ModelDrafter, SeveralDrafts
from decoding.huggingface.loading import check_context, common_vocabulary, vocabulary_size
from decoding.huggingface.output import SpeculativeOutput, output_of
from decoding.huggingface.request import emitted_to, finished_by, is_static, left_aligned, loaded, warping_of
from decoding.loop import decode
from decoding.plan import Plan, Uniforms
from decoding.verification import Backend
from solvers.errors import InputError
from tradeoff.rule import BlockRule, Rule
from tradeoff.rules import SpeculativeSampling

AnyRule: TypeAlias = Rule | BlockRule | Controller
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]


def speculative(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    *,
    draft: Any,
    rule: AnyRule | None = None,
    draft_length: int | DraftLength = 4,
    generator: Generators | None = None,
    account: Literal["exact", "counts"] | None = None,
    backend: Backend = "auto",
    compiled: bool = False,
    text_streamer: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Tensor | SpeculativeOutput:
    """Decode speculatively with any rule: `model.generate(**inputs, custom_generate=speculative, draft=..., ...)`.

    Everything `generate` prepares is honoured: batches of left-padded prompts, num_return_sequences, generation
    config, temperature, top-k, top-p, penalties and custom logits processors (each applied once, to both models),
    max_new_tokens, EOS lists, stopping criteria (asked after every token), cache_implementation="static",
    do_sample=False (the rule then sees one-hot laws; lossless rules give greedy decoding's text).

    Parameters
    ----------
    model, input_ids, logits_processor, stopping_criteria, generation_config
        Supplied by `generate`; `input_ids` is `[batch, length]`.
    draft
        A causal LM over the same vocabulary, on any device and of any dtype, or a `Drafter` such as `PromptLookup`.
        (`generate` keeps `assistant_model` to itself.)
    rule
        The verification rule, lossless `SpeculativeSampling()` by default; a block rule; or a controller of the
        common price.
    draft_length
        Tokens drafted per round, at least 1, or a `DraftLength`.
    generator
        Source of randomness; torch's default generator, so `torch.manual_seed`, if None. A list of one generator per
        row makes every text what it is alone with that generator, up to rounding. Equal seeds give equal text only
        for the same rule, draft length and batch: lossless means the same law, not the same text.
    account
        "exact" records the exact quantities at every verified position, "counts" only counts. By default exact where
        the statistics are returned.
    backend
        Of the verification step: "torch", "triton", or "auto", which is triton on CUDA where it is installed.
    compiled
        Whether both models' steps go through torch.compile; worth its minutes with a static cache.
    text_streamer
        Given the tokens of the only row after every round. (`generate` keeps `streamer` to itself.)

    Returns
    -------
    Tensor or SpeculativeOutput
        As `generate` does: tokens `[batch, length]`, or with return_dict_in_generate=True a `SpeculativeOutput`
        with the statistics.

    Raises
    ------
    InputError
        Beams, padding on the right, unlike vocabularies, a context that is too short, a model whose attention cannot
        be masked row by row, logits without a law in every row.
    KeyboardInterrupt
        On Ctrl-C, where only tokens are returned; a `SpeculativeOutput` says so instead.
    """
    paired = hasattr(draft, "config")
    vocab = common_vocabulary(model, draft) if paired else vocabulary_size(model)
    _check(draft_length, generation_config, generator, len(input_ids), text_streamer)
    tokens, padding = left_aligned(input_ids, model_kwargs.get("attention_mask"))
    length = [input_ids.shape[1] - pads for pads in padding]
    new_tokens = generation_config.max_length - input_ids.shape[1]
    for shortest in (min(length), max(length)):
        check_context(model, draft if paired else None, shortest, shortest + new_tokens)
    cache = model_kwargs.get("past_key_values")
    static = is_static(generation_config, cache)
    most = draft_length if isinstance(draft_length, int) else draft_length.most
    drafter: Drafter = ModelDrafter(draft, static=static, compiled=compiled) if paired else draft
    lines = len(length) * (drafter.drafts if isinstance(drafter, SeveralDrafts) else 1)
    target = CachedModel(
        model,
        "target",
        batch=lines,
        capacity=max(length) + new_tokens + most + 1,
        static=static,
        compiled=compiled,
    )
    warping = warping_of(logits_processor, not generation_config.do_sample, input_ids, padding)
    plan = Plan(
        rule=SpeculativeSampling() if rule is None else rule,
        draft_length=draft_length,
        max_new_tokens=new_tokens,
        vocab=vocab,
        warping=warping,
        uniforms=Uniforms(generator, len(length), model.device),
        exact=(account or ("exact" if generation_config.return_dict_in_generate else "counts")) == "exact",
        finished=finished_by(stopping_criteria, input_ids),
        emitted=emitted_to(text_streamer),
        keep_scores=bool(generation_config.output_scores or generation_config.output_logits),
        backend=backend,
    )
    seen = loaded(target, cache, padding)
    decoded = decode(target, drafter, tokens.to(model.device), length, plan, seen=seen)
    if text_streamer is not None:
        text_streamer.end()
    output = output_of(decoded, input_ids, generation_config, warping.temperature)
    if generation_config.return_dict_in_generate:
        return output
    if decoded.interrupted:
        raise KeyboardInterrupt
    return output.sequences


def generate(
    target_model: Any,
    draft_model: Any,
    input_ids: Tensor,
    *,
    rule: AnyRule | None = None,
    draft_length: int | DraftLength = 4,
    generator: Generators | None = None,
    account: Literal["exact", "counts"] = "exact",
    backend: Backend = "auto",
    compiled: bool = False,
    streamer: BaseStreamer | None = None,
    **generate_arguments: Any,
) -> SpeculativeOutput:
    """Generate from a target model and a draft; always returns the texts with their statistics.

    Parameters
    ----------
    target_model, draft_model
        Causal LMs over one vocabulary; the draft may be a `Drafter`.
    input_ids
        The prompts, `[batch, length]`; shorter ones padded on the left, with attention_mask=.
    rule, draft_length, generator, account, backend, compiled
        As in `speculative`.
    streamer
        As in `generate`; for one row.
    generate_arguments
        Anything `target_model.generate` takes: attention_mask, max_new_tokens, do_sample, temperature, top_k, top_p,
        num_return_sequences, generation_config, logits_processor, stopping_criteria, cache_implementation, ...

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
        account=account,
        backend=backend,
        compiled=compiled,
        streamer=streamer,
        text_streamer=streamer,
        **generate_arguments | {"return_dict_in_generate": True},
    )


def _check(
    draft_length: int | DraftLength,
    generation_config: Any,
    generator: Generators | None,
    batch: int,
    streamer: BaseStreamer | None,
) -> None:
    if isinstance(draft_length, int) and draft_length < 1:
        raise InputError(f"draft_length: expected at least 1; got {draft_length}")
    if (generation_config.num_beams or 1) > 1:
        raise InputError(f"speculative decoding: expected no beams; got num_beams {generation_config.num_beams}")
    if isinstance(generator, Sequence) and len(generator) != batch:
        raise InputError(f"generator: expected one, or one per row; got {len(generator)} for {batch} rows")
    if streamer is not None and batch > 1:
        raise InputError(f"streamer: expected a batch of one; got {batch} rows; stream them one at a time")
