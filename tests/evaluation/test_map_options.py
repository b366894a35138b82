"""`tradeoff map` and what it is asked for: rules by name, options, positions that are collected once, errors."""

import pytest
from map_files import logits_file, rows, run

from decoding.cli import rule_map
from decoding.evaluation.rule_map.options import curves_named


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return logits_file(tmp_path_factory.mktemp("logits") / "logits.npz")


def test_rules_are_names_of_all_variants_or_specs():
    def specs(text):
        return [curve.spec for curve in curves_named(text)]

    assert specs("lenience, lenience") == ["lenience"]
    assert specs("cactus,cascade:variant=tok3") == ["cactus:exact=false", "cactus:exact=true", "cascade:variant=tok3"]
    fuzzy = "fuzzy:divergence=tv,fallback=speculative"
    assert specs(f"{fuzzy},mars:theta=0.5,logit_comparison") == [fuzzy, "mars:theta=0.5", "logit_comparison"]
    assert [curve.knob is None for curve in curves_named("typical:threshold=0.09,typical")] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rules=lenince"], "did you mean 'lenience'?"),
        (["--rules= ,"], "expected names or specs with commas"),
        (["--rules=fly"], "fly judges more than one token"),
        (["--rules=judge"], "judge needs data that no text can hold"),
        (["--rules=lenience:epsilon=1"], "expected factor, each once; got 'epsilon'"),
        (["--rules=cascade:variant=tok9"], "variant"),
        (["--rules=lenience:factor=7"], "factor"),
        (["--rejection=a"], "expected numbers with commas"),
        (["--rejection="], "expected different rates above 0"),
        (["--rejection=0.1,0.1"], "expected different rates above 0"),
        (["--rejection=0"], "expected different rates above 0"),
        (["--temperature=0"], "temperature: expected a finite number >= 0.001"),
        (["--temperature=nan"], "temperature: expected a finite number >= 0.001"),
        (["--top-p=0"], "top_p: expected a number above 0 and at most 1"),
        (["--top-p=nan"], "top_p: expected a number above 0 and at most 1"),
        (["--top-k=-1"], "top_k: expected a whole number >= 0"),
        (["--seed=-1"], "seed: expected a whole number"),
        (["--count=1000"], "count: expected 1 to 48"),
        (["--draft=x"], "positions: expected no --target, --draft"),
        (["--limit=1"], "positions: expected no --target, --draft"),
        (["--positions=/nowhere/nothing.npz"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(file, tmp_path, arguments, message):
    result = run(f"--positions={file}", f"--out={tmp_path / 'out'}", *arguments)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert message in line


def test_the_embedded_pair_is_collected_once(tmp_path, monkeypatch):
    arguments = ("--count=24", "--max-new-tokens=8", "--limit=3", "--rules=lenience", f"--out={tmp_path}")
    first = run(*arguments, "--rejection=0.1")
    assert first.exit_code == 0, first.output
    assert "embedded pair, 24 positions" in first.stdout
    assert rows(tmp_path)[0]["settings"]["prompts"] == 3
    monkeypatch.setattr(rule_map, "load", lambda *_: pytest.fail("a model was loaded again"))
    again = run(*arguments, "--rejection=0.1,0.05")
    assert again.exit_code == 0, again.output
    refused = run(*arguments, "--max-new-tokens=9")
    assert refused.exit_code == 2
    assert "new_tokens 8, not 9" in refused.output
    reused = run(f"--positions={tmp_path / 'positions.npz'}", "--rules=lenience", f"--out={tmp_path / 'other'}")
    assert reused.exit_code == 0, reused.output
    assert "which follow texts the target wrote at temperature 1." in reused.stdout


def test_positions_at_a_temperature_follow_texts_at_that_temperature(tmp_path):
    arguments = ("--count=24", "--max-new-tokens=8", "--limit=3", "--rules=lenience", "--rejection=0.05")
    cold = run(*arguments, "--temperature=0.5", "--top-p=0.9", f"--out={tmp_path / 'cold'}")
    assert cold.exit_code == 0, cold.output
    assert "which follow texts the target wrote at temperature 0.5, top-p 0.9." in cold.stdout
    file = tmp_path / "cold" / "positions.npz"
    # a file's own sampling is its laws', unless others are asked for: then both are said
    reused = run(f"--positions={file}", *arguments[3:], f"--out={tmp_path / 'reused'}")
    assert [row | {"settings": 0, "crc32": 0} for row in rows(tmp_path / "reused")] == [
        row | {"settings": 0, "crc32": 0} for row in rows(tmp_path / "cold")
    ]
    warm = run(f"--positions={file}", *arguments[3:], "--temperature=1", f"--out={tmp_path / 'warm'}")
    assert "wrote at temperature 0.5, top-p 0.9 but of laws at temperature 1, top-p 0.9." in warm.stdout
    assert reused.exit_code == warm.exit_code == 0
    refused = run(*arguments, f"--out={tmp_path / 'cold'}")
    assert refused.exit_code == 2
    assert "temperature 0.5, not 1.0" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target=nowhere/nothing"], "expected both a target and a draft"),
        (["--target=/nowhere/nothing", "--draft=/nowhere/other"], "expected a hub name or a folder"),
        (["--limit=0"], "limit: expected at least 1"),
        (["--count=0"], "count: expected at least 1"),
        (["--max-new-tokens=0"], "max_new_tokens: expected at least 1"),
        (["--max-new-tokens=100000"], "context of"),
        (["--dtype=int8"], "expected float32"),
        (["--prompts=/nowhere/nothing.txt"], "expected a readable text or JSON file"),
    ],
)
def test_a_pair_that_cannot_be_used_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    result = run("--rules=lenience", f"--out={tmp_path / 'out'}", *arguments)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert message in line
