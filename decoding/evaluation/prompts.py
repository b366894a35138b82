"""Reading prompts."""

import json
from pathlib import Path
from typing import Any

from solvers.errors import InputError

KEYS = ("prompt", "instruction")


def read_prompts(path: Path, limit: int | None = None) -> list[str]:
    """Read prompts from a text file, one to a line, or from JSON: a list of strings or of objects.

    Objects must have a "prompt" or an "instruction" (AlpacaEval's name for it). Blank lines are skipped.

    Raises
    ------
    InputError
        No such file, not text or JSON of that form, or no prompt in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts: expected a readable text or JSON file; got {path} ({error})") from error
    prompts = _from_json(path, text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    prompts = [prompt for prompt in prompts if prompt][:limit]
    if not prompts:
        raise InputError(f"prompts: expected at least one prompt; got none in {path}; write one to a line")
    return prompts


def _from_json(path: Path, text: str) -> list[str]:
    try:
        entries: Any = json.loads(text)
        return [
            entry if isinstance(entry, str) else next(entry[key] for key in KEYS if key in entry) for entry in entries
        ]
    except (json.JSONDecodeError, TypeError, StopIteration) as error:
        raise InputError(
            f"prompts: expected a JSON list of strings, or of objects with {' or '.join(KEYS)}; got something else in "
            f"{path} ({error})"
        ) from error
