"""`tradeoff map`: every rule on the same positions, none below the front, ranks, resumption, errors."""

import json
import math

import numpy as np
import pytest
from map_files import ROWS, kind, logits_file, rows, run
from tolerances import assert_close

from decoding.evaluation.files.kept import locked
from decoding.evaluation.positions.file import read_logits
from decoding.evaluation.rule_map import mapper
from decoding.evaluation.rule_map.mapper import DIVERGENCES
from decoding.evaluation.rule_map.options import all_curves
from tradeoff import evaluate, solve_pareto
from tradeoff.fronts.looks import look_of
from tradeoff.outcome.positions import Positions
from tradeoff.rules.registry import families

FEW = "--rules=lenience,mars,top_k_gate,speculative_sampling,common_price"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return logits_file(tmp_path_factory.mktemp("logits") / "logits.npz")


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """The map of all rules, once."""
    out = tmp_path_factory.mktemp("map") / "out"
    result = run(f"--positions={file}", f"--out={out}", "--rejection=0.2,0.1")
    assert result.exit_code == 0, result.output
    return out, rows(out), result


def positions(file, **more):
    logits = read_logits(file)
    return Positions.from_logits(logits.draft_logits, logits.target_logits, prompt=logits.prompt, **more)


def points(found):
    """Every measured point: of curves, and where knobs were set."""
    return [point for row in kind(found, "curve") for point in row["points"]] + [
        row for row in kind(found, "rate") if row["reached"] is not None
    ]


def test_every_rule_of_one_token_is_on_the_map_once(whole):
    out, found, _ = whole
    specs = [row["rule"] for row in kind(found, "curve")]
    assert specs == [curve.spec for curve in all_curves()]
    assert len(set(specs)) == len(specs) > 35
    assert {family.spec for family in families()} < set(specs)
    assert {"speculative_sampling", "sample_match", "openvino", "logit_comparison"} < set(specs)
    assert len(kind(found, "rate")) == 2 * len(specs)
    assert [row["divergence"] for row in kind(found, "front")] == list(DIVERGENCES)
    assert (out / "map.png").read_bytes().startswith(b"\x89PNG")
    for row in found:
        assert row["stamp"]["versions"]["numpy"]
        assert row["settings"]["positions"] == ROWS
        assert row["settings"]["prompts"] == ROWS // 6


def test_numbers_are_finite_or_say_infinity(whole):
    for point in points(whole[1]):
        assert 0 <= point["rejection"] <= 1 + 1e-12
        for value in point["divergences"].values():
            assert value == "inf" or (math.isfinite(value) and value >= -1e-12)
    assert any("inf" in point["divergences"].values() for point in points(whole[1]))


