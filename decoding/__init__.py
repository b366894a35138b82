"""Speculative decoding of language models with any verification rule, and the exact account of what it gave away.

Everything loads torch and transformers on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoding.drafting import ModelDrafter, MultiDraft, PromptLookup, early_exit
    from decoding.huggingface import SpeculativeOutput, generate, speculative
    from decoding.huggingface.pair import Pair, load_pair
    from decoding.loop.statistics import Statistics
    from decoding.policies.draft_length import DraftLength
    from decoding.policies.price import HoldKL, HoldRejection, SequenceBudget
    from decoding.verification import verify

__all__ = [
    "DraftLength",
    "HoldKL",
    "HoldRejection",
    "ModelDrafter",
    "Pair",
    "PromptLookup",
    "SequenceBudget",
    "MultiDraft",
    "SpeculativeOutput",
    "Statistics",
    "early_exit",
    "generate",
    "load_pair",
    "speculative",
    "verify",
]

_ROOMS = {
    "generate": "decoding.huggingface",
    "speculative": "decoding.huggingface",
    "SpeculativeOutput": "decoding.huggingface",
    "Pair": "decoding.huggingface.pair",
    "load_pair": "decoding.huggingface.pair",
    "Statistics": "decoding.loop.statistics",
    "HoldKL": "decoding.policies.price",
    "HoldRejection": "decoding.policies.price",
    "SequenceBudget": "decoding.policies.price",
    "DraftLength": "decoding.policies.draft_length",
    "ModelDrafter": "decoding.drafting",
    "PromptLookup": "decoding.drafting",
    "MultiDraft": "decoding.drafting",
    "early_exit": "decoding.drafting",
    "verify": "decoding.verification",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command line's --help should not wait for torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'decoding' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
