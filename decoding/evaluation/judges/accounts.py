"""Judges that ask nobody: they read a text's score off the account of its generation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from decoding.evaluation.judges.protocol import Judgement, Question


class LogLikelihood:
    """Mean log-likelihood of a text's tokens under the target, nats per token."""

    name = "log_likelihood"
    pairwise = False

    @property
    def settings(self) -> dict[str, Any]:
        """Its kind: nothing else decides its scores."""
        return {"kind": self.name}

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        """Score every text; unreadable where the target cannot write it or it has no tokens."""
        return [Judgement(score=_per_token(question.texts[0], "log_likelihood")) for question in questions]


class SequenceKL:
    """How far the law of a text's tokens was from the target's, counted against the rule.

    The score is minus the sum over the text of KL(output law, target), nats, by its tokens. By the chain rule the
    mean of the sums is the divergence of whole texts.
    """

    name = "sequence_kl"
    pairwise = False

    @property
    def settings(self) -> dict[str, Any]:
        """Its kind: nothing else decides its scores."""
        return {"kind": self.name}

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        """Score every text; unreadable where the divergence is infinite or there are no tokens."""
        divergences = [_per_token(question.texts[0], "kl") for question in questions]
        return [Judgement(score=None if each is None else 0.0 - each) for each in divergences]


def _per_token(row: Mapping[str, Any], key: str) -> float | None:
    """A sum over a text by its tokens; None of no tokens, or where a row holds null or "inf" for an infinite sum."""
    total = row[key]
    if total is None or not row["generated"] or not math.isfinite(float(total)):
        return None
    return total / row["generated"]
