"""What `generate` has prepared, in the loop's own terms."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StaticCache
from transformers.generation import logits_process as process
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria
from transformers.generation.streamers import BaseStreamer

from decoding.models.cached_model import CachedModel
from decoding.sampling.processors import ByRow, Processor, Watched, Whole
from decoding.sampling.warping import Warping
from solvers.errors import InputError

BLIND = (
    process.TemperatureLogitsWarper,
    process.TopKLogitsWarper,
    process.TopPLogitsWarper,
    process.MinPLogitsWarper,
    process.TypicalLogitsWarper,
    process.EpsilonLogitsWarper,
    process.EtaLogitsWarper,
    process.InfNanRemoveLogitsProcessor,
    process.SuppressTokensLogitsProcessor,
)
"""Processors that do not look at the text: one call serves every row and position."""

_TRANSFORMERS = process.__name__

STATEFUL = {
    f"{_TRANSFORMERS}.UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    f"{_TRANSFORMERS}.ClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    f"{_TRANSFORMERS}.DiaClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    f"{_TRANSFORMERS}.SynthIDTextWatermarkLogitsProcessor": "watermarking_config",
    f"{_TRANSFORMERS}.WhisperNoSpeechDetection": "no_speech_threshold",
    f"{_TRANSFORMERS}.DiaEOSDelayPatternLogitsProcessor": "delay_pattern",
    "xgrammar.contrib.hf.LogitsProcessor": "it",
}
"""Processors that count their calls or keep what they saw, or take rows in pairs, and the option that makes them."""


def left_aligned(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, list[int]]:
    """Shift left-padded prompts to the left; return them, `[batch, length]`, and how much padding each had.

    Raises
    ------
    InputError
        Padding elsewhere than on the left, or a mask of another shape.
    """
    batch, longest = input_ids.shape
    if attention_mask is None:
        return input_ids, [0] * batch
    mask = attention_mask.to(device=input_ids.device, dtype=torch.bool)
    if mask.shape != input_ids.shape:
        raise InputError(
            f"attention_mask: expected the shape of input_ids, {[batch, longest]}; got {list(mask.shape)}; give whole "
            "texts, those a cache knows included"
        )
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise InputError(
            "attention_mask: expected prompts padded on the left; got other padding; set tokenizer.padding_side = "
            "'left'"
        )
    pads = (~mask).sum(dim=1)
    columns = torch.arange(longest, device=input_ids.device) + pads[:, None]
    return input_ids.gather(1, columns.clamp(max=longest - 1)), pads.tolist()


def warping_of(processors: Any, greedy: bool, input_ids: Tensor, padding: list[int], stopping_criteria: Any) -> Warping:
    """Split a list of logits processors into a temperature and the rest.

    The temperature is kept apart if only top-k follows it, which does not depend on the scale; a processor behind it
    that does, top-p for one, keeps it in the list.

    Raises
    ------
    InputError
        A processor that is known to keep a state; others are found out while they work.
    """
    # a class derived from one of transformers' may do anything: only the very classes are known
    rest, temperature = list(processors), 0.0 if greedy else 1.0
    behind = [place for place, each in enumerate(rest) if type(each) is not process.TopKLogitsWarper]
    if behind and type(rest[behind[-1]]) is process.TemperatureLogitsWarper and not greedy:
        temperature = float(rest.pop(behind[-1]).temperature)
    longest = [each.max_length for each in stopping_criteria if isinstance(each, MaxLengthCriteria)]
    return Warping(
        temperature=temperature,
        processors=[_processor(each) for each in rest],
        reads_text=not all(type(each) in BLIND for each in rest),
        prompts=input_ids,
        padding=padding,
        ends=_ends(stopping_criteria),
        max_new_tokens=min(longest) - input_ids.shape[1] if longest else None,
    )


def _processor(processor: Any) -> Processor:
    """A logits processor in the loop's terms; one that transformers does not define is watched."""
    name = getattr(processor, "__name__", type(processor).__name__)
    for kind in (f"{each.__module__}.{each.__qualname__}" for each in type(processor).__mro__):
        if kind in STATEFUL:
            raise InputError(
                f"logits processor {kind}: expected a function of the text and its scores; got one that keeps a state "
                f"from call to call; leave {STATEFUL[kind]} out, or write with the model's own generate"
            )
    if type(processor) is process.PrefixConstrainedLogitsProcessor:
        return Watched(ByRow(_constrained_by(processor._prefix_allowed_tokens_fn)), "prefix_allowed_tokens_fn")
    if type(processor).__module__ == _TRANSFORMERS:
        return Whole(processor)
    return Watched(Whole(processor), name)


