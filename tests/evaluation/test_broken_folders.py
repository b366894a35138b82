"""Files of a folder that were broken, edited or taken away: the same results, or one line that says which and where."""

import json
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from dataclasses import asdict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_study import Asked, study_in

from decoding.evaluation.files import kept as keeping
from decoding.evaluation.files.kept import (
    append_rows,
    as_json,
    check_settings,
    locked,
    read_keyed,
    read_rows,
    replace_file,
    row_lines,
)
from solvers.errors import InputError

ROWS = [{"number": number, "value": number / 7, "text": "é\n"} for number in range(4)]
FILES = (
    "settings.json",
    "calibration.json",
    "calibration_texts.jsonl",
    "texts.jsonl",
    "tokens.jsonl",
    "judgements/one.jsonl",
    "judgements/two.jsonl",
)


def number(row):
    return row["number"]


def refusal(call):
    """The line of a refusal; None if there was none."""
    try:
        call()
    except InputError as error:
        (line,) = str(error).splitlines()
        return line
    return None


@pytest.fixture
def path(tmp_path):
    append_rows(tmp_path / "rows.jsonl", ROWS, "things")
    return tmp_path / "rows.jsonl"


def test_rows_read_back_are_those_that_were_written(path):
    assert read_rows(path, "things") == ROWS
    assert read_keyed(path, "things", number) == dict(enumerate(ROWS))
    assert read_rows(path.with_name("nothing.jsonl"), "things") == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   ",
        b"\\",
        b"\x00" * 40,
        b"\xff\xfe\x80",
        b"null",
        b"[1, 2]",
        b'"text"',
        b"{}",
        b'{"number": 9, "value": 0.1, "text": ""}',
        b'{"number": 9, "crc32": 3}',
        b"9" * 5000,
        b"[" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
    ],
    ids=lambda line: repr(line[:12]),
)
@pytest.mark.parametrize("place", [1, 3, 4])
def test_a_line_that_is_no_row_is_refused_with_its_number(path, line, place):
    lines = path.read_bytes().split(b"\n")
    lines.insert(place, line)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(
        InputError, match=rf"rows.jsonl, line {place + 1}: expected a row of things as it was written"
    ) as caught:
        read_rows(path, "things")
    assert "delete the line" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_number_a_row_of_another_kind_and_a_row_that_is_there_twice_are_refused(path):
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"value": 0.14', b'"value": 0.24'))
    with pytest.raises(InputError, match="line 2: .*a row that was changed"):
        read_rows(path, "things")
    path.write_bytes(whole)
    with pytest.raises(InputError, match="line 1: expected a row of others"):
        read_rows(path, "others")
    path.write_bytes(whole + whole)
    with pytest.raises(InputError, match="line 5: expected every row once; line 1 is of 0 too; delete one of the two"):
        read_keyed(path, "things", number)


