"""What a decoding call is asked for, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from decoding.loop.statistics import Statistics
from decoding.policies.draft_length import DraftLength
from decoding.policies.price import Controller
from decoding.policies.stopwatch import Seconds
from decoding.sampling.uniforms import Uniforms
from decoding.sampling.warping import Warping
from decoding.verification import Backend
from tradeoff.rule import BlockRule, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """How to decode a batch.

    Parameters
    ----------
    rule
        A verification rule, a rule that judges whole blocks, or a controller that sets one before every round.
    draft_length
        Tokens drafted per round, or a policy that chooses.
    max_new_tokens
        Per text, at least 1.
    vocab
        Tokens of the target.
    warping, uniforms
        Processors and temperature; the randomness.
    exact
        Whether exact quantities are recorded at every position.
    finished
        `(row, its generated tokens, its processed logits if they are kept) -> bool`, asked after every single token, so
        a stop inside a block is honoured.
    emitted
        `(row, new tokens)`, told after every round.
    keep_scores
        Whether the target's raw and processed logits at every generated token are kept.
    keep_rows
        Whether finished texts stay in the models' caches to the end.
    backend
        Of the verification step.
    """

    rule: Rule | BlockRule | Controller
    draft_length: int | DraftLength
    max_new_tokens: int
    vocab: int
    warping: Warping
    uniforms: Uniforms
    exact: bool
    finished: Callable[[int, list[int], list[Tensor]], bool]
    emitted: Callable[[int, list[int]], None] = lambda row, tokens: None
    keep_scores: bool = False
    keep_rows: bool = False
    backend: Backend = "auto"


@dataclass(frozen=True, kw_only=True, eq=False)
class WrittenText:
    """One decoded text.

    Parameters
    ----------
    tokens
        The generated tokens.
    statistics
        Their account.
    error
        Why the text ended before its time; None if nothing went wrong.
    logits, scores
        The target's logits, raw and processed, at every token, `[vocab]` each; empty unless kept.
    """

    tokens: list[int]
    statistics: Statistics
    error: str | None
    logits: list[Tensor]
    scores: list[Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A decoded batch: its texts, where the time went, and whether Ctrl-C ended it."""

    texts: tuple[WrittenText, ...]
    seconds: Seconds
    interrupted: bool
