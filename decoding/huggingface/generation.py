"""The loop inside Hugging Face's own front door."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from decoding.drafting import Drafter, ModelDrafter, MultiDraft
from decoding.huggingface.door import (
    check_arguments,
    check_choices,
    check_config,
    check_named,
    check_prepared,
    check_prompts,
    check_streamer,
    check_target,
    drafter_of,
    judge_of,
    with_stop_strings,
)
from decoding.huggingface.loading import check_context, common_vocabulary, vocabulary_size
from decoding.huggingface.output import SpeculativeOutput, output_of
from decoding.huggingface.request import emitted_to, finished_by, is_static, left_aligned, loaded, warping_of
from decoding.huggingface.saved_settings import acting_settings
from decoding.huggingface.user_cache import fill, users_cache
from decoding.loop.decode import decode
from decoding.loop.plan import Decoded, Plan
from decoding.models.cached_model import CachedModel
from decoding.models.wrappers import check_weights, evaluating
from decoding.policies.draft_length import DraftLength
from decoding.policies.price import Controller
from decoding.sampling.uniforms import Uniforms
from decoding.verification import Backend
from tradeoff.rule import BlockRule, Rule

AnyRule: TypeAlias = Rule | BlockRule | Controller | str
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

    These work as in `generate`: batches of left-padded prompts, num_return_sequences, generation config,
    temperature, top-k, top-p, penalties and custom logits processors (each applied once, to both models),
    max_new_tokens, EOS lists, stopping criteria (asked after every token, row by row), cache_implementation="static",
    do_sample=False (the rule then sees one-hot laws; lossless rules give greedy decoding's text), and past_key_values,
    a DynamicCache or StaticCache: it is read, and filled as `generate` fills it, unless Ctrl-C ends the call.
    Everything else that would reach the model is refused by name.

    `generate` does not pass all of its arguments on to custom loops. A `streamer` gets the prompt and nothing more, not
    even the end: give text_streamer instead. The `tokenizer` does not arrive, and stop_strings need it: call
    `decoding.generate`, or give a `StopStringCriteria`. `assistant_model` and `synced_gpus` are dropped silently.

    During the call the models are in evaluation mode, because gradient checkpointing drops the cache.

    Parameters
    ----------
    model, input_ids, logits_processor, stopping_criteria, generation_config
        Supplied by `generate`; `input_ids` is `[batch, length]`.
    draft
        A causal LM over the same vocabulary, on any device and of any dtype, or a `Drafter` such as `PromptLookup`.
        What torch.compile and PEFT wrap around a model is taken off; adapters in its layers stay.
    rule
        The verification rule or its spec, "decoding_opt:epsilon=0.1", lossless `SpeculativeSampling()` by default; a
        block rule; or a controller of the common price.
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
        Given the prompt of the only row, its new tokens after every round, and the end, also after an error.

    Returns
    -------
    Tensor or SpeculativeOutput
        As `generate` does: tokens `[batch, length]`, or with return_dict_in_generate=True a `SpeculativeOutput`
        with the statistics.

    Raises
    ------
    InputError
        An argument of another kind; beams and other searches, padding on the right, unlike vocabularies, a context
        that is too short; a target that is shown more than tokens, is replaced in part or gets a learned prompt;
        training mode with dropout; a model whose attention cannot be masked row by row; logits without a law in every
        row; a stopping criterion without an answer for every row.
    KeyboardInterrupt
        On Ctrl-C, where only tokens are returned; a `SpeculativeOutput` says so instead.
    """
    with _ended(text_streamer) as streamer:
        check_prepared(model, input_ids, model_kwargs)
        check_prompts(input_ids, vocabulary_size(model))
        check_config(generation_config)
        judge = judge_of(rule)
        check_choices(
            draft_length=draft_length,
            generator=generator,
            account=account,
            backend=backend,
            compiled=compiled,
            streamed=streamer is not None,
            batch=len(input_ids),
        )
        prompt = input_ids.shape[1]
        cache = users_cache(model_kwargs.get("past_key_values"), prompt, generation_config.max_length)
        new_tokens = generation_config.max_length - prompt
        texts = _Prompts.of(input_ids, model_kwargs.get("attention_mask"))
        most = draft_length if isinstance(draft_length, int) else draft_length.most
        pair = _Models.of(
            model, draft, texts, new_tokens, most, static=is_static(generation_config, cache), compiled=compiled
        )
        warping = warping_of(
            logits_processor, not generation_config.do_sample, input_ids, texts.padding, stopping_criteria
        )
        scale = warping.temperature or 1.0
        plan = Plan(
            rule=judge,
            draft_length=draft_length,
            max_new_tokens=new_tokens,
            vocab=pair.vocab,
            warping=warping,
            uniforms=Uniforms(generator, len(input_ids), pair.target.device),
            exact=(account or ("exact" if generation_config.return_dict_in_generate else "counts")) == "exact",
            finished=finished_by(stopping_criteria, input_ids, scale if generation_config.output_scores else None),
            emitted=emitted_to(streamer),
            keep_scores=bool(generation_config.output_scores or generation_config.output_logits),
            keep_rows=cache is not None,
            backend=backend,
        )
        if streamer is not None:
            streamer.put(input_ids.cpu())
        decoded = _decoded(pair, texts, plan, cache)
        saved = acting_settings(model, generation_config)
        output = output_of(decoded, input_ids, generation_config, scale, cache, saved)
        if cache is not None and not decoded.interrupted:
            fill(cache, pair.target, output.sequences, texts.padding, [len(text.tokens) for text in decoded.texts])
    if generation_config.return_dict_in_generate:
        return output
    if decoded.interrupted:
        raise KeyboardInterrupt
    return output.sequences


