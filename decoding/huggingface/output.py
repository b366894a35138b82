"""What `generate` gives back, from a decoded batch."""

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.utils.generic import ModelOutput

from decoding.loop.plan import Decoded, WrittenText
from decoding.loop.statistics import Statistics
from decoding.policies.stopwatch import Seconds
from solvers.errors import InputError
from solvers.printing import counted, lines, number


@dataclass(repr=False)
class SpeculativeOutput(ModelOutput):
    """Generated texts and their account.

    Parameters
    ----------
    sequences
        Prompts and generated tokens, `[batch, length]`, as `generate` lays them out: padding stays left of the prompts
        and fills finished rows.
    statistics
        All texts together.
    texts
        Every text's own statistics, in the order of the batch.
    errors
        Why a text ended before its time, None for those that did not.
    seconds
        Where the time went.
    interrupted
        Whether Ctrl-C ended the call; what was generated until then is here.
    saved_settings
        Sampling settings that acted and stand in the generation config saved with the target, such as a temperature,
        by name; printed with the output.
    scores, logits
        With output_scores and output_logits: the target's processed and raw logits at every generated token, one
        `[batch, vocab]` per token; zeros after a text's end.
    past_key_values
        The caller's cache, if one was given: it holds all tokens but the last.

    Notes
    -----
    As a mapping it has what `generate` returns: transformers' pipelines stack whatever else they find there.
    """

    sequences: Tensor
    # never None in fact; ModelOutput allows one field without a default
    statistics: Statistics = cast(Statistics, None)
    texts: tuple[Statistics, ...] = cast(tuple[Statistics, ...], None)
    errors: tuple[str | None, ...] = cast(tuple[str | None, ...], None)
    seconds: Seconds = cast(Seconds, None)
    interrupted: bool = cast(bool, None)
    saved_settings: dict[str, Any] = cast(dict[str, Any], None)
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    past_key_values: Cache | None = None

    def __post_init__(self) -> None:
        """Keep the account out of the mapping."""
        super().__post_init__()
        for name in ("statistics", "texts", "errors", "seconds", "interrupted", "saved_settings"):
            if name in self:
                OrderedDict.__delitem__(self, name)

    def __repr__(self) -> str:
        """What was written at what price, which texts ended early, and which of the target's saved settings acted."""
        _, account, _ = repr(self.statistics).splitlines()
        counts, failed = self.statistics, sum(error is not None for error in self.errors)
        head = (
            f"SpeculativeOutput: {counted(len(self.texts), 'text')}, {counted(counts.generated, 'token')} in "
            f"{counted(counts.target_calls, 'target call')}, {number(counts.tokens_per_target_call)} tokens per call"
        )
        ended = [f"{counted(failed, 'text')} ended in an error"] if failed else []
        ended += ["interrupted by Ctrl-C"] if self.interrupted else []
        rest = [", ".join(ended)] if ended else []
        if self.saved_settings:
            named = ", ".join(f"{name} {value}" for name, value in self.saved_settings.items())
            rest.append(f"From the generation config saved with the target: {named}")
        return lines(head, account.strip(), *rest)

    __str__ = __repr__  # ModelOutput is a dict, whose own text is every tensor

    def _repr_html_(self) -> str:
        return self.statistics._repr_html_()


def output_of(
    decoded: Decoded,
    input_ids: Tensor,
    generation_config: Any,
    scale: float,
    cache: Cache | None,
    saved_settings: dict[str, Any],
) -> SpeculativeOutput:
    """Lay a decoded batch out as `generate` does.

    Parameters
    ----------
    decoded
        The batch.
    input_ids
        The prompts, `[batch, length]`.
    generation_config
        Pad and end tokens, and whether scores are wanted.
    scale
        The temperature where the loop keeps it apart from the other processors, else 1; scores have it.
    cache
        The caller's, if there is one.
    saved_settings
        Which of the target's saved generation config acted.

    Raises
    ------
    InputError
        Every text ended in an error.
    """
    errors = tuple(text.error for text in decoded.texts)
    failed = [row for row, error in enumerate(errors) if error is not None]
    if len(failed) == len(errors):
        raise InputError(errors[0] or "")
    if failed:
        warnings.warn(f"rows {failed} of the batch ended early: {errors[failed[0]]}", RuntimeWarning, stacklevel=2)
    longest = max(len(text.tokens) for text in decoded.texts)
    written = input_ids.new_full((len(errors), longest), _padding_token(generation_config))
    for row, text in zip(written, decoded.texts, strict=True):
        row[: len(text.tokens)] = row.new_tensor(text.tokens)
    return SpeculativeOutput(
        sequences=torch.cat([input_ids, written], dim=1),
        statistics=Statistics.pooled([text.statistics for text in decoded.texts]),
        texts=tuple(text.statistics for text in decoded.texts),
        errors=errors,
        seconds=decoded.seconds,
        interrupted=decoded.interrupted,
        saved_settings=saved_settings,
        scores=_columns(decoded.texts, "scores", scale) if generation_config.output_scores else None,
        logits=_columns(decoded.texts, "logits", 1.0) if generation_config.output_logits else None,
        past_key_values=cache,
    )


def _padding_token(generation_config: Any) -> int:
    if generation_config.pad_token_id is not None:
        return generation_config.pad_token_id
    ends = generation_config.eos_token_id
    return 0 if ends is None else ends if isinstance(ends, int) else ends[0]


def _columns(texts: tuple[WrittenText, ...], name: str, scale: float) -> tuple[Tensor, ...]:
    # out of inference mode: what is returned may take part in a backward pass
    rows = [[each.clone() for each in getattr(text, name)] for text in texts]
    empty = torch.zeros_like(next(row[0] for row in rows if row))
    return tuple(
        torch.stack([row[place] / scale if place < len(row) else empty for row in rows])
        for place in range(max(len(row) for row in rows))
    )
