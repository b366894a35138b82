"""What a judge is: something that scores texts, or prefers one of two."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a judge is asked.

    Parameters
    ----------
    prompt
        What the texts continue or answer.
    texts
        One row of a text, or two for a pairwise judge: "text" and the account of its generation, such as
        "log_likelihood", "kl" (sums over the text, nats) and "generated" (tokens).
    """

    prompt: str
    texts: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An answer.

    Parameters
    ----------
    score
        Of one text: any finite number, more is better. Of two: the preference for the first, 0 to 1, one half for
        a tie. None if there was an answer from which nothing could be read.
    details
        What else to keep, as flat JSON values: replies, tokens used.
    """

    score: float | None
    details: dict[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """Scores texts, a batch at a time."""

    @property
    def name(self) -> str:
        """What tables and rows call it."""
        ...

    @property
    def pairwise(self) -> bool:
        """Whether its questions have two texts."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides its scores, as plain JSON values without secrets; answers under others do not mix."""
        ...

    def judge(self, questions: Sequence[Question]) -> Sequence[Judgement | None]:
        """Answer every question; None where no answer came, which is asked again the next time."""
        ...
