"""Sections of a study's configuration, each for the step that needs it."""

from dataclasses import dataclass
from typing import Annotated

from decoding.evaluation.study.limits import Amount
from decoding.evaluation.study.strict_yaml import Count, Dtype, Fraction, Natural, Range
from decoding.sampling.parameters import LEAST_TEMPERATURE, Sampling

REJECTION = "rejection"
"""What rules are matched at if not at a value of their knob."""

At = tuple[str, tuple[float, ...]]
"""What rules are matched at: "rejection" or a knob's name, and the values."""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The two models.

    Parameters
    ----------
    target, draft
        Hub names or folders; the embedded pair if both are None.
    dtype, device
        Of both models.
    """

    target: str | None = None
    draft: str | None = None
    dtype: Dtype = "float32"
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """The prompts: what `load_prompts` takes.

    Parameters
    ----------
    source, column, name, split, revision, limit, template
        As there.
    chat
        Whether a prompt becomes a user's message in the tokenizer's chat template.
    """

    source: str = "embedded"
    column: str | None = None
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    limit: Count | None = None
    template: str = "{prompt}"
    chat: bool = False


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The texts.

    Parameters
    ----------
    samples
        Texts per prompt and rule; of an odd number no prompt ends in a tie.
    max_new_tokens
        Tokens per text.
    temperature, top_p, top_k
        As in `Sampling`: of both models, in these texts and in those that knobs are set on.
    draft_length
        Tokens drafted per round.
    batch_size
        Texts at once.
    """

    samples: Amount = 3
    max_new_tokens: Amount = 40
    temperature: Annotated[float, Range(least=LEAST_TEMPERATURE)] = 1.0
    top_p: Annotated[float, Range(above=0, most=1)] = 1.0
    top_k: Natural = 0
    draft_length: Amount = 4
    batch_size: Amount = 16

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Matching rules.

    Parameters
    ----------
    positions
        Real positions on which knobs are set or measured.
    tolerance
        By how much mean rejections of compared rules may differ.
    """

    positions: Amount = 1500
    tolerance: Fraction = 0.02


@dataclass(frozen=True, kw_only=True)
class PublishedRate:
    """A published win rate, printed beside the study's.

    Parameters
    ----------
    judge, at, against, rule
        Which comparison: the judge's name, the value, the rule that wins, the one it wins over.
    win_rate
        Fraction of prompts won by `against`.
    prompts
        How many prompts it rests on.
    source
        Where it stands.
    """

    judge: str
    at: float
    against: str
    rule: str
    win_rate: Fraction
    prompts: Count
    source: str
