"""Whatever bytes a file holds, its reader answers or refuses in one line, within bounded time and memory."""

import json
import resource
import struct
import time
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_command_lines import bomb

from decoding.evaluation.files.plain_text import parse_json, quoted, shown
from decoding.evaluation.front.law_file import read_arrays, read_laws
from decoding.evaluation.positions.file import read_logits
from decoding.evaluation.prompts import read_prompts
from decoding.evaluation.study.configuration import read_configuration
from decoding.evaluation.study.strict_yaml import read_yaml
from solvers.errors import InputError

MOST_SECONDS, MOST_MEMORY = 8.0, 2**27


def highest_memory():
    """The most bytes this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refused(read, *arguments) -> str:
    """The one line of a refusal, or "" if something was read; anything else fails, as do long waits and memory."""
    started, before = time.monotonic(), highest_memory()
    try:
        read(*arguments)
        return ""
    except InputError as error:
        line = str(error)
        assert "\n" not in line
        assert len(line) < 1500
        line.encode()
        return line
    finally:
        assert highest_memory() - before < MOST_MEMORY
        assert time.monotonic() - started < MOST_SECONDS


def refused_bytes(read, name, content) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return refused(read, path)


def npz(**members):
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(header, content=b"", version=(1, 0)):
    text = header.encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + content


def plain(shape, descr: object = "<f8", order="False"):
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def saved(array):
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


LAW = np.array([0.5, 0.5])
DEFLATE_BOMB = b"\0" * 10**8
HEADERS = {
    "terabytes": npy(plain((10**12,)), b"\0" * 16),
    "more than there is": npy(plain((10**18, 10**18)), b"\0" * 16),
    "negative": npy(plain((-1,)), b"\0" * 8),
    "negative twice": npy(plain((-1, -2)), b"\0" * 16),
    "too few": npy(plain((3,)), b"\0" * 16),
    "too many": npy(plain((1,)), b"\0" * 16),
    "structured": npy(plain((1,), [("a", "<f8")]), b"\0" * 8),
    "object": npy(plain((1,), "|O"), b"\0" * 8),
    "void": npy(plain((1,), "|V8"), b"\0" * 8),
    "dates": npy(plain((1,), "<M8[s]"), b"\0" * 8),
    "no header": npy(""),
    "no dictionary": npy("[" * 5000),
    "unbalanced": npy("{'descr': (((((((("),
    "nested": npy(plain("(" * 500 + ")" * 500)),
    "code": npy("__import__('os').getcwd()"),
    "huge header": npy(" " * 60_000),
    "another version": npy(plain((1,)), b"\0" * 8, version=(9, 9)),
    "lying length": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_claim_what_is_not_there_are_refused_before_anything_is_unpacked(monkeypatch, kind):
    def unpacked(*arguments, **options):
        raise RuntimeError("it was unpacked")

    monkeypatch.setattr(np.lib.format, "read_array", unpacked)
    for read, names in ((read_laws, ("draft", "target")), (read_logits, ("draft_logits", "target_logits"))):
        content = npz(**dict(zip(names, (HEADERS[kind], saved(LAW)), strict=True)))
        line = refused_bytes(read, "a.npz", content)
        assert line
        assert "unpacked" not in line


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "[]", "{"])
def test_settings_in_a_file_of_positions_are_read_safely(tmp_path, text):
    logits = np.log(LAW)
    np.savez(tmp_path / "a.npz", draft_logits=logits, target_logits=logits, settings=np.array(text))
    assert read_logits(tmp_path / "a.npz").settings is None


def test_arrays_that_leave_no_room_are_refused_before_they_are_unpacked(monkeypatch):
    content = npz(draft=npy(plain((len(DEFLATE_BOMB) // 8,)), DEFLATE_BOMB), target=saved(LAW))
    assert len(content) < 200_000
    monkeypatch.setattr("decoding.evaluation.front.law_file._memory", lambda: 10**8)
    assert "at most 2.5e+07 bytes; got 1.0e+08" in refused_bytes(read_laws, "a.npz", content)


def test_an_archive_that_lies_about_sizes_or_names_is_refused():
    content = bytearray(npz(draft=saved(LAW), target=saved(LAW)))
    sizes = content.rindex(b"PK\x01\x02") + 24
    content[sizes : sizes + 4] = struct.pack("<I", 2**31)
    assert refused_bytes(read_laws, "a.npz", bytes(content))
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("draft.npy", saved(LAW))
        archive.writestr("target.npy", saved(LAW))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("draft.npy", saved(LAW[::-1]))
    assert "one name twice" in refused_bytes(read_laws, "a.npz", file.getvalue())
    assert "other files" in refused_bytes(read_laws, "a.npz", _other_file())


def _other_file():
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("draft", b"x")
    return file.getvalue()


def test_good_arrays_of_every_kind_are_read_as_numpy_reads_them(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        "c": np.array("text"),
        "d": np.arange(3, dtype=">i4"),
        "e": np.array([True]),
        "f": np.zeros((0, 3)),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz", tuple(arrays))
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    assert read_arrays(tmp_path / "a.npz", ())["a"].size == 0


GOOD = npz(draft=saved(LAW), target=saved(LAW[::-1]))


@settings(max_examples=150)
@given(st.data())
def test_damaged_archives_are_read_or_refused(data):
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    refused_bytes(read_laws, "a.npz", bytes(content[: data.draw(st.integers(0, len(content)))]))
    refused_bytes(read_laws, "a.npz", bytes(content))


@settings(max_examples=100)
@given(
    st.text(alphabet="{}[]()'\",:<>fiUOV8012 descrshapefortran_orderTrueFalse\n", max_size=90), st.binary(max_size=40)
)
def test_odd_headers_are_refused(header, content):
    refused_bytes(read_laws, "a.npz", npz(draft=npy(header, content), target=saved(LAW)))


YAML = {
    "bomb": bomb(),
    "bomb of merges": "a: &a {x: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "itself": "rules: &r [*r]",
    "deep": "[" * 60_000,
    "deep mappings": "{a: " * 15_000,
    "wide": "rules: [" + "a, " * 20_000 + "]",
    "huge": "a" * 2**19,
    "digits": "seed: " + "1" * 5000,
    "hex digits": "seed: 0x" + "f" * 60_000,
    "hex digits as a kind": "judges: [{kind: 0x" + "f" * 9000 + "}]",
    "hex digits as a model": "judges: [{kind: reward_model, model: 0x" + "f" * 9000 + "}]",
    "hex digits as a key": "0x" + "f" * 9000 + ": 1",
    "sexagesimal": "seed: 1" + ":59" * 2000,
    "sexagesimal float": "seed: 1" + ":59" * 2000 + ".5",
    "surrogate": 'prompts: {source: "\\ud800"}',
    "beyond unicode": 'prompts: {source: "\\UFFFFFFFF"}',
    "nul": 'prompts: {source: "a\\0b.txt"}\nseed: -1',
    "no number": "seed: !!int ''",
    "no date": "seed: !!timestamp x",
    "no truth": "seed: !!bool x",
    "no key": "? [a]\n: b",
    "bytes": "seed: !!binary AAAA",
    "set": "rules: !!set {a, b}",
    "escape": 'against: "\\e[31m"',
    "long": "against: " + "x" * 60_000,
    "long key": "x" * 60_000 + ": 1",
    "long word": "pair: {dtype: " + "x" * 60_000 + "}",
    "merge of nothing": "<<: 3",
    "text": "x",
}


@pytest.mark.parametrize("kind", YAML)
def test_hostile_yaml_is_refused_in_one_short_line(kind):
    assert refused_bytes(lambda path: read_configuration(str(path), {}), "a.yaml", YAML[kind].encode())


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                "seed",
                "at",
                "rules",
                "judges",
                "pair",
                "texts",
                ": ",
                "\n",
                "  ",
                "- ",
                "{",
                "}",
                "[",
                "]",
                ", ",
                "&a ",
                "*a",
            ]
            + [
                "<<: ",
                "!!",
                "!!int ",
                "0x",
                "1e999",
                ".nan",
                "'",
                '"',
                "\\x",
                "? ",
                "| ",
                "#",
                "%",
                "kind",
                "~",
                "1:2:3",
            ]
        )
        | st.text(max_size=4),
        max_size=25,
    )
)
def test_any_yaml_is_read_or_refused(parts):
    content = "".join(parts).encode("utf-8", "surrogatepass")
    refused_bytes(lambda path: read_configuration(str(path), {}), "a.yaml", content)


def test_aliases_and_merges_that_a_study_uses_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: [*a, *a]}\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1, "y": [{"x": 1}, {"x": 1}]}}


JSON = [
    "[" * 100_000,
    '{"a":' * 100_000,
    "1" * 5000,
    '["\\ud800"]',
    '"\\uDfff"',
    '{"a": 1, "a": 2}',
    "",
    "{",
    "\0",
    "nul",
]


@pytest.mark.parametrize("text", JSON, ids=range(len(JSON)))
def test_hostile_json_is_refused(text):
    assert refused(lambda: parse_json(text, where="here")).startswith("expected JSON; got something else in here (")
    assert refused_bytes(read_prompts, "a.json", text.encode())
    if text:
        assert refused_bytes(read_prompts, "a.jsonl", f'"a"\n{text}\n'.encode())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100)
@given(VALUES)
def test_json_is_read_as_it_was_written(value):
    assert parse_json(json.dumps(value), where="") == value  # pairs of surrogates are one character again


@settings(max_examples=200)
@given(st.sampled_from(["txt", "json", "jsonl", "csv", "JSON", ""]), st.binary(max_size=60) | VALUES.map(json.dumps))
def test_any_prompts_are_read_or_refused(ending, content):
    content = content if isinstance(content, bytes) else content.encode()
    refused_bytes(read_prompts, f"a.{ending}", content)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (zlib.compress(b"a" * 1000), "a.txt"),
        ('prompt\n"' + "a" * 200_000 + '"\n', "a.csv"),
        ('prompt\n"a', "a.csv"),
        ("\0", "a.csv"),
        (b"\xff\xfea\0", "a.txt"),
        ('{"prompt": ' + "9" * 5000 + "}", "a.jsonl"),
        (json.dumps({f"column {number}": 1 for number in range(9999)}), "a.jsonl"),
    ],
    ids=range(7),
)
def test_files_that_hold_no_prompts_are_refused(content, name):
    assert refused_bytes(read_prompts, name, content if isinstance(content, bytes) else content.encode())


def test_values_are_shown_short_on_one_line_and_steer_nothing():
    assert quoted({"a": [1, "x"]}) == "{'a': [1, 'x']}"
    assert quoted(10**4999) == "a number of 16607 bits"
    assert len(quoted("x" * 10**6)) < 310
    assert len(quoted([["x" * 999] * 99] * 99)) < 310
    assert shown("a\n\x1b[31mb\u202e") == "a \\u001b[31mb\\u202e"
