"""A table of bad command lines: each is told in one line before any work is done, none is a traceback."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from map_files import logits_file
from typer.testing import CliRunner

from decoding import embedded
from decoding.cli import app
from decoding.cli.terminal import one_line_errors

TARGET, DRAFT = embedded.TARGET, embedded.DRAFT
TOO_MANY = str(10**9)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of every wrong kind, and some right ones."""
    folder = tmp_path_factory.mktemp("files")
    logits_file(folder / "logits.npz")
    alike = np.log([[0.5, 0.5], [0.1, 0.9]])
    np.savez(folder / "alike.npz", draft_logits=alike, target_logits=alike)
    (folder / "binary").write_bytes(bytes(range(256)) * 4)
    (folder / "binary.npz").write_bytes(bytes(range(256)) * 4)
    (folder / "binary.yaml").write_bytes(bytes(range(256)) * 4)
    (folder / "empty.yaml").write_text("")
    (folder / "empty").write_text("")
    (folder / "long.txt").write_text("a word " * 700_000)
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "digits.json").write_text("[" + "1" * 5000 + "]")
    (folder / "surrogate.json").write_text('["\\ud800"]')
    (folder / "twice.json").write_text('[{"prompt": "a", "prompt": "b"}]')
    (folder / "binary.csv").write_bytes(b"prompt\n\x00\xff\n")
    (folder / "bomb.yaml").write_text(bomb())
    (folder / "folder").mkdir()
    return folder


