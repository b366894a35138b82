"""Speculative decoding of language models with any verification rule, and the exact account of what it gave away.

`generate` and `speculative` load torch and transformers on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decoding.huggingface import SpeculativeOutput, generate, speculative
    from decoding.pairs import Pair, load_pair
    from decoding.statistics import Statistics

__all__ = ["Pair", "SpeculativeOutput", "Statistics", "generate", "load_pair", "speculative"]

_ROOMS = {
    "generate": "decoding.huggingface",
    "speculative": "decoding.huggingface",
    "SpeculativeOutput": "decoding.huggingface",
    "Pair": "decoding.pairs",
    "load_pair": "decoding.pairs",
    "Statistics": "decoding.statistics",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command line's --help should not wait for torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'decoding' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
