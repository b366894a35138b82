"""A draft and a target model with their common tokenizer; the embedded pair by default."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from decoding import embedded
from decoding.huggingface import common_vocabulary, load_model, load_tokenizer, vocabulary_size
from decoding.huggingface.door import check_named
from solvers.errors import InputError
from solvers.printing import counted, lines


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two causal LMs over one vocabulary.

    Parameters
    ----------
    target, draft
        The models.
    tokenizer
        The target's.
    name
        "target with draft", for tables.
    """

    target: Any
    draft: Any
    tokenizer: Any
    name: str

    @property
    def vocab(self) -> int:
        """Tokens that texts are written in: the target's."""
        return vocabulary_size(self.target)

    def __repr__(self) -> str:
        """Names, sizes and vocabulary; a model's own text has a line for every module."""
        sizes = ", ".join(f"{role} {_described(getattr(self, role))}" for role in ("target", "draft"))
        return lines(f"Pair: {self.name}, {counted(self.vocab, 'token')}", sizes)


def load_pair(
    *by_position: Any,
    target: str | None = None,
    draft: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Pair:
    """Load a pair by hub names or paths; the embedded pair if neither is given.

    Raises
    ------
    InputError
        Only one name is given, names are given by position, a model cannot be loaded, or the vocabularies differ.
    """
    check_named("load_pair(target=..., draft=...)", by_position)
    name = pair_name(target, draft)
    if target is None or draft is None:
        target, draft = str(embedded.TARGET), str(embedded.DRAFT)
    pair = Pair(
        target=load_model(target, dtype=dtype, device=device),
        draft=load_model(draft, dtype=dtype, device=device),
        tokenizer=load_tokenizer(target),
        name=name,
    )
    common_vocabulary(pair.target, pair.draft)
    if pair.tokenizer.get_vocab() != load_tokenizer(draft).get_vocab():
        raise InputError(
            f"pair: expected one vocabulary; got tokens numbered differently in {target} and {draft}; choose a draft "
            "trained with the target's tokenizer"
        )
    return pair


def pair_name(target: str | None, draft: str | None) -> str:
    """What tables call a pair, before it is loaded.

    Raises
    ------
    InputError
        Only one of the two is given.
    """
    if (target is None) != (draft is None):
        raise InputError("pair: expected both a target and a draft, or neither for the embedded pair; got one")
    return "embedded pair" if target is None or draft is None else f"{_short(target)} with {_short(draft)}"


def check_different(target: str | None, draft: str | None) -> None:
    """Check that a draft is not the target itself, of which nothing is ever rejected.

    Raises
    ------
    InputError
        It is.
    """
    if target is not None and draft is not None and os.path.realpath(target) == os.path.realpath(draft):
        raise InputError(
            f"draft: expected another model than the target, of which something is rejected; got {draft!r} for both"
        )


def _described(model: Any) -> str:
    weights = list(model.parameters())
    millions = sum(each.numel() for each in weights) / 1e6
    where = f", {weights[0].dtype} on {weights[0].device}".replace("torch.", "") if weights else ""
    return f"{type(model).__name__} ({millions:.3g} million parameters{where})"


def _short(name_or_path: str) -> str:
    return name_or_path.rstrip("/").split("/")[-1]