def test_the_points_are_what_the_rules_do(whole, file):
    logits, laws = read_logits(file), positions(file)
    for row in kind(whole[1], "curve"):
        point = row["points"][len(row["points"]) // 2]
        spec = row["rule"]
        if row["knob"]:
            spec += f"{',' if ':' in spec else ':'}{row['knob']}={point['value']!r}"
        outcome = evaluate(
            spec,
            laws.draft,
            laws.target,
            draft_logits=logits.draft_logits,
            target_logits=logits.target_logits,
        )
        assert_close(point["rejection"], outcome.rejection.mean(), "mass")
        for name in ("tv", "kl"):
            assert_close(float(point["divergences"][name]), outcome.divergence_in(name).mean(), "mass")


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_front_is_the_exact_one_and_below_every_rule(whole, file, name):
    (front,) = [row for row in kind(whole[1], "front") if row["divergence"] == name]
    laws = positions(file)
    inner = slice(1, -1, 12) if len(front["rejection"]) > 2 else slice(None)
    exact = solve_pareto(laws.draft, laws.target, divergence=name, budget="mean", rejection=front["rejection"][inner])
    np.testing.assert_allclose(front["least"][inner], exact.divergence, rtol=1e-9, atol=1e-12)
    places = [(point["rejection"], float(point["divergences"][name]), point) for point in points(whole[1])][::31]
    least = solve_pareto(
        laws.draft, laws.target, divergence=name, budget="mean", rejection=[min(x, 1.0) for x, _, _ in places]
    )
    for (_, value, point), best in zip(places, least.divergence, strict=True):
        assert value >= best * (1 - 1e-9) - 1e-9
        multiple = point["over_front"][name]
        if multiple is not None and best > 1e-6:  # between solved points the map interpolates
            assert float(multiple) == pytest.approx(value / best, rel=5e-3)
    assert min(point["excess"].get(name, 0.0) for point in points(whole[1])) >= -1e-9
    assert "No rule is below the front" in whole[2].stdout


def test_curves_move_in_small_steps_of_rejection(whole, file):
    lossless = positions(file).total_variation.mean()
    smooth = {"lenience", "ensemble", "decoding_opt", "mentored", "ratio_clip", "additive_slack", "ears"}
    for row in kind(whole[1], "curve"):
        x = np.array([point["rejection"] for point in row["points"] if not point["published"]])
        if row["rule"] in smooth:
            assert 10 <= len(x) <= 16
            assert abs(x[0] - lossless) < 1e-9
            assert x[-1] < 1e-9
            assert np.abs(np.diff(x)).max() < 0.25 * lossless
        defaults = [point["value"] for point in row["points"] if point["published"]]
        assert defaults == {"typical": [0.09], "top_k_gate": [5], "bild": [5.0], "mars": [0.9]}.get(row["rule"], [])


def test_ranks_are_by_kl_at_equal_rejection(whole):
    _, found, result = whole
    for rate, block in zip((0.2, 0.1), result.stdout.split("mean rejection ")[1:], strict=True):
        cells = {row["rule"]: row for row in kind(found, "rate") if row["requested"] == rate}
        reached = {look_of(spec).label: row for spec, row in cells.items() if row["reached"] is not None}
        lines = [line.split() for line in block.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
        assert lines[0][:2] == ["1", "common_price"]
        assert [int(line[0]) for line in lines] == sorted(int(line[0]) for line in lines)
        assert len(lines) == len(reached)
        multiples = [row["over_best"]["value"] for row in reached.values()]
        assert min(multiples) > 1 - 1e-9
        for row in reached.values():
            assert float(row["over_best"]["high"]) >= float(row["over_best"]["low"]) >= 1 - 1e-9
            assert row["over_best"]["value"] == pytest.approx(float(row["over_front"]["kl"]), rel=2e-3)
        # the same law under two names shares its rank
        twins = [line[0] for line in lines if line[1] == "lenience" or line[1:3] == ["distillspec", "square"]]
        assert len(set(twins)) == 1
        met = [row for row in reached.values() if abs(row["reached"] - rate) < 1e-9]
        assert len(met) > 12
        order = sorted(met, key=lambda row: row["over_best"]["value"])
        kl = [float(row["divergences"]["kl"]) for row in order]
        assert_close(kl, sorted(kl), "mass")


def test_a_rule_that_cannot_reach_a_rate_is_listed_with_its_range(whole):
    _, found, result = whole
    for row in kind(found, "rate"):
        if row["rule"] in ("mars", "contrastive"):
            assert row["reached"] is None
            low, high = row["range"]
            assert row["requested"] < low < high
            assert f"{low:.3f} to {high:.3f}" in result.stdout
        if row["rule"] in ("speculative_sampling", "sample_match"):
            assert row["reached"] is None
            assert f"only {row['range'][0]:.3f}" in result.stdout
        if row["rule"] == "top_k_gate":  # whole numbers: it says that it does not quite get there
            assert abs(row["reached"] - row["requested"]) > 1e-4
            assert f"~ {row['reached']:.4f}" in result.stdout


def test_an_interrupted_map_goes_on_and_ends_with_the_same_rows(file, tmp_path, monkeypatch):
    whole, partial = tmp_path / "whole", tmp_path / "partial"
    arguments = (f"--positions={file}", FEW, "--rejection=0.1")
    assert run(*arguments, f"--out={whole}").exit_code == 0
    original = mapper.Mapper._curve_row

    def interrupted(self, curve):
        if curve.spec == "mars":
            raise KeyboardInterrupt
        return original(self, curve)

    with monkeypatch.context() as patch:
        patch.setattr(mapper.Mapper, "_curve_row", interrupted)
        stopped = run(*arguments, f"--out={partial}")
    assert stopped.exit_code == 130
    assert "the same command goes on from there" in stopped.output
    there = len(rows(partial))
    assert 6 < there < len(rows(whole))
    with (partial / "map.jsonl").open("a") as torn:
        torn.write('{"kind": "curve", "rule": "ma')
    again = run(*arguments, f"--out={partial}")
    assert f"{there} rows are there" in again.output
    for name in ("map.jsonl", "map.png", "map.html"):
        assert (partial / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((partial / "stamp.json").read_text())["time"]
    before = (partial / "map.jsonl").read_text()
    assert "0 to make" in run(*arguments, f"--out={partial}").output
    # rules and rates can be added: what is there stays
    more = run(arguments[0], FEW + ",ensemble", "--rejection=0.1,0.05", f"--out={partial}")
    assert more.exit_code == 0
    assert (partial / "map.jsonl").read_text().startswith(before)


def test_one_run_at_a_time_and_every_row_once(file, tmp_path):
    arguments = (f"--positions={file}", "--rules=lenience", "--rejection=0.1", f"--out={tmp_path}")
    with locked(tmp_path):
        second = run(*arguments)
    assert second.exit_code == 2
    assert "where one is at work" in second.output
    assert not (tmp_path / "map.jsonl").exists()
    assert run(*arguments).exit_code == 0
    written = (tmp_path / "map.jsonl").read_bytes()
    first, _, rest = written.partition(b"\n")
    for broken, message in (
        (written + first + b"\n", "line 9: expected every row once; line 1 is of ('front', 'tv') too"),
        (first + b"\n\\\n" + rest, "line 2: expected a row of map as it was written"),
        (written.replace(b'"rejection": 0.', b'"rejection": 1.', 1), "a row that was changed"),
    ):
        (tmp_path / "map.jsonl").write_bytes(broken)
        result = run(*arguments)
        assert result.exit_code == 2
        (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
        assert message in line
    (tmp_path / "map.jsonl").write_bytes(written)
    (tmp_path / "settings.json").unlink()
    assert "expected settings.json beside" in run(*arguments).output


@pytest.mark.parametrize("other", ["--temperature=0.7", "--greedy-draft", "--seed=1", "--count=20"])
def test_other_settings_do_not_mix_with_written_rows(whole, file, other):
    out, _, _ = whole
    before = (out / "map.jsonl").read_text()
    result = run(f"--positions={file}", f"--out={out}", other)
    assert result.exit_code == 2
    assert "choose another --out" in result.output
    assert (out / "map.jsonl").read_text() == before


def test_temperature_and_greedy_drafts_change_the_laws(file, tmp_path):
    for name, options, more in (
        ("cold", ["--temperature=0.5"], {"temperature": 0.5}),
        ("greedy", ["--greedy-draft"], {"greedy_draft": True}),
    ):
        few = "--rules=speculative_sampling,sample_match,lenience,sglang,decoding_opt"
        result = run(f"--positions={file}", f"--out={tmp_path / name}", few, "--rejection=0.1", *options)
        assert result.exit_code == 0, result.output
        found = rows(tmp_path / name)
        exact = {row["rule"]: row["points"][0]["rejection"] for row in kind(found, "curve")}
        lossless = positions(file, **more).total_variation.mean()
        assert_close(exact["speculative_sampling"], lossless, "mass")
        # against a point mass, drawing the target's own token is as good as any lossless rule
        assert (abs(exact["sample_match"] - lossless) < 1e-9) == (name == "greedy")
        assert min(min(point["excess"].values()) for point in points(found)) >= -1e-9


def test_a_rate_above_lossless_is_said_and_not_ranked(file, tmp_path):
    result = run(f"--positions={file}", f"--out={tmp_path}", "--rules=lenience", "--rejection=0.9,0.1")
    assert result.exit_code == 0
    assert "rejection 0.9: not ranked; lossless decoding rejects no more than" in result.output
    assert {row["requested"] for row in kind(rows(tmp_path), "rate")} == {0.1}


def test_a_narrow_terminal_leaves_columns_out_and_no_digits(whole, file):
    widths = {}
    for columns in (50, 90, 200):
        shown = run(f"--positions={file}", f"--out={whole[0]}", "--rejection=0.2,0.1", columns=columns).stdout
        table = shown.split("Exact means")[0]
        widths[columns] = max(len(line.rstrip()) for line in table.splitlines())
        assert "…" not in shown
        assert ("reverse KL" in table.split("Left out")[0]) == (columns == 200)
    assert widths[90] <= 90
    assert widths[50] <= widths[90] < widths[200]