def test_only_a_cut_last_line_is_dropped(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_rows(path, "things") == ROWS[: whole[:length].count(b"\n")]
        assert path.read_bytes() == whole[: whole.rfind(b"\n", 0, length) + 1]


@contextmanager
def room(size):
    """Files may grow to this size: a write ends in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_no_room_is_one_line_and_what_was_there_is_kept(path, tmp_path):
    whole = path.read_bytes()
    with (
        room(len(whole) + 70),
        pytest.raises(InputError, match="rows.jsonl: cannot be written: File too large.*goes on"),
    ):
        append_rows(path, ROWS, "things")
    assert path.stat().st_size > len(whole)
    kept = read_rows(path, "things")
    assert kept[:4] == ROWS
    with room(20), pytest.raises(InputError, match="map.html: cannot be written: File too large"):
        replace_file(tmp_path / "map.html", lambda file: file.write(b"a" * 100))
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]
    full = tmp_path / "full.jsonl"
    full.symlink_to("/dev/full")
    for write in (
        lambda: append_rows(full, ROWS, "things"),
        lambda: replace_file(full, lambda file: file.write(b"text")),
    ):
        with pytest.raises(InputError, match="full.jsonl: cannot be written: No space left on device"):
            write()
    assert full.is_symlink()


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    replace_file(tmp_path / "pipe", lambda file: file.write(b"text"))
    assert os.read(reader, 10) == b"text"
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]
    os.close(reader)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system"), NotImplementedError()]
)
def test_a_folder_without_a_lock_is_one_line(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(keeping.FileLock, "acquire", refuse)
    with (
        pytest.raises(InputError, match=r"out: expected a folder that can be written to; .*choose another --out"),
        locked(tmp_path),
    ):
        pass


def test_a_folder_whose_settings_are_gone_or_broken_is_refused(path):
    made = [path.with_name("others"), path]
    with pytest.raises(InputError, match=r"expected settings.json beside .*rows.jsonl"):
        check_settings(path.parent, {"seed": 0}, made)
    check_settings(path.parent, {"seed": 0})
    check_settings(path.parent, {"seed": 0}, made)
    for broken in (b"", b"{", b"\xff", b"[" * 100_000, b"[]", b'{"seed": 1}'):
        (path.parent / "settings.json").write_bytes(broken)
        with pytest.raises(InputError, match="out: .*choose another --out"):
            check_settings(path.parent, {"seed": 0}, made)


class Run:
    """A tiny study in a folder, with a judge of single texts and one of two."""

    def __init__(self, base):
        self.base, self.folder = base, base / "out"
        self.results = self.run()

    def run(self):
        judges = [(Asked(pairwise=pairwise, name=name), None) for name, pairwise in (("one", False), ("two", True))]
        results = study_in(self.folder, self.base / "prompts.txt").run(judges, forced=True)
        assert results is not None
        return json.dumps(as_json(asdict(results)))

    def fresh(self):
        """The folder as it was when the study was finished."""
        kept = self.base / "kept"
        if not kept.exists():
            shutil.copytree(self.folder, kept)
        shutil.rmtree(self.folder)
        shutil.copytree(kept, self.folder)
        return self.folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize("name", FILES[1:])
def test_a_file_that_is_cut_or_gone_is_made_again(study, name):
    for kept in (None, 0.9, 0.4):
        file = study.fresh() / name
        whole = file.read_bytes()
        file.unlink()
        if kept is not None:
            file.write_bytes(whole[: int(kept * len(whole))])
        if name == "calibration.json" and kept is not None:
            with pytest.raises(InputError, match=r"calibration.json .*delete it, and the same command sets"):
                study.run()
            continue
        assert study.run() == study.results
        if name != "calibration_texts.jsonl":  # nothing needs them any more
            assert file.read_bytes() == whole


def test_knobs_and_texts_that_do_not_belong_together_are_refused(study):
    cells = study.fresh() / "calibration.json"
    rows = json.loads(cells.read_text())
    for wrong, message in (
        (rows[:-1], "expected every rule's knobs as they were written"),
        ([*rows[:-1], rows[-1] | {"calibrated": 0.5}], "expected every rule's knobs as they were written"),
        ({"cells": rows}, "expected every rule's knobs as they were written"),
    ):
        cells.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=message):
            study.run()
    texts = study.fresh() / "texts.jsonl"
    rows = read_rows(texts, "texts")
    for wrong, message in (
        (rows[0] | {"knob": 0.7}, "expected texts written with the knobs of calibration.json; .* was 0.7 and is 0.1"),
        (rows[0] | {"prompt": 99}, "expected texts of this study; got one of .*99"),
        (rows[1], r"line 2: expected every row once; line 1 is of .* too"),
    ):
        texts.write_bytes(row_lines([wrong, *rows[1:]], "texts"))
        with pytest.raises(InputError, match=message):
            study.run()


def test_a_study_that_found_no_room_goes_on(study):
    folder = study.fresh()
    size = (folder / "texts.jsonl").stat().st_size
    (folder / "texts.jsonl").unlink()
    with room(size // 2), pytest.raises(InputError, match="cannot be written: File too large"):
        study.run()
    assert (folder / "texts.parts" / "0000.jsonl").exists()
    assert study.run() == study.results


def mutated(data, kind, at, to, piece):
    """A file after one accident: a changed byte, bytes put in, a stretch lost, doubled or moved, an end cut off."""
    start, end = sorted((int(at * len(data)), int(to * len(data))))
    span, rest = data[start:end], data[:start] + data[end:]
    flipped = data[:start] + bytes([data[start] ^ (piece[0] or 1)]) + data[start + 1 :] if start < len(data) else data
    return {
        "flip": flipped,
        "insert": data[:start] + piece + data[start:],
        "lose": rest,
        "double": data[:end] + span + data[end:],
        "move": span + rest,
        "cut": data[:start],
    }[kind]


def lines_mutated(data, kind, at, to, piece):
    """The same with whole lines."""
    lines = data.splitlines(keepends=True)
    start, end = sorted((int(at * len(lines)), int(to * len(lines)) + 1))
    span, rest = lines[start:end], lines[:start] + lines[end:]
    changed = {
        "insert": [*lines[:start], piece + b"\n", *lines[start:]],
        "lose": rest,
        "double": [*lines[:end], *span, *lines[end:]],
        "move": [*span, *rest],
    }
    return b"".join(changed[kind]) if kind in changed else mutated(data, kind, at, to, piece)


PLACES = st.floats(0, 1, exclude_max=True)
ACCIDENTS = {
    "accident": st.sampled_from([mutated, lines_mutated]),
    "kind": st.sampled_from(["flip", "insert", "lose", "double", "move", "cut"]),
    "at": PLACES,
    "to": PLACES,
    "piece": st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from([b"\n", b"\\", b"}\n{", b"1", b"null\n"])),
}


@settings(max_examples=70)
@given(name=st.sampled_from(FILES), **ACCIDENTS)
@example(name="tokens.jsonl", accident=lines_mutated, kind="lose", at=0.9, to=0.95, piece=b"1")
def test_no_accident_to_a_study_s_files_changes_its_results(study, name, accident, kind, at, to, piece):
    file = study.fresh() / name
    if name == "calibration_texts.jsonl":  # only then are they read
        (study.folder / "calibration.json").unlink()
    file.write_bytes(accident(file.read_bytes(), kind, at, to, piece))
    found = []
    said = refusal(lambda: found.append(study.run()))
    assert found == [study.results] if said is None else name.rpartition("/")[2] in said


@settings(max_examples=400)
@given(**ACCIDENTS)
def test_what_is_read_of_a_damaged_file_was_written(tmp_path_factory, accident, kind, at, to, piece):
    file = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    file.write_bytes(accident(row_lines(ROWS, "things"), kind, at, to, piece))
    found = {}
    said = refusal(lambda: found.update(read_keyed(file, "things", number)))
    assert said is None or "damaged.jsonl, line" in said
    assert all(row == ROWS[which] for which, row in found.items())