def bomb():
    """456 bytes that stand for three thousand million values."""
    lines = ["a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines) + "\nseed: *i\n"


COMPARE = [
    ("--prompts={files}/nowhere.txt", "No such file"),
    ("--prompts={files}/binary", "utf-8"),
    ("--prompts={files}/long.txt", "prompt 1: prompt: expected at most"),
    ("--prompts={files}/deep.json", "expected a JSON list"),
    ("--prompts={files}/digits.json", "expected a JSON list"),
    ("--prompts={files}/surrogate.json", "expected a JSON list"),
    ("--prompts={files}/twice.json", "a key stands twice"),
    ("--prompts={files}/binary.csv", "utf-8"),
    ("--rejection=2", "at.rejection.0: expected a rate above 0 and below 1"),
    ("--rejection=0", "at.rejection.0: expected a rate above 0 and below 1"),
    ("--rejection=0.1,-0.1", "at.rejection.1: expected a rate above 0 and below 1"),
    ("--rejection=0.1,inf", "at.rejection.1: expected a finite number"),
    ("--rejection=0.1,0.1", "at.rejection: expected one value or more, all different"),
    ("--rejection=0.1;0.2", "rejection: expected numbers with commas"),
    ("--rejection=", "at.rejection: expected one value or more"),
    ("--draft-length=0", "texts.draft_length: expected a whole number >= 1"),
    ("--draft-length=" + TOO_MANY, "texts.draft_length: expected a whole number >= 1 and <= 1000000"),
    ("--calibration-positions=0", "calibration.positions: expected a whole number >= 1"),
    ("--calibration-positions=" + TOO_MANY, "calibration.positions: expected a whole number >= 1 and <= 1000000"),
    ("--device=cuda:77", "device: expected one this torch can use"),
    ("--target={target} --draft={target}/", "draft: expected another model than the target"),
    ("--target={files}/nowhere --draft={draft}", "expected a hub name or a folder"),
    ("--target={files}/binary --draft={draft}", "expected a hub name or a folder"),
    ("--target={files}/folder --draft={draft}", "expected a hub name or a folder"),
    ("--out=/proc/nowhere", "cannot be made"),
]
MAP = [
    ("--prompts={files}/folder", "Is a directory"),
    ("--prompts={files}/binary", "utf-8"),
    ("--positions={files}/nowhere.npz", "no such file"),
    ("--positions={files}/folder", "Is a directory"),
    ("--positions={files}/binary.npz", "expected an .npz file"),
    ("--positions={files}/alike.npz", "expected a draft that differs from its target"),
    ("--positions=/dev/zero", "got a device"),
    ("--positions={files}/logits.npz --count=0", "count: expected 1 to 48"),
    ("--positions={files}/logits.npz --count=-2", "count: expected 1 to 48"),
    ("--positions={files}/logits.npz --target=x", "expected no --target"),
    ("--rejection=2", "rejection: expected different rates above 0 and below 1"),
    ("--rejection=nan", "rejection: expected different rates above 0 and below 1"),
    ("--temperature=1e-320", "temperature: expected a finite number >= 0.001"),
    ("--temperature=nan", "temperature: expected a finite number >= 0.001"),
    ("--temperature=inf", "temperature: expected a finite number >= 0.001"),
    ("--rules=nope", "rule"),
    ("--rules=", "rules: expected names"),
    ("--rules=lenience:factor=nan", "factor"),
    ("--limit=0", "limit: expected at least 1"),
    ("--count=0", "count: expected at least 1"),
    ("--count=-1", "count: expected at least 1"),
    ("--max-new-tokens=0", "max_new_tokens: expected at least 1"),
    ("--seed=-1", "seed: expected a whole number >= 0"),
    ("--dtype=x", "dtype: expected float32"),
    ("--device=meta", "device: expected one that keeps numbers"),
    ("--threads=1000000000", "threads: expected at least 1, and at most"),
    ("--draft={draft}", "expected both a target and a draft"),
    ("--target={draft} --draft={draft}", "draft: expected another model than the target"),
    ("--positions={files}/logits.npz --rules=lenience --out={files}/empty", "cannot be made"),
]
FRONT = [
    ("{files}/nowhere.npz", "no such file"),
    ("{files}/folder", "Is a directory"),
    ("{files}/binary.npz", "expected an .npz file"),
    ("/dev/zero", "got a device"),
    ("{files}/logits.npz --temperature=1e-320", "temperature: expected a finite number >= 0.001"),
    ("{files}/logits.npz --temperature=-inf", "temperature: expected a finite number >= 0.001"),
    ("{files}/logits.npz --rejection=2", "rejection: expected between 0 and 1"),
    ("{files}/logits.npz --rejection=nan", "rejection: expected between 0 and 1"),
    ("{files}/logits.npz --rejection=" + "0.1," * 1001, "rejection: expected at most 1000 numbers"),
    ("{files}/logits.npz --price=-1", "price: expected at least 0"),
    ("{files}/logits.npz --price=nan", "price: expected at least 0"),
    ("{files}/logits.npz --at-divergence=-1", "divergence: expected at least 0"),
    ("{files}/logits.npz --at-divergence=nan", "divergence: expected at least 0"),
    ("{files}/logits.npz --divergence=l2", "expected one of tv, kl"),
    ("{files}/logits.npz --divergence=alpha=nan", "alpha"),
    ("{files}/logits.npz --divergence=alpha=inf", "alpha"),
    ("{files}/logits.npz --divergence=alpha=", "alpha"),
    ("{files}/logits.npz --budget=all", "budget: expected"),
    ("{files}/logits.npz --rejection=0.1 --price=1", "at most one of"),
    ("{files}/logits.npz --json={files}/logits.npz", "expected a file of its own"),
    ("{files}/logits.npz --json={files}/x --png={files}/folder/../x", "expected a file of its own"),
    ("{files}/logits.npz --png={files}/folder", "cannot be written"),
    ("{files}/logits.npz --rejection=0.1 --json={files}/empty/x", "cannot be made"),
]
EVALUATE = [
    ("{files}/nowhere.yaml", "expected a YAML file"),
    ("{files}/folder", "expected a YAML file"),
    ("n" * 5000, "expected a YAML file"),
    ("{files}/binary.yaml", "expected readable YAML"),
    ("{files}/bomb.yaml", "expected at most 10000 values"),
    ("{files}/empty.yaml --seed=-1", "seed: expected a whole number >= 0"),
    ("{files}/empty.yaml --samples=0", "texts.samples: expected a whole number >= 1"),
    ("{files}/empty.yaml --samples=" + TOO_MANY, "texts.samples: expected a whole number >= 1 and <= 1000000"),
    ("{files}/empty.yaml --samples=900000", "texts.samples: expected at most 1000000 texts in all"),
    ("{files}/empty.yaml --max-new-tokens=-1", "texts.max_new_tokens: expected a whole number >= 1"),
    (
        "{files}/empty.yaml --max-new-tokens=" + TOO_MANY,
        "texts.max_new_tokens: expected a whole number >= 1 and <= 1000000",
    ),
    ("{files}/empty.yaml --temperature=0", "texts.temperature: expected a finite number >= 0.001"),
    ("{files}/empty.yaml --top-p=2", "texts.top_p: expected a finite number > 0 and <= 1"),
    ("{files}/empty.yaml --top-k=-1", "texts.top_k: expected a whole number >= 0"),
    ("{files}/empty.yaml --batch-size=" + TOO_MANY, "texts.batch_size: expected a whole number >= 1 and <= 1000000"),
    ("{files}/empty.yaml --max-new-tokens=100000", "context of"),
    ("{files}/empty.yaml --limit=0", "prompts.limit: expected a whole number >= 1"),
    ("{files}/empty.yaml --dtype=x", "pair.dtype: expected one of float32"),
    ("{files}/empty.yaml --device=meta", "device: expected one that keeps numbers"),
    ("{files}/empty.yaml --threads=1000000000", "threads: expected at least 1, and at most"),
    ("{files}/empty.yaml --target=a", "pair: expected both a target and a draft"),
    ("{files}/empty.yaml --device=abacus", "device: expected one this torch can use"),
    ("{files}/empty.yaml --device=", "pair.device: expected text"),
    ("{files}/empty.yaml --target=a --draft=a", "pair.draft: expected another model than the target"),
    ("{files}/empty.yaml --prompts={files}/nowhere.txt", "No such file"),
    ("{files}/empty.yaml --prompts={files}/binary", "utf-8"),
    ("{files}/empty.yaml --prompts={files}/empty", "expected at least one prompt"),
    ("{files}/empty.yaml --prompts=/dev/zero", "prompts: expected"),
    ("{files}/empty.yaml --prompts={files}/nowhere.json --column=x", "No such file"),
    ("{files}/empty.yaml --prompts=" + "n" * 5000, "prompts: expected"),
    ("{files}/empty.yaml --out={files}/empty", "{files}/empty"),
]
USAGE = [
    *("nope", "front", "evaluate", "front --nope", "compare --samples=x", "compare --samples=1.5", "map --seed=1e3"),
    *("compare --seed=" + "9" * 5000, "front {files}/logits.npz --temperature=x", "evaluate small extra", "map extra"),
]


def run(command, line, files, tmp_path):
    arguments = line.format(files=files, target=TARGET, draft=DRAFT).split()
    started = time.monotonic()
    result = CliRunner().invoke(app, [*command, *out(command, line, tmp_path), *arguments])
    assert time.monotonic() - started < 30, "not bounded"
    return result


def out(command, line, tmp_path):
    return [] if command in ([], ["front"]) or "--out" in line else [f"--out={tmp_path / 'out'}"]


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        (command, line, message)
        for command, lines in (("compare", COMPARE), ("map", MAP), ("front", FRONT), ("evaluate", EVALUATE))
        for line, message in lines
    ],
)
def test_a_bad_command_line_is_told_in_one_line_before_any_work(files, tmp_path, monkeypatch, command, line, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run([command], line, files, tmp_path)
    assert result.exit_code == 2, result.output
    told = [each for each in result.stderr.splitlines() if each.startswith("error: ")]
    assert len(told) == 1, result.output
    assert message.format(files=files) in told[0]
    assert len(told[0]) < 1000
    assert "Traceback" not in result.output
    assert not result.stdout
    assert not list((tmp_path / "out").glob("*.jsonl"))


@pytest.mark.parametrize("line", USAGE)
def test_what_is_no_command_line_at_all_is_a_usage_error(files, tmp_path, line):
    result = run([], line, files, tmp_path)
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            OSError(28, "No space left on device", "x/rows.jsonl"),
            2,
            "x/rows.jsonl: cannot be read or written: No space",
        ),
        (MemoryError(), 2, "expected work that fits into memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "expected work that fits"),
        (UnicodeEncodeError("ascii", "a\ud800", 1, 2, "no"), 2, "expected text that ascii can write"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_machine_refuses_is_one_line(capsys, error, code, told):
    from typer import Exit

    with pytest.raises(Exit) as left, one_line_errors("interrupted"):
        raise error
    assert left.value.exit_code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_fault_of_ours_is_no_input_error():
    with pytest.raises(RuntimeError, match="shape"), one_line_errors(""):
        raise RuntimeError("wrong shape")


def test_names_steer_no_terminal(capsys):
    from decoding.cli.terminal import say, track

    say("judge [/nope] \x1b[31m :warning: two\nlines")
    assert capsys.readouterr().err == "judge [/nope] \\u001b[31m :warning: two lines\n"
    with track("asking [/nope] \x1b[31m", 1, 0) as advance:
        advance(1)
    assert "\x1b[31m " not in capsys.readouterr().err


def test_a_full_disk_under_the_table_is_one_line(files):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    import subprocess
    import sys

    command = [sys.executable, "-c", "from decoding.cli import main; main()", "front", str(files / "logits.npz")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, "--rejection=0.1"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "]


def test_the_bomb_is_what_it_says():
    assert len(bomb()) <= 456
    assert yaml.compose(bomb()) is not None