def _constrained_by(allowed: Callable[[int, Tensor], list[int]]) -> Callable[[int, Tensor, Tensor], Tensor]:
    """Return transformers' own constraint for single rows: the function is told the row's number in the batch."""

    def constrained(row: int, tokens: Tensor, scores: Tensor) -> Tensor:
        own: Any = process.PrefixConstrainedLogitsProcessor(lambda _, text: allowed(row, text), 1)
        return own(tokens, scores)

    return constrained


def _ends(stopping_criteria: Any) -> set[int]:
    """End tokens among the stopping criteria."""
    return {
        token
        for criterion in stopping_criteria
        if isinstance(criterion, EosTokenCriteria)
        for token in criterion.eos_token_id.tolist()
    }


def finished_by(
    stopping_criteria: Any, input_ids: Tensor, scale: float | None
) -> Callable[[int, list[int], list[Tensor]], bool]:
    """Return `(row, its generated tokens, its processed logits) -> bool`: an end token, or another criterion's word.

    The greatest length is the loop's own matter. Criteria see a row as `generate` lays it out.

    Parameters
    ----------
    stopping_criteria
        Those that `generate` made, and the caller's.
    input_ids
        The prompts, `[batch, length]`.
    scale
        Divides the processed logits, as in the output; None where these are not asked for, and then criteria get None
        in their place, as in `generate`.

    Raises
    ------
    InputError
        When a criterion says neither stop nor go on.
    """
    ends = _ends(stopping_criteria)
    others = [each for each in stopping_criteria if not isinstance(each, EosTokenCriteria | MaxLengthCriteria)]

    def finished(row: int, tokens: list[int], logits: list[Tensor]) -> bool:
        if tokens[-1] in ends:
            return True
        if not others:
            return False
        text = torch.cat([input_ids[row], input_ids.new_tensor(tokens)])[None]
        scores = None if scale is None else tuple(each[None] / scale for each in logits)
        return any(_says_stop(criterion, criterion(text, scores), len(input_ids)) for criterion in others)

    return finished


def _says_stop(criterion: Any, answer: Any, batch: int) -> bool:
    if isinstance(answer, Tensor) and not answer.is_floating_point() and answer.numel() == 1:
        if answer.ndim == 1 or batch == 1:
            return bool(answer)
    elif isinstance(answer, bool | np.bool_) and batch == 1:
        return bool(answer)
    # `generate` takes one truth value for the word on all rows, which here end one by one
    got = f"shape {list(answer.shape)}, {answer.dtype}" if isinstance(answer, Tensor) else repr(answer)
    raise InputError(
        f"stopping_criteria: expected a boolean tensor, one entry per row; got {got} from "
        f"{type(criterion).__name__}; return torch.full((len(input_ids),), stop)"
    )


def emitted_to(streamer: BaseStreamer | None) -> Callable[[int, list[int]], None]:
    """Return `(row, tokens)`, which passes them on."""

    def emitted(row: int, tokens: list[int]) -> None:
        if streamer is not None:
            streamer.put(torch.tensor(tokens))

    return emitted


def is_static(generation_config: Any, cache: Any) -> bool:
    """Whether a cache of fixed size was asked for.

    Raises
    ------
    InputError
        A kind of cache that the loop has not.
    """
    kind = generation_config.cache_implementation
    if kind not in (None, "dynamic", "dynamic_full", "static"):
        raise InputError(f"cache_implementation: expected 'dynamic' or 'static'; got {kind!r}")
    return kind == "static" or isinstance(cache, StaticCache)


def loaded(target: CachedModel, cache: Any, padding: list[int]) -> int:
    """Take over what a cache given by the user holds; return how many columns every row then has."""
    if cache is None or int(cache.get_seq_length()) == 0:
        return 0
    return max(target.load(cache, torch.tensor(padding)) - max(padding), 0)
