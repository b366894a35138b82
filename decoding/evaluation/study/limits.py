"""What a study may ask for: two models, and no more texts than can be written."""

import os
from typing import TYPE_CHECKING, Annotated

from decoding.evaluation.study.strict_yaml import Range, wrong

if TYPE_CHECKING:
    from decoding.evaluation.study.sections import PairSettings

MOST = 1_000_000
"""Texts, or tokens of one: more would take weeks to write, and memory to plan."""

Amount = Annotated[int, Range(least=1, most=MOST)]
"""One or more, within reason."""


def check_pair(pair: "PairSettings") -> "PairSettings":
    """Give a pair back if it is two models, or the embedded one.

    Raises
    ------
    InputError
        One model, or one twice.
    """
    if (pair.target is None) != (pair.draft is None):
        wrong("pair", "both a target and a draft, or neither for the embedded pair", pair.target or pair.draft)
    if pair.target and pair.draft and os.path.realpath(pair.target) == os.path.realpath(pair.draft):
        wrong("pair.draft", "another model than the target, of which something is rejected", pair.draft)
    return pair


def check_amount(prompts: int, samples: int, cells: int) -> None:
    """Check that a study's texts can be planned in memory.

    Raises
    ------
    InputError
        They are too many.
    """
    if prompts * samples * cells > MOST:
        told = f"{prompts} prompts x {samples} samples x {cells} rules at values"
        wrong("texts.samples", f"at most {MOST} texts in all", told, "lower it, or prompts.limit")
