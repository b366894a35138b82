"""What a study may ask for: no more texts than can be written."""

from typing import Annotated

from decoding.evaluation.study.strict_yaml import Range, wrong

MOST = 1_000_000
"""Texts, or tokens of one: more would take weeks to write, and memory to plan."""

Amount = Annotated[int, Range(least=1, most=MOST)]
"""One or more, within reason."""


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
