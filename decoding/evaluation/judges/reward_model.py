"""A reward model as a judge."""

import math
from collections.abc import Sequence
from typing import Any

from decoding.evaluation.judges.doors import check_name
from decoding.evaluation.judges.protocol import Judgement, Question
from solvers.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")


class RewardModel:
    """Scores a text by the logit of a Hugging Face sequence-classification model with one label.

    The model is loaded when it is first asked. A text that is longer than its context, or empty together with its
    prompt, is not scored: its answer counts as unreadable and has "too_long" 1 or "tokens" 0.

    Parameters
    ----------
    name_or_path
        Hub name, or a folder made by save_pretrained.
    device, dtype
        Where the model runs, and "float32", "bfloat16" or "float16".
    batch_size
        Texts scored at once; it decides memory, and scores only by rounding.
    template
        How a prompt and a text become what is scored, with {prompt} and {text}; None for the tokenizer's chat
        template, or the text right after the prompt if it has none.
    name
        What tables and rows call it, at most 60 printable characters; None for the last part of `name_or_path`.

    Raises
    ------
    InputError
        An unknown dtype, a name that cannot be printed, a batch size below 1, or a template without {text} or with
        unknown fields.
    """

    pairwise = False

    def __init__(
        self,
        name_or_path: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 16,
        template: str | None = None,
        name: str | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype: expected float32, bfloat16 or float16; got {dtype!r}; choose one of them")
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1; got {batch_size}; raise it")
        if template is not None:
            _check_template(template)
        self.name = name or name_or_path.rstrip("/").rpartition("/")[2]
        check_name(self.name)
        self._name_or_path, self._template = name_or_path, template
        self._device, self._dtype, self._batch_size = device, dtype, batch_size
        self._scorer: Any = None

    @property
    def settings(self) -> dict[str, Any]:
        """Model, dtype and template; not what changes scores by rounding alone."""
        return {
            "kind": "reward_model",
            "name_or_path": self._name_or_path,
            "dtype": self._dtype,
            "template": self._template,
        }

    def judge(self, questions: Sequence[Question]) -> list[Judgement]:
        """Score every text.

        Raises
        ------
        InputError
            The model cannot be loaded, is no reward model, or the device is not there.
        """
        scorer = self._load()
        texts = [scorer.tokens(question.prompt, question.texts[0]["text"]) for question in questions]
        fitting = [index for index, tokens in enumerate(texts) if 0 < len(tokens) <= scorer.context]
        scores = dict(zip(fitting, scorer.scores([texts[index] for index in fitting], self._batch_size), strict=True))
        return [
            Judgement(
                score=_finite(scores.get(index)),
                details={"tokens": len(tokens), "too_long": int(len(tokens) > scorer.context)},
            )
            for index, tokens in enumerate(texts)
        ]

    def _load(self) -> Any:
        if self._scorer is None:
            from decoding.huggingface import RewardScorer

            self._scorer = RewardScorer(
                self._name_or_path, device=self._device, dtype=self._dtype, template=self._template
            )
        return self._scorer


def _check_template(template: str) -> None:
    try:
        known = "\0" in template.format(prompt="", text="\0")
    except (KeyError, IndexError, ValueError, AttributeError):
        known = False
    if not known:
        raise InputError(
            f"template: expected a text with {{text}} and, if wanted, {{prompt}}; got {template!r}; double other braces"
        )


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None
