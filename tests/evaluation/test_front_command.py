"""`tradeoff front`: the table and the JSON hold the numbers of `solve_pareto`, errors are one line."""

import json

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest
from laws import random_pair
from tolerances import assert_close
from typer.testing import CliRunner

from decoding.cli import app
from decoding.evaluation.front.law_file import read_laws
from decoding.evaluation.front.report import answers, as_dict, write_json
from tradeoff import solve_pareto

DRAFT = np.array([0.7, 0.2, 0.1])
TARGET = np.array([0.4, 0.4, 0.2])


def front(*arguments):
    return CliRunner().invoke(app, ["front", *map(str, arguments)])


def file(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def one(tmp_path):
    return file(tmp_path / "one.npz", draft=DRAFT, target=TARGET)


@pytest.fixture
def many(tmp_path):
    draft, target = several()
    return file(tmp_path / "many.npz", draft=draft.reshape(2, 2, 6), target=target.reshape(2, 2, 6))


def several():
    return (np.stack(laws) for laws in zip(*(random_pair(seed, vocab=6) for seed in range(4)), strict=True))


def cells(output):
    """Rows of the tables: lines that begin with a number and end with yes or no."""
    rows = [line.split() for line in output.splitlines()]
    return [[float(cell) for cell in row[:-1]] for row in rows if row and row[-1] in ("yes", "no")]


def strict(path):
    def refuse(literal):
        raise AssertionError(f"{literal} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def shown(value):
    return 0.0 if abs(value) < 1e-12 else float(f"{value:.4g}")


@pytest.mark.parametrize("name", ["tv", "kl", "alpha=0.5"])
def test_the_table_is_the_front(one, name):
    result = front(one, f"--divergence={name}")
    assert result.exit_code == 0, result.output
    expected = solve_pareto(DRAFT, TARGET, divergence=name)
    rows = cells(result.stdout)
    assert len(rows) == 9
    for row, rejection in zip(rows, expected.rejection[::4], strict=True):
        point = expected.at(rejection=rejection)
        numbers = (point.rejection, point.divergence, point.price, point.floor, point.ceiling)
        assert row[:5] == [shown(float(each)) for each in numbers]
        assert abs(row[5]) < 1e-12
    assert expected.measure.label in result.stdout
    assert "no" not in result.stdout.split()


def test_a_narrow_terminal_folds_lines_and_loses_no_digits(one):
    narrow, wide = (
        CliRunner(env={"COLUMNS": columns}).invoke(app, ["front", str(one), "--divergence=kl"]).stdout
        for columns in ("40", "200")
    )
    assert "…" not in narrow
    assert cells(narrow) == cells(wide)


@pytest.mark.parametrize(
    ("option", "question", "wanted"),
    [
        ("--rejection", "rejection", (0.1, 0.05)),
        ("--at-divergence", "divergence", (0.02,)),
        ("--price", "price", (0.5, 0.0)),
    ],
)
def test_each_question_has_its_answer(one, option, question, wanted):
    result = front(one, option, ",".join(map(str, wanted)))
    assert result.exit_code == 0, result.output
    points = [
        solve_pareto(DRAFT, TARGET, divergence=name).at(**{question: each}) for name in ("tv", "kl") for each in wanted
    ]
    assert [row[:2] for row in cells(result.stdout)] == [
        [shown(float(each.rejection)), shown(float(each.divergence))] for each in points
    ]


def test_a_budget_that_buys_nothing_is_said_so(one):
    shown = front(one, "--rejection=0.2,0.4", "--divergence=kl").stdout
    (line,) = [line for line in shown.splitlines() if "lossless already" in line]
    assert line.startswith("rejection 0.4: above the TV(draft, target) 0.3")
    shown = front(one, "--at-divergence=0.001,3", "--divergence=kl").stdout
    (line,) = [line for line in shown.splitlines() if "the draft itself" in line]
    assert line.startswith("divergence 3: not below the draft's own 0.")


def test_several_positions_share_a_mean_budget_by_default(many):
    result = front(many, "--rejection=0.1", "--divergence=kl")
    assert result.exit_code == 0, result.output
    expected = solve_pareto(*several(), divergence="kl", budget="mean")
    point, alternatives = expected.at(rejection=0.1), expected.alternatives(rejection=0.1)
    ((rejection, divergence, price, _, _, equal, ceiling, gap),) = cells(result.stdout)
    assert [rejection, divergence] == [shown(point.mean_rejection), shown(point.mean_divergence)]
    assert price == shown(float(point.certificate.price))
    assert equal == float(f"{alternatives.gain['equal_budgets']:.3g}") > 1
    assert ceiling == float(f"{alternatives.gain['common_ceiling']:.3g}")
    assert abs(gap) < 1e-9
    assert "4 positions, one mean budget" in result.stdout


def test_own_budgets_are_summarised_over_the_positions(many):
    result = front(many, "--rejection=0.1", "--divergence=kl", "--budget=each")
    assert result.exit_code == 0, result.output
    point = solve_pareto(*several(), divergence="kl").at(rejection=0.1)
    ((rejection, mean, median, *_),) = cells(result.stdout)
    assert rejection == shown(point.rejection.mean())
    assert mean == shown(point.divergence.mean())
    assert median == shown(np.sort(point.divergence)[1])
    assert "4 positions, each its own budget" in result.stdout
    result = front(many, "--rejection=0.9", "--divergence=kl", "--budget=each")
    assert "at 4 of 4 positions: lossless already" in result.stdout


def test_json_holds_the_grid_and_the_proofs(one, tmp_path):
    path = tmp_path / "new" / "front.json"
    result = front(one, "--divergence=kl,js", "--rejection=0.1", "--json", path)
    assert result.exit_code == 0, result.output
    document = strict(path)
    assert (document["positions"], document["vocab"], document["budget"]) == (1, 3, "each")
    for written, name in zip(document["fronts"], ("kl", "js"), strict=True):
        expected = solve_pareto(DRAFT, TARGET, divergence=name)
        assert written["divergence"] == name
        assert_close(written["total_variation"], expected.total_variation, "mass")
        assert written["grid"]["rejection"] == expected.rejection.tolist()
        assert written["grid"]["divergence"] == expected.divergence.tolist()
        (answer,) = written["points"]
        point = expected.at(rejection=0.1)
        assert answer["asked"] == 0.1
        assert [answer[key] for key in ("rejection", "divergence", "floor", "ceiling")] == [
            float(each) for each in (point.rejection, point.divergence, point.floor, point.ceiling)
        ]
        assert answer["certificate"]["proved"] is True
        assert answer["certificate"]["bound"] == float(point.certificate.bound)


def test_json_writes_infinity_as_a_string_and_undefined_multiples_as_null(tmp_path):
    draft, target = np.stack([DRAFT, DRAFT]), np.array([[0.0, 0.5, 0.5], [0.0, 0.2, 0.8]])
    solved = solve_pareto(draft, target, divergence="kl", budget="mean", rejection=[0.0, 0.8])
    path = tmp_path / "front.json"
    write_json(as_dict(tmp_path, [solved], [answers(solved, "rejection", [0.0])]), path)
    (written,) = strict(path)["fronts"]
    assert written["grid"]["divergence"][0] == "inf"
    assert written["points"][0]["divergence"] == ["inf", "inf"]
    assert written["points"][0]["alternatives"]["common_price"] == "inf"
    assert written["points"][0]["alternatives"]["times_the_least"] == {"equal_budgets": None, "common_ceiling": None}


def test_json_of_a_batch_has_numbers_for_every_position(many, tmp_path):
    path = tmp_path / "front.json"
    assert front(many, "--divergence=kl", "--price=0.5", "--budget=each", "--json", path).exit_code == 0
    expected = solve_pareto(*several(), divergence="kl")
    (written,) = strict(path)["fronts"]
    assert written["grid"]["divergence"] == expected.divergence.tolist()
    assert written["points"][0]["rejection"] == expected.at(price=0.5).rejection.tolist()


@pytest.mark.parametrize("name", ["front.png", "new/figure"])
def test_the_figure_is_written(many, tmp_path, name):
    result = front(many, "--rejection=0.1", "--divergence=kl", "--png", tmp_path / name)
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_logits_are_laws_after_a_softmax(one, tmp_path, temperature):
    scale = temperature or 1.0
    masked = np.array([0.4, 0.6, 0.0])
    with np.errstate(divide="ignore"):
        logits = {"draft_logits": scale * np.log(DRAFT) + 7, "target_logits": scale * np.log(masked) - 900}
    path = file(tmp_path / "logits.npz", **logits)
    draft, target = read_laws(path, temperature)
    assert_close(draft, DRAFT, "mass")
    assert_close(target, masked, "mass")
    arguments = ["--divergence=kl", "--rejection=0.1,0.2"]
    if temperature:
        arguments.append(f"--temperature={temperature}")
    laws = file(tmp_path / "laws.npz", draft=DRAFT, target=masked)
    found, expected = (cells(front(each, *arguments[:2]).stdout) for each in (path, laws))
    if temperature is None:
        assert [row[:5] for row in found] == [row[:5] for row in expected]
    assert [row[:5] for row in cells(front(path, *arguments).stdout)] == [row[:5] for row in expected]


def test_one_row_is_one_position(tmp_path):
    path = file(tmp_path / "row.npz", draft=DRAFT[None], target=TARGET[None].astype(np.float32))
    result = front(path, "--rejection=0.1")
    assert result.exit_code == 0
    assert "positions" not in result.stdout
    assert front(path, "--budget=mean").exit_code == 2


def test_laws_up_to_scale_need_normalise(tmp_path):
    path = file(tmp_path / "scaled.npz", draft=3 * DRAFT, target=5 * TARGET)
    assert "sum to 1" in front(path).stderr
    result = front(path, "--normalise", "--divergence=kl", "--rejection=0.1")
    assert [row[:2] for row in cells(result.stdout)] == [
        [0.1, shown(float(solve_pareto(DRAFT, TARGET, divergence="kl").at(rejection=0.1).divergence))]
    ]


def refused(result, message):
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error:")
    assert message in line
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--divergence=l2"], "expected one of tv, kl"),
        (["--divergence=,"], "at least one name"),
        (["--rejection=0.1", "--price=1"], "at most one of"),
        (["--rejection=a"], "rejection: expected numbers with commas"),
        (["--at-divergence=a"], "divergence: expected numbers with commas"),
        (["--price="], "price: expected at least one number"),
        (["--rejection=1.5"], "rejection: expected between 0 and 1"),
        (["--price=nan"], "price: expected at least 0"),
        (["--budget=mean"], "expected several positions"),
        (["--budget=all"], "budget: expected 'each' or 'mean'"),
        (["--temperature=0.5"], "expected only with draft_logits"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(one, arguments, message):
    refused(front(one, *arguments), message)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"p": DRAFT, "q": TARGET}, "got p, q"),
        ({"draft": DRAFT, "target_logits": TARGET}, "got draft, target_logits"),
        ({}, "got none"),
        (
            {"draft": DRAFT, "target": TARGET, "draft_logits": DRAFT, "target_logits": TARGET},
            "got draft, target, draft",
        ),
        ({"draft": DRAFT, "target": TARGET[:2]}, "expected equal shapes [..., vocab]; got (3,) and (2,)"),
        ({"draft": DRAFT[:0], "target": TARGET[:0]}, "expected at least one token"),
        ({"draft": np.float64(1), "target": np.float64(1)}, "expected at least one token"),
        ({"draft": DRAFT, "target": 2 * TARGET}, "sum to 1"),
        ({"draft": DRAFT, "target": np.array([1.2, -0.1, -0.1])}, "expected probabilities >= 0"),
        ({"draft": DRAFT, "target": np.array(["a", "b", "c"])}, "expected real numbers"),
        ({"draft_logits": DRAFT, "target_logits": np.array([[0, 0, -np.inf], [-np.inf] * 3])}, "a row of -inf only"),
        ({"draft_logits": DRAFT, "target_logits": np.array([0, np.nan, 0])}, "got NaN or +inf"),
        ({"draft_logits": DRAFT, "target_logits": np.array([0, np.inf, 0])}, "got NaN or +inf"),
        ({"draft_logits": DRAFT, "target_logits": TARGET + 1j}, "expected real numbers; got complex128"),
    ],
)
def test_bad_arrays_are_one_line_and_exit_code_2(tmp_path, arrays, message):
    refused(front(file(tmp_path / "laws.npz", **arrays)), message)