def generate(
    input_ids: Tensor,
    *by_position: Any,
    target: Any = None,
    draft: Any = None,
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
    input_ids
        The prompts, `[batch, length]`; shorter ones padded on the left, with attention_mask=.
    by_position
        Refused. Give the models by name: a swapped pair would run without an error.
    target, draft
        Causal LMs over one vocabulary; the draft may be a `Drafter`.
    rule, draft_length, generator, account, backend, compiled
        As in `speculative`.
    streamer
        As in `generate`; for one row. Its `end` is called even if the loop fails.
    generate_arguments
        Anything `target.generate` takes: attention_mask, max_new_tokens, do_sample, temperature, top_k, top_p,
        num_return_sequences, generation_config, logits_processor, stopping_criteria, stop_strings with tokenizer,
        cache_implementation, past_key_values, ...

    Raises
    ------
    InputError
        As in `speculative`; models that are given by position.
    """
    with _ended(streamer) as ending:
        check_named("generate(input_ids, target=..., draft=...)", by_position)
        check_target(target)
        check_prompts(input_ids, vocabulary_size(target))
        check_arguments(generate_arguments, input_ids)
        return target.generate(
            input_ids,
            custom_generate=speculative,
            draft=draft,
            rule=rule,
            draft_length=draft_length,
            generator=generator,
            account=account,
            backend=backend,
            compiled=compiled,
            text_streamer=ending,
            **with_stop_strings(target, generate_arguments) | {"return_dict_in_generate": True},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prompts:
    """The prompts as the loop wants them: padding on the right."""

    tokens: Tensor  # [batch, longest]
    padding: list[int]  # [batch]
    length: list[int]  # [batch]

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor | None) -> "_Prompts":
        tokens, padding = left_aligned(input_ids, attention_mask)
        return cls(tokens=tokens, padding=padding, length=[input_ids.shape[1] - pads for pads in padding])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Models:
    """Who drafts and who is asked."""

    target: CachedModel
    drafter: Drafter
    plain: dict[str, Any]
    vocab: int

    @classmethod
    def of(
        cls, model: Any, draft: Any, texts: _Prompts, new_tokens: int, most: int, *, static: bool, compiled: bool
    ) -> "_Models":
        """Bring a target and a draft together, with room for the texts and a block of at most `most` tokens."""
        drafter = drafter_of(draft, static=static, compiled=compiled)
        paired = drafter.model if isinstance(drafter, ModelDrafter) else None
        vocab = vocabulary_size(model) if paired is None else common_vocabulary(model, paired)
        check_context(model, paired, texts.length, new_tokens)
        target = CachedModel(
            model,
            "target",
            batch=len(texts.length) * (drafter.drafts if isinstance(drafter, MultiDraft) else 1),
            capacity=max(texts.length) + new_tokens + most + 1,
            static=static,
            compiled=compiled,
        )
        plain = {"target": model} if paired is None else {"target": model, "draft": paired}
        return cls(target=target, drafter=drafter, plain=plain, vocab=vocab)


def _decoded(pair: _Models, texts: _Prompts, plan: Plan, cache: Any) -> Decoded:
    """Run the loop in evaluation mode, after what the caller's cache knows."""
    for name, each in pair.plain.items():
        check_weights(each, name)
    with evaluating(**pair.plain):
        seen = loaded(pair.target, cache, texts.padding)
        return decode(pair.target, pair.drafter, texts.tokens.to(pair.target.device), texts.length, plan, seen=seen)


class _Ending(BaseStreamer):
    """A streamer that is told the end once, whatever happens: a thread that reads it would wait for ever."""

    def __init__(self, streamer: BaseStreamer) -> None:
        self.streamer, self.ended = streamer, False

    def put(self, value: Tensor) -> None:
        """Pass tokens on."""
        self.streamer.put(value)

    def end(self) -> None:
        """Pass the end on."""
        if not self.ended:
            self.ended = True
            self.streamer.end()


@contextmanager
def _ended(streamer: BaseStreamer | None) -> Iterator[_Ending | None]:
    check_streamer(streamer)
    if streamer is None:
        yield None
        return
    ending = streamer if isinstance(streamer, _Ending) else _Ending(streamer)
    try:
        yield ending
    finally:
        ending.end()
