"""The pair of tiny language models shipped with the package, as paths only: nothing heavy is imported."""

from pathlib import Path

TARGET = Path(__file__).parent / "target"
"""Folder of the shipped target model and its tokenizer."""

DRAFT = Path(__file__).parent / "draft"
"""Folder of the shipped draft model and the same tokenizer."""

PROMPTS = Path(__file__).parent / "prompts.txt"
"""Forty story openings, one to a line."""