@pytest.mark.parametrize("temperature", ["0", "-1", "inf", "nan", "1e-320"])
def test_bad_temperatures_are_one_line_and_exit_code_2(tmp_path, temperature):
    path = file(tmp_path / "logits.npz", draft_logits=DRAFT, target_logits=TARGET)
    refused(front(path, f"--temperature={temperature}"), "expected a finite number >= 0.001")


def test_files_that_are_no_laws_are_one_line_and_exit_code_2(tmp_path, one):
    refused(front(tmp_path / "nowhere.npz"), "no such file")
    refused(front(tmp_path), "Is a directory")
    (tmp_path / "text.npz").write_text("draft")
    refused(front(tmp_path / "text.npz"), "expected an .npz file")
    np.save(tmp_path / "single.npy", DRAFT)
    refused(front(tmp_path / "single.npy"), "expected an .npz file")
    broken = bytearray(one.read_bytes())
    broken[150:170] = b"x" * 20
    (tmp_path / "broken.npz").write_bytes(broken)
    refused(front(tmp_path / "broken.npz"), "expected arrays of numbers")


def test_pickled_objects_are_never_loaded(tmp_path):
    path = file(tmp_path / "pickled.npz", draft=np.array([{}], dtype=object), target=TARGET)
    refused(front(path), "allow_pickle=False")


def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_2(one, tmp_path):
    for option in ("--json", "--png"):
        result = front(one, option, tmp_path)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert "cannot be written" in line
