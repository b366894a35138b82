"""`tradeoff compare` on the shipped pair: rows, table, figure, resumption, errors."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decoding import embedded
from decoding.cli import app
from decoding.evaluation.comparison import texts
from decoding.evaluation.files.kept import locked
from solvers.errors import InputError

SMALL = [
    "--limit=3",
    "--samples=2",
    "--max-new-tokens=10",
    "--calibration-positions=120",
    "--rejection=0.1",
]


def compare(*arguments):
    return CliRunner().invoke(app, ["compare", *arguments])


def rows(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    result = compare(*SMALL, f"--out={out}")
    assert result.exit_code == 0, result.output
    return out, result


def test_every_rule_has_a_result_row_with_its_stamp(whole):
    out, result = whole
    found = rows(out / "results.jsonl")
    assert [row["rule"] for row in found] == [
        "SpeculativeSampling",
        "DecodingUNO (draft)",
        "DecodingUNO",
        "DecodingOPT",
        "RatioClip",
        "CommonPrice",
    ]
    for row in found:
        assert row["rule"] in result.output
        assert row["texts"] == 6
        assert (row["settings"]["seed"], row["settings"]["dtype"], row["settings"]["device"]) == (0, "float32", "cpu")
        assert row["stamp"]["versions"]["torch"]
        assert not {"time", "threads"} & row["stamp"].keys()
        if row["rule"] != "SpeculativeSampling":
            assert abs(row["calibration"]["rejection"] - 0.1) < 1e-4
    assert found[0]["means"]["kl"]["value"] < 1e-9
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_narrow_terminal_leaves_columns_out_and_no_digits(whole):
    out, _ = whole
    widths = {}
    for columns in (60, 90, 200):
        shown = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["compare", *SMALL, f"--out={out}"]).stdout
        lines = shown.splitlines()
        widths[columns] = max(len(line.rstrip()) for line in lines if line.strip())
        assert "…" not in shown
        assert ("log-likelihood" in shown.split("Exact divergences")[0]) == (columns == 200)
        assert ("Left out" in shown) == (columns < 200)
    assert widths[90] <= 90
    assert widths[60] < widths[90] < widths[200]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_rows(whole, tmp_path, monkeypatch):
    out, _ = whole
    partial = tmp_path / "out"
    original, written = texts.generate_rows, 0

    def interrupted(*arguments):
        nonlocal written
        for row in original(*arguments):
            if written == 7:
                raise KeyboardInterrupt
            written += 1
            yield row

    with monkeypatch.context() as patch:
        patch.setattr("decoding.evaluation.comparison.texts.generate_rows", interrupted)
        stopped = compare(*SMALL, f"--out={partial}")
    assert stopped.exit_code == 130
    assert len(rows(partial / "samples.jsonl")) == 7
    with (partial / "samples.jsonl").open("a") as file:
        file.write('{"prompt": 0, "cut short')
    assert compare(*SMALL, f"--out={partial}").exit_code == 0
    assert rows(partial / "samples.jsonl") == rows(out / "samples.jsonl")


def test_a_finished_run_is_not_run_again(whole):
    out, _ = whole
    names = ("samples.jsonl", "results.jsonl", "comparison.png")
    before = [(out / name).read_bytes() for name in names]
    with locked(out):
        second = compare(*SMALL, f"--out={out}")
    assert second.exit_code == 2
    assert "where one is at work" in second.output
    again = compare(*SMALL, f"--out={out}")
    assert again.exit_code == 0
    assert "0 to write" in again.output
    assert [(out / name).read_bytes() for name in names] == before
    assert json.loads((out / "stamp.json").read_text())["time"]


def test_doubled_and_foreign_rows_are_told_and_not_counted(tmp_path):
    settings = texts.Settings(
        pair="a",
        prompts=("b",),
        rejection=(0.1,),
        samples=2,
        max_new_tokens=4,
        draft_length=2,
        calibration_positions=9,
        seed=0,
        dtype="float32",
        device="cpu",
    )
    folder = texts.Folder(tmp_path, settings)
    found = [{"prompt": 0, "sample": sample, "cell": "c", "kl": 0.1} for sample in range(2)]
    for row in found:
        folder.append(row)
    wanted = {(0, 0, "c"), (0, 1, "c")}
    assert list(folder.rows(wanted).values()) == found
    with pytest.raises(InputError, match=r"expected texts of this comparison; got one of \(0, 1, 'c'\)"):
        folder.rows({(0, 0, "c")})
    folder.append(found[0])
    with pytest.raises(InputError, match=r"samples.jsonl, line 3: expected every row once; line 1 is of \(0, 0, 'c'\)"):
        folder.rows(wanted)


@pytest.mark.parametrize("other", ["--seed=1", "--dtype=bfloat16", "--draft-length=3"])
def test_other_settings_do_not_mix_with_written_rows(whole, other):
    out, _ = whole
    before = (out / "samples.jsonl").read_text()
    result = compare(*SMALL, other, f"--out={out}")
    assert result.exit_code == 2
    assert "choose another --out" in result.output
    assert (out / "samples.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rejection=0.9"], "below this pair's mean TV(draft, target)"),
        (["--rejection=a"], "expected numbers with commas"),
        (["--rejection="], "expected at least one rate"),
        (["--rejection=0.1,0.1"], "expected different rates"),
        (["--device=nowhere"], "device: expected one this torch can use"),
        (["--threads=0"], "threads: expected at least 1"),
        (["--samples=0"], "samples: expected at least 1"),
        (["--limit=0"], "limit: expected at least 1"),
        (["--max-new-tokens=100000"], "context of"),
        (["--target=nowhere/nothing"], "expected both a target and a draft"),
        (["--target=/nowhere/nothing", "--draft=/nowhere/other"], "expected a hub name or a folder"),
        (["--dtype=int8"], "expected float32"),
        (["--prompts=/nowhere/nothing.txt"], "expected a readable text or JSON file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    result = compare(*SMALL, f"--out={tmp_path / 'out'}", *arguments)
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert message in line


def test_an_empty_prompt_file_is_exit_code_2(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    result = compare(f"--prompts={tmp_path / 'empty.txt'}", f"--out={tmp_path / 'out'}")
    assert result.exit_code == 2
    assert "expected at least one prompt" in result.output


def test_any_pair_of_folders_works(tmp_path):
    # the shipped pair by path, the other way round: a draft better than its target is still a pair
    result = compare(*SMALL, f"--target={embedded.DRAFT}", f"--draft={embedded.TARGET}", f"--out={tmp_path / 'out'}")
    assert result.exit_code == 0, result.output
    assert "draft with target" in result.output
