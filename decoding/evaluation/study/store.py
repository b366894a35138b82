"""A study's folder: rows appended by any number of processes, merged into one file whose bytes do not tell how many."""

import shutil
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

from decoding.evaluation.files.kept import Row, append_rows, make_folder, read_keyed, read_rows, replace_file, row_lines


class Table:
    """Rows of one kind: `name.jsonl` once they are merged, and until then a file of each process in `name.parts`.

    Parameters
    ----------
    path
        The merged file.
    key
        What tells two rows apart. A process does a piece again of which a part is missing: of two rows with one key
        the first counts, and the merged file has every row once.
    """

    def __init__(self, path: Path, key: Callable[[Row], Hashable]) -> None:
        self.path = path
        self.parts = path.with_suffix(".parts")
        self._key = key

    def rows(self) -> dict[Hashable, Row]:
        """All finished rows by key; a line cut short by an interruption is dropped, from its file too.

        Raises
        ------
        InputError
            A line before the last is not as it was written, or the merged file has a row twice.
        """
        found = read_keyed(self.path, self.path.stem, self._key)
        for part in sorted(self.parts.glob("*.jsonl")):
            for row in read_rows(part, self.path.stem):
                found.setdefault(self._key(row), row)
        return found

    def append(self, rows: Iterable[Row], rank: int) -> None:
        """Add finished rows, all or none of which count if the last line is whole."""
        make_folder(self.parts)
        append_rows(self.parts / f"{rank:04d}.jsonl", rows, self.path.stem)

    def merge(self, order: Iterable[Hashable]) -> list[Row]:
        """Write one file in the order of the keys, and return the rows of these that are there.

        Rows of other keys, paid for in another run, are kept behind them.
        """
        found = self.rows()
        rows = [found.pop(key) for key in order if key in found]
        others = [found[key] for key in sorted(found, key=repr)]
        make_folder(self.path.parent)
        replace_file(self.path, lambda file: file.write(row_lines((*rows, *others), self.path.stem)))
        shutil.rmtree(self.parts, ignore_errors=True)
        return rows
