"""A study's folder: rows appended by any number of processes, merged into one file whose bytes do not tell how many."""

import json
import shutil
from collections.abc import Callable, Hashable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from decoding.evaluation.files import append_rows, make_folder, read_rows, replace_file
from solvers.errors import InputError

Row = dict[str, Any]


class Table:
    """Rows of one kind: `name.jsonl` once they are merged, and until then a file of each process in `name.parts`.

    Parameters
    ----------
    path
        The merged file.
    key
        What tells two rows apart; of two with one key the first counts.
    """

    def __init__(self, path: Path, key: Callable[[Row], Hashable]) -> None:
        self.path = path
        self._parts = path.with_suffix(".parts")
        self._key = key

    def rows(self) -> dict[Hashable, Row]:
        """All finished rows by key; a line cut short by an interruption is dropped, from its file too."""
        files = [self.path, *sorted(self._parts.glob("*.jsonl"))]
        found: dict[Hashable, Row] = {}
        for file in files:
            for row in read_rows(file):
                found.setdefault(self._key(row), row)
        return found

    def append(self, rows: Iterable[Row], rank: int) -> None:
        """Add finished rows, all or none of which count if the last line is whole."""
        make_folder(self._parts)
        append_rows(self._parts / f"{rank:04d}.jsonl", rows)

    def merge(self, order: Iterable[Hashable]) -> list[Row]:
        """Write one file in the order of the keys, and return the rows of these that are there.

        Rows of other keys, paid for in another run, are kept behind them.
        """
        found = self.rows()
        rows = [found.pop(key) for key in order if key in found]
        others = [found[key] for key in sorted(found, key=repr)]
        make_folder(self.path.parent)
        lines = [json.dumps(row).encode() + b"\n" for row in (*rows, *others)]
        replace_file(self.path, lambda file: file.writelines(lines))
        shutil.rmtree(self._parts, ignore_errors=True)
        return rows


@contextmanager
def locked(folder: Path):
    """Keep other runs out of a folder, also one whose launcher was killed while its workers live on.

    Raises
    ------
    InputError
        Another run is at work there.
    """
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"out: expected a folder no other run is writing to; got {folder}, where one is at work; wait for it, "
            "end it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
