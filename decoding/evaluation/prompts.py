"""Reading prompts: from files, from data sets, into a template."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from decoding import embedded
from decoding.evaluation.files.plain_text import parse_json, quoted, read_text, shown
from solvers.errors import InputError

KEYS = ("prompt", "instruction")
"""Columns that are prompts without being named."""

MOST_BYTES = 2**28
"""More than any list of prompts; an endless file ends here."""

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
"""What the `datasets` package calls the kinds of files, by their endings."""


def load_prompts(
    source: str,
    *,
    column: str | None = None,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    template: str = "{prompt}",
) -> list[str]:
    """Read prompts from a file, an address or a data set, and put each into a template.

    Parameters
    ----------
    source
        "embedded"; a file as in `read_prompts`, or one of Parquet; a folder, saved with `Dataset.save_to_disk` or one
        of data files; the hf:// or https:// address of a JSON, JSONL, CSV or Parquet file; else a data set's name on
        the Hugging Face hub.
    column
        Which column holds the prompts; "prompt" or "instruction" if None. Lines of text have none.
    name, split
        Of a data set: its configuration, and its split; without one the only split, "test", or "train". Files and
        addresses have neither.
    revision
        Of what lies on the hub: a branch, tag or commit.
    limit
        Use the first so many only.
    template
        Text around a prompt, which replaces {prompt}; other braces stay as they are.

    Raises
    ------
    InputError
        Nothing readable there, no such column or split, no prompt in it, or a template without {prompt}.
    """
    if "{prompt}" not in template:
        raise InputError(f"template: expected {{prompt}} in it, where the prompt goes; got {template!r}")
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected at least 1; got {limit}")
    return [
        template.replace("{prompt}", prompt)
        for prompt in _loaded(source, column, name=name, split=split, revision=revision, limit=limit)
    ]


def _loaded(
    source: str, column: str | None, *, name: str | None, split: str | None, revision: str | None, limit: int | None
) -> list[str]:
    path, address = Path(source), source.startswith(("hf://", "https://"))
    if source == "embedded":
        return read_prompts(embedded.PROMPTS, limit)
    if not address and (os.path.isfile(path) or path.suffix.lower() in (*BUILDERS, ".txt")):
        return read_prompts(path, limit, column)
    data: Any
    if address:
        data = _data_file(_pinned(source, revision))
    elif any(os.path.exists(path / file) for file in ("state.json", "dataset_dict.json")):
        data = _with_datasets(source, lambda datasets: datasets.load_from_disk(source))
    else:
        wanted = {"name": name, "split": split, "revision": revision}
        data = _with_datasets(source, lambda datasets: datasets.load_dataset(source, **wanted))
    if isinstance(data, dict):
        data = _split_of(data, split, source)
    return _some(_column_of(data, column, source), limit, source)


def read_prompts(path: Path, limit: int | None = None, column: str | None = None) -> list[str]:
    """Read prompts from a text file, one to a line, or from JSON, JSONL, CSV or Parquet.

    JSON is a list, JSONL has lines, of strings or of objects; objects and tables have a column of prompts. Blank
    prompts are skipped.

    Parameters
    ----------
    path
        The file; its ending tells the kind, and any other ending is text.
    limit
        Use the first so many only.
    column
        Which column; by default "prompt" or "instruction" (AlpacaEval's name for it).

    Raises
    ------
    InputError
        No such file, not of that form, no such column, or no prompt in it.
    """
    kind = path.suffix.lower()
    text = ""
    if kind != ".parquet":
        text = read_text(path, where=f"prompts: {path}", expected="a readable text or JSON file", most=MOST_BYTES)
    if kind == ".parquet":
        found = _column_of(_data_file(str(path)), column, str(path))
    elif kind == ".json":
        found = _from_json(path, text, column)
    elif kind == ".jsonl":
        found = _from_json_lines(path, text, column)
    elif kind == ".csv":
        found = _from_csv(path, text, column)
    else:
        found = (line.strip() for line in text.splitlines())
    return _some(found, limit, str(path))


def _some(prompts: Iterable[str], limit: int | None, where: str) -> list[str]:
    found = list(islice((prompt for prompt in prompts if prompt.strip()), limit))
    if not found:
        raise InputError(f"prompts: expected at least one prompt; got none in {where}; write one to a line")
    return found


def _from_json(path: Path, text: str, column: str | None) -> Iterator[str]:
    entries = parse_json(text, where=str(path), expected="prompts: expected a JSON list")
    if not isinstance(entries, list):
        raise InputError(
            f"prompts: expected a JSON list of strings or objects; got {type(entries).__name__} in {path}; "
            "put the prompts into [ ]"
        )
    return (_from_entry(entry, column, f"{path}, entry {number}") for number, entry in enumerate(entries, 1))


def _from_json_lines(path: Path, text: str, column: str | None) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at line separators inside of strings
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        entry = parse_json(line, where=where, expected="prompts: expected JSON in every line")
        yield _from_entry(entry, column, where)


def _from_entry(entry: object, column: str | None, where: str) -> str:
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, dict):
        raise InputError(
            f"prompts: expected a JSON list or lines of strings, or of objects; got {type(entry).__name__} in {where}"
        )
    return _text(
        entry[_chosen(list(entry), column, "a JSON list or lines of strings, or of objects with", where)], where
    )


def _from_csv(path: Path, text: str, column: str | None) -> Iterator[str]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        key = _chosen(list(reader.fieldnames or ()), column, "a column", str(path))
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise InputError(
                    f"prompts: expected as many fields as in the header; got more in {where}; quote commas"
                )
            yield _text(row[key], where)
    except csv.Error as error:
        raise InputError(
            f"prompts: expected CSV; got something else in {path}, line {reader.reader.line_num} ({error})"
        ) from None


def _chosen(columns: Sequence[str], column: str | None, what: str, where: str) -> str:
    wanted = KEYS if column is None else (column,)
    for key in wanted:
        if key in columns:
            return key
    have = ", ".join(map(str, columns)) or "no columns"
    raise InputError(
        f"prompts: expected {what} {' or '.join(wanted)}; got {shown(have)} in {where}; name the column of prompts"
    )


def _text(value: object, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise InputError(f"prompts: expected text; got {type(value).__name__} in {where}; name the column of prompts")
    return value or ""


def _column_of(data: Any, column: str | None, where: str) -> Iterator[str]:
    key = _chosen(data.column_names, column, "a column", where)
    return (_text(value, where) for value in data[key])


def _split_of(data: dict[Any, Any], split: str | None, where: str) -> Any:
    names = [str(each) for each in data]
    wanted = [split] if split is not None else names if len(names) == 1 else ["test", "train"]
    for each in wanted:
        if each in names:
            return data[each]
    raise InputError(f"split: expected one of {', '.join(names)}; got {split or 'none'} for {where}; name one of them")


def _data_file(address: str) -> Any:
    ending = Path(address.partition("?")[0]).suffix.lower()
    if ending not in BUILDERS:
        raise InputError(f"prompts: expected an address that ends in {', '.join(BUILDERS)}; got {address}")
    builder = BUILDERS[ending]
    return _with_datasets(address, lambda datasets: datasets.load_dataset(builder, data_files=address, split="train"))


def _pinned(address: str, revision: str | None) -> str:
    """Where the hub's file system reads a revision: after the repository's name."""
    if revision is None:
        return address
    parts = address.split("/")
    if not address.startswith("hf://datasets/") or len(parts) < 6 or "@" in parts[4]:
        raise InputError(f"revision: expected none beside {address}; got {revision!r}; put it into the address")
    return "/".join((*parts[:4], f"{parts[4]}@{revision.replace('/', '%2F')}", *parts[5:]))


def _with_datasets(source: str, load: Callable[[Any], Any]) -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"prompts: expected the datasets package to read {shown(source)}; got none; "
            "pip install 'tradeoff[evaluate]'"
        ) from None
    try:
        return load(datasets)
    except Exception as error:  # noqa: BLE001  every library behind an address raises errors of its own
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"prompts: expected a file, a folder or a data set on the Hugging Face hub; got {quoted(source)}: "
            f"{shown(reason)}"
        ) from error
