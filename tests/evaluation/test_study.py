"""`tradeoff evaluate` from beginning to end: rows, knobs, tokens, refusals."""

import json
import shutil
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from study_files import CELLS, SMALL, TEXTS, contents, evaluate, finished, rows, written
from typer.testing import CliRunner

import decoding
import tradeoff
from decoding import embedded
from decoding.cli import app
from decoding.cli import evaluate as command
from decoding.evaluation.positions.collect import encode_prompts, padded, seed_for
from decoding.evaluation.prompts import load_prompts
from decoding.evaluation.study.cells import Cell
from decoding.evaluation.study.configuration import CONFIGS
from decoding.evaluation.study.findings import examples
from decoding.evaluation.study.results import TokenCost
from decoding.evaluation.study.sections import TextSettings
from decoding.evaluation.study.texts import Batch, batches, write_texts
from solvers.errors import InputError
from tradeoff.rules.registry import as_rule, family_from

STAMPED = {"seed", "configuration", "commit", "tradeoff", "torch", "transformers"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("study"))


def test_every_rule_writes_every_text_once_and_every_row_says_where_it_comes_from(whole):
    _, out, _ = whole
    texts = rows(out / "texts.jsonl")
    assert len(texts) == TEXTS
    assert set(Counter((row["cell"], row["prompt"], row["sample"]) for row in texts).values()) == {1}
    assert all(row.keys() >= STAMPED for row in texts)
    assert len({row["configuration"] for row in texts}) == 1
    for name in ("log_likelihood", "sequence_kl"):
        judged = rows(out / "judgements" / f"{name}.jsonl")
        assert len(judged) == TEXTS
        assert all(row.keys() >= STAMPED | {"judge_settings"} for row in judged)
    assert not list(out.glob("**/*.parts"))


