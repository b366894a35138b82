"""Files that survive interruptions: whole or as they were, and rows of which only the last can be cut short."""

import contextlib
import errno
import json
import math
import os
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from decoding.evaluation.files.plain_text import parse_json
from solvers.errors import InputError

Row = dict[str, Any]

SEAL = "crc32"
"""The member of a row that tells whether the others are as they were written."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, also one whose launcher was killed while its workers live on.

    Raises
    ------
    InputError
        Another run is at work there, or the folder cannot be written to.
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
    except (OSError, NotImplementedError) as error:  # the second on a file system without locks
        raise InputError(
            f"out: expected a folder that can be written to; {folder / '.lock'}: {_reason(error)}; choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


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
        raise InputError(f"{path}: cannot be made: {_reason(error)}") from None


def check_writable(path: Path) -> None:
    """Check that a file can be written; its folder is made.

    Raises
    ------
    InputError
        It cannot.
    """
    make_folder(path.parent)
    place = os.path.realpath(path)
    wrong = errno.EISDIR if os.path.isdir(place) else errno.EACCES
    if wrong == errno.EISDIR or not os.access(place if os.path.exists(place) else os.path.dirname(place), os.W_OK):
        raise InputError(f"{path}: cannot be written: {os.strerror(wrong)}")


def replace_file(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file that is either whole or as it was before.

    Raises
    ------
    InputError
        It cannot be written.
    """
    # a device or a pipe has no contents to keep, and must not be replaced by a file
    special = path.exists() and not path.is_file()
    fresh = path if special else path.with_name(path.name + ".tmp")
    try:
        with fresh.open("wb") as file:
            write(file)
            file.flush()
            if not special:
                os.fsync(file.fileno())
        if not special:
            os.replace(fresh, path)
    except OSError as error:
        if not special:
            with contextlib.suppress(OSError):  # half a file on a disk that may be full
                fresh.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {_reason(error)}") from None


def read_json(path: Path) -> Any:
    """Read the value in a JSON file.

    Raises
    ------
    InputError
        It cannot be read, or holds no JSON.
    """
    return parse_json(_read(path), where=str(path))


def sealed(row: Row, kind: str) -> Row:
    """Add to a row what tells that it is whole, and of which kind."""
    return row | {SEAL: f"{zlib.crc32(json.dumps([kind, row]).encode()):08x}"}


def unsealed(value: Any, kind: str) -> Row | None:
    """Give a row back that `sealed` made; None if it is none of this kind, or has changed since."""
    if not isinstance(value, dict):
        return None
    row = {name: each for name, each in value.items() if name != SEAL}
    try:
        return row if value.get(SEAL) == sealed(row, kind)[SEAL] else None
    except RecursionError:  # a value may be nested too deep to be written though it can be read
        return None


def read_rows(path: Path, kind: str) -> list[Row]:
    """Rows of a JSONL file; none if it is not there. A line cut short by an interruption goes from the file too.

    Parameters
    ----------
    path
        The file.
    kind
        As in `append_rows`.

    Raises
    ------
    InputError
        The file cannot be read, or a line before a cut one is not as it was written.
    """
    if not path.exists():
        return []
    *lines, rest = _read(path).split(b"\n")
    if rest:
        try:
            os.truncate(path, path.stat().st_size - len(rest))
        except OSError as error:
            raise InputError(f"{path}: its last line is cut, and cannot be removed: {_reason(error)}") from None
    return [_row(line, f"{path}, line {number}", kind) for number, line in enumerate(lines, start=1)]


def read_keyed(path: Path, kind: str, key: Callable[[Row], Hashable]) -> dict[Hashable, Row]:
    """Rows of a JSONL file, as `read_rows`, by what tells them apart.

    Raises
    ------
    InputError
        As `read_rows`; or two rows have one key.
    """
    found: dict[Hashable, Row] = {}
    lines: dict[Hashable, int] = {}
    for number, row in enumerate(read_rows(path, kind), start=1):
        which = key(row)
        if which in found:
            raise InputError(
                f"{path}, line {number}: expected every row once; line {lines[which]} is of {which} too; "
                "delete one of the two"
            )
        found[which], lines[which] = row, number
    return found


def append_rows(path: Path, rows: Iterable[Row], kind: str) -> None:
    """Add finished rows to a JSONL file in one piece, onto the disk.

    Parameters
    ----------
    path
        The file.
    rows
        What to add.
    kind
        What they are rows of: a row of another kind is not read back.

    Raises
    ------
    InputError
        They cannot be written; what was there is kept.
    """
    try:
        with path.open("ab") as file:
            file.write(row_lines(rows, kind))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {_reason(error)}; what is finished is kept, and the same command goes on from "
            "there"
        ) from None


def row_lines(rows: Iterable[Row], kind: str) -> bytes:
    """Rows as they stand in a file that is read back."""
    return b"".join(json.dumps(sealed(row, kind)).encode() + b"\n" for row in rows)


def check_settings(folder: Path, wanted: Row, made: Iterable[Path] = ()) -> None:
    """Write what decides a folder's rows into its settings.json; or find it there.

    Parameters
    ----------
    folder
        Made if it is not there.
    wanted
        The settings.
    made
        Files and folders that only a run with settings makes.

    Raises
    ------
    InputError
        The folder holds rows of other settings or of unknown ones, or cannot be made.
    """
    make_folder(folder)
    written = folder / "settings.json"
    wanted = json.loads(json.dumps(wanted))
    if not written.exists():
        for path in made:
            if path.exists():
                raise InputError(
                    f"out: expected settings.json beside {path}, which tells what it is of; got none; choose another "
                    "--out, or delete the folder"
                )
        replace_file(written, lambda file: file.write(json.dumps(wanted, indent=1).encode() + b"\n"))
        return
    try:
        found = read_json(written)
    except InputError as error:
        raise InputError(f"out: {error}; choose another --out, or delete the folder") from None
    if found != wanted:
        raise InputError(
            f"out: expected a new folder or one with the same settings; got {folder} with others in settings.json; "
            "choose another --out, or delete it"
        )


def as_json(value: Any) -> Any:
    """A row as it is read back: infinity is "inf", what is undefined is null."""
    if isinstance(value, dict):
        return {name: as_json(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value.item() if isinstance(value, np.generic) else value


def _row(line: bytes, place: str, kind: str) -> Row:
    try:
        row = unsealed(parse_json(line, where=place), kind)
    except InputError:
        row = None
    if row is None:
        got = "an empty line" if not line.strip() else "something else, or a row that was changed"
        raise InputError(
            f"{place}: expected a row of {kind} as it was written; got {got}; delete the line, and the same command "
            "does that piece again"
        )
    return row


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """One line."""
    said = error.strerror if isinstance(error, OSError) else str(error)
    return (said or type(error).__name__).splitlines()[0]
