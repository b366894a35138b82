"""Files that survive interruptions: whole or as they were, and rows of which only the last can be cut short."""

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from solvers.errors import InputError


def make_folder(path: Path) -> None:
    """Make a folder that may be there.

    Raises
    ------
    InputError
        It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made: {error.strerror or type(error).__name__}") from None


def replace_file(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file that is either whole or as it was before.

    Raises
    ------
    InputError
        It cannot be written.
    """
    fresh = path.with_name(path.name + ".tmp")
    try:
        with fresh.open("wb") as file:
            write(file)
        os.replace(fresh, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or type(error).__name__}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file; none if it is not there. A line cut short by an interruption goes from the file too."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    return [json.loads(line) for line in whole]


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add finished rows to a JSONL file in one piece, onto the disk."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def check_settings(folder: Path, wanted: dict[str, Any]) -> None:
    """Write what decides a folder's rows into its settings.json; or find it there.

    Raises
    ------
    InputError
        The folder holds rows of other settings, or cannot be made.
    """
    make_folder(folder)
    written = folder / "settings.json"
    wanted = json.loads(json.dumps(wanted))
    try:
        found = json.loads(written.read_text(encoding="utf-8")) if written.exists() else wanted
    except ValueError:
        found = None
    if found != wanted:
        raise InputError(
            f"out: expected a new folder or one with the same settings; got {folder} with others in settings.json; "
            "choose another --out, or delete it"
        )
    replace_file(written, lambda file: file.write(json.dumps(wanted, indent=1).encode() + b"\n"))


def as_json(value: Any) -> Any:
    """A row as it is read back: infinity is "inf", what is undefined is null."""
    if isinstance(value, dict):
        return {name: as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value.item() if isinstance(value, np.generic) else value