def test_results_are_read_by_pandas_and_datasets(whole, tmp_path):
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    _, out, _ = whole
    frame = pandas.read_json(out / "texts.jsonl", lines=True)
    assert len(frame) == TEXTS
    lossless = frame[frame.rule == "speculative_sampling"]
    assert lossless.kl.sum() < 1e-9
    loaded = datasets.load_dataset(
        "json", data_files=str(out / "texts.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == TEXTS
    assert sum(loaded["generated"]) == frame.generated.sum()


def _rule(spec):
    return as_rule(spec, kind="token", taken_by="a test")


def test_texts_are_what_their_rules_write_alone_each_from_a_stream_of_its_own(whole):
    _, out, _ = whole
    pair, prompts = decoding.load_pair(), load_prompts("embedded")
    texts = rows(out / "texts.jsonl")
    for row in texts[::7]:
        rule = family_from(row["rule"]).at(row["knob"]) if row["level"] else _rule(row["rule"])
        output = decoding.generate(
            pair.tokenizer(prompts[row["prompt"]], return_tensors="pt").input_ids,
            target=pair.target,
            draft=pair.draft,
            rule=rule,
            generator=seed_for(0, 4, zlib.crc32(row["cell"].encode()), row["prompt"], row["sample"]),
            max_new_tokens=12,
            do_sample=True,
            top_k=0,
        )
        assert pair.tokenizer.decode(output.sequences[0], skip_special_tokens=True).endswith(row["text"])
        account = output.statistics.totals()
        assert {name: row[name] for name in account} == pytest.approx(account, rel=1e-4, abs=1e-9)
    # rules that share a knob do not share uniforms: compared texts are two draws
    assert len({row["text"] for row in texts if row["prompt"] == 0}) == len(texts) / 5


def test_padding_is_on_the_left_and_masked():
    ids, mask = padded([torch.tensor([[5, 6, 7]]), torch.tensor([[8]])])
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_knobs_are_set_on_the_laws_along_the_calibration_texts(temperature, tmp_path):
    text = SMALL.replace("batch_size: 3", f"batch_size: 3, temperature: {temperature}").replace(
        "{limit: 5}", "{limit: 2}"
    )
    assert evaluate(written(tmp_path / "warm.yaml", text), f"--out={tmp_path / 'out'}").exit_code == 0
    pair, prompts = decoding.load_pair(), load_prompts("embedded", limit=2)
    laws = [[], []]
    for row in rows(tmp_path / "out" / "calibration_texts.jsonl"):
        prompt = pair.tokenizer(prompts[row["prompt"]]).input_ids
        for place in range(len(row["tokens"])):
            before = torch.tensor([prompt + row["tokens"][:place]])
            for kept, model in zip(laws, (pair.draft, pair.target), strict=True):
                with torch.no_grad():
                    kept.append((model(before).logits[0, -1].double() / temperature).softmax(-1).numpy())
    draft, target = (np.array(kept[:120]) for kept in laws)
    for cell in json.loads((tmp_path / "out" / "calibration.json").read_text()):
        rule = family_from(cell["rule"]).at(*cell["knob"].values()) if cell["knob"] else cell["rule"]
        rejection = float(tradeoff.evaluate(rule, draft, target, normalise=True).rejection.mean())
        assert rejection == pytest.approx(cell["calibrated"], abs=1e-5)
        if cell["level"]:
            assert rejection == pytest.approx(float(cell["level"].split()[1]), abs=1e-3)


def test_a_chat_template_makes_a_prompt_a_user_s_message():
    pair = decoding.load_pair()
    with pytest.raises(InputError, match=r"prompts\.chat: expected a tokenizer with a chat template"):
        encode_prompts(pair, ["Hello"], 8, chat=True)
    pair.tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (found,) = encode_prompts(pair, ["Hello"], 8, chat=True)
    wanted = pair.tokenizer("<user>Hello<assistant>", add_special_tokens=False).input_ids
    assert found.tolist() == [wanted]
    (plain,) = encode_prompts(pair, ["Hello"], 8)
    assert plain.tolist() == [pair.tokenizer("Hello").input_ids]


def test_shown_tokens_join_to_the_texts(whole):
    _, out, _ = whole
    texts = {(row["cell"], row["prompt"], row["sample"]): row for row in rows(out / "texts.jsonl")}
    shown = rows(out / "tokens.jsonl")
    assert len(shown) == 2 * (2 * CELLS + 1)
    for row in shown:
        text = texts[row["cell"], row["prompt"], row["sample"]]
        assert "".join(token["text"] for token in row["tokens"]) == text["text"]
        charged = sum(token["divergence"] for token in row["tokens"] if token["fate"] != "bonus")
        assert charged == pytest.approx(text["kl"], abs=2e-4)
        assert [token["fate"] for token in row["tokens"]].count("replaced") == text["rejected"]


def test_the_reports_hold_every_cell_and_judge(whole):
    _, out, output = whole
    for text in (output, (out / "report.md").read_text(), (out / "report.html").read_text()):
        for each in ("decoding_opt", "decoding_uno:residual=draft", "speculative_sampling", "sequence_kl"):
            assert each in text
        assert "within noise" in text
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    kinds = Counter(row["kind"] for row in rows(out / "results.jsonl"))
    assert kinds == {"cell": 2 * CELLS + 1, "comparison": 2 * (CELLS - 1) * 2, "judge": 2}


def test_a_finished_study_loads_no_model_and_changes_no_byte(whole, monkeypatch):
    configuration, out, _ = whole
    before, results = contents(out), (out / "results.jsonl").read_bytes()
    monkeypatch.setattr(command, "load", lambda *_: pytest.fail("a model was loaded again"))
    again = evaluate(configuration, f"--out={out}")
    assert again.exit_code == 0, again.output
    assert f"{TEXTS} texts are there, 0 to write" in again.output
    assert contents(out) == before
    assert (out / "results.jsonl").read_bytes() == results
    assert json.loads((out / "stamp.json").read_text())["time"]


def test_an_infinite_cost_of_a_token_is_null_and_read_back(monkeypatch):
    costs = [
        TokenCost(text="a", fate="accepted", cost=np.inf, divergence=np.inf),
        TokenCost(text="b", fate="replaced", cost=0.1, divergence=0.2, rejected="c", rejected_cost=np.inf),
    ]
    monkeypatch.setattr("decoding.evaluation.study.texts.token_costs", lambda *_: costs)
    settings = TextSettings(max_new_tokens=2)
    cell = Cell(rule="speculative_sampling", level=None, knob={}, calibrated=0.3, standard_error=0.0, kl_over_best=None)
    pair = decoding.load_pair()
    prompts = encode_prompts(pair, ["One day"], 2)
    ((_, (row,)),) = write_texts(pair, prompts, settings, [Batch(cell, ((0, 0),))], {}, seed=0, examples=1)
    assert json.loads(json.dumps(row, allow_nan=False))["tokens"][0]["cost"] is None
    (example,) = examples([row], [cell], ["One day"], 1)
    assert list(example.texts[cell.label]) == costs


def test_rejections_that_do_not_match_are_refused_unless_forced(whole, tmp_path):
    _, complete, _ = whole
    out = tmp_path / "out"
    shutil.copytree(complete, out)
    strict = written(tmp_path / "strict.yaml", SMALL.replace("tolerance: 0.2", "tolerance: 0.000001"))
    refused = evaluate(strict, f"--out={out}")
    assert refused.exit_code == 0
    compared = [row for row in rows(out / "results.jsonl") if row["kind"] == "comparison"]
    assert compared
    for row in compared:
        assert row["found"] is None
        assert "more than 1e-06" in row["refused"]
    assert "refused" in refused.output
    assert evaluate(strict, "--force", f"--out={out}").exit_code == 0
    compared = [row for row in rows(out / "results.jsonl") if row["kind"] == "comparison"]
    assert all(row["refused"] is None and row["found"] is not None for row in compared)
    assert all(row["calibration"]["forced"] for row in compared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "expected a YAML file"),
        (["small", "--device=nowhere"], "device: expected one this torch can use"),
        (["small", "--dtype=int8"], "pair.dtype: expected"),
        (["small", "--samples=0"], "texts.samples: expected"),
        (["small", "--prompts=nowhere.txt"], "nowhere.txt"),
        (["small", "--max-new-tokens=100000"], "context of"),
        (["small", "--target=nowhere/nothing"], "expected both a target and a draft"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    result = evaluate(*arguments, f"--out={tmp_path / 'out'}")
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert message in line


def test_the_shipped_small_study_runs(tmp_path):
    result = evaluate("small", "--limit=2", "--max-new-tokens=8", f"--out={tmp_path / 'out'}")
    assert result.exit_code == 0, result.output
    assert len(rows(tmp_path / "out" / "texts.jsonl")) == 2 * 3 * 2 * 4


def test_compare_is_the_shipped_configuration_and_runs_on_any_pair_of_folders(tmp_path):
    # the shipped pair by path, the other way round: a draft better than its target is still a pair
    pair = [f"--target={embedded.DRAFT}", f"--draft={embedded.TARGET}", "--threads=1"]
    few = ["--limit=2", "--max-new-tokens=8", "--samples=1"]
    compared = tmp_path / "compared"
    more = [*few, "--rejection=0.1", "--calibration-positions=60", "--draft-length=2", f"--out={compared}"]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["compare", *pair, *more])
    assert result.exit_code == 0, result.output
    assert "draft with target: 2 prompts x 1 texts" in result.output
    assert "KL over" in result.output
    changed = (CONFIGS / "compare.yaml").read_text().replace("[0.2, 0.1, 0.05]", "[0.1]")
    changed = changed.replace("positions: 1500", "positions: 60").replace("draft_length: 4", "draft_length: 2")
    evaluated = evaluate(written(tmp_path / "own.yaml", changed), *pair, *few, f"--out={tmp_path / 'evaluated'}")
    assert evaluated.exit_code == 0, evaluated.output
    for name in ("results.jsonl", "texts.jsonl", "report.md", "report.png"):
        assert (compared / name).read_bytes() == (tmp_path / "evaluated" / name).read_bytes()
    found = {row["cell"]: row for row in rows(compared / "results.jsonl") if row["kind"] == "cell"}
    assert [row["rule"] for row in found.values()] == [
        *("speculative_sampling", "decoding_uno:residual=draft", "decoding_uno"),
        *("decoding_opt", "ratio_clip", "common_price"),
    ]
    lossless, *others = found.values()
    assert lossless["kl_over_best"] is None
    assert lossless["means"]["kl"]["value"] < 1e-9
    assert all(abs(row["calibrated"] - 0.1) < 1e-6 for row in others)
    ratios = [row["kl_over_best"]["value"] for row in others]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx(1)


def test_a_rejection_above_the_lossless_one_is_refused(tmp_path):
    configuration = written(tmp_path / "high.yaml", SMALL.replace("[0.2, 0.1]", "[0.9]"))
    result = evaluate(configuration, f"--out={tmp_path / 'out'}")
    assert result.exit_code == 2
    assert "below this pair's mean TV(draft, target)" in result.output


def test_means_and_win_rates_are_those_of_the_rows(whole):
    _, out, _ = whole
    texts = rows(out / "texts.jsonl")
    results = rows(out / "results.jsonl")
    for cell in (row for row in results if row["kind"] == "cell"):
        own = [row for row in texts if row["cell"] == cell["cell"]]
        assert cell["texts"] == len(own) == 10
        kl = sum(row["kl"] for row in own)
        assert cell["means"]["kl"]["value"] == pytest.approx(kl / sum(row["verified"] for row in own))
        assert cell["means"]["kl_per_token"]["value"] == pytest.approx(kl / sum(row["generated"] for row in own))
    scores = {
        (row["cell"], row["prompt"], row["sample"]): row["score"]
        for row in rows(out / "judgements" / "log_likelihood.jsonl")
    }
    likelihood = {
        (row["cell"], row["prompt"], row["sample"]): row["log_likelihood"] / row["generated"] for row in texts
    }
    assert scores == pytest.approx(likelihood)
    for each in (row for row in results if row["kind"] == "comparison" and row["judge"] == "log_likelihood"):
        won = [
            np.mean([scores[each["first"], prompt, i] > scores[each["second"], prompt, i] for i in range(2)])
            for prompt in range(5)
        ]
        assert each["found"]["won"] == sum(value > 0.5 for value in won)
        assert each["found"]["tied"] == sum(value == 0.5 for value in won)
        pairwise = np.mean(
            [
                scores[each["first"], prompt, i] > scores[each["second"], prompt, j]
                for prompt in range(5)
                for i in range(2)
                for j in range(2)
            ]
        )
        assert each["found"]["pairwise"]["value"] == pytest.approx(pairwise)
        assert each["level"] in each["first"]
        assert each["level"] in each["second"]


def test_every_cell_s_batch_comes_before_the_next_texts():
    cells = [
        Cell(rule=rule, level=None, knob={}, calibrated=0.3, standard_error=0.0, kl_over_best=None)
        for rule in ("mars", "lenience")
    ]
    found = batches(cells, 3, TextSettings(batch_size=4, samples=2))
    texts = [(prompt, sample) for sample in range(2) for prompt in range(3)]
    assert found == [(cell, tuple(block)) for block in (texts[:4], texts[4:]) for cell in cells]
