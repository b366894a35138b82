"""Questions, answers and findings of a study, from rows made up by hand; and studies of a tiny pair at temperature."""

import math
import shutil
import zlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binomtest
from study_files import rows
from tiny import DRAFT, TARGET, kept_at, law_after
from tiny_study import DRAFTED, LOSSLESS, OPT, PAIR, PLAIN, UNO, Asked, study_in

import decoding
from decoding.evaluation.judges import Judgement
from decoding.evaluation.positions.collect import seed_for
from decoding.evaluation.study import configuration as settings
from decoding.evaluation.study import judging
from decoding.evaluation.study.calibration_texts import calibration_positions, number_of
from decoding.evaluation.study.cells import Cell, calibrated_cells, read_cells
from decoding.evaluation.study.findings import Findings, examples, judge_account, provenances
from decoding.evaluation.study.judging import Case, ask, cases, judge_hash, judgement_table, unanswered
from decoding.evaluation.study.processes import Alone
from decoding.evaluation.study.store import Table
from decoding.evaluation.study.texts import batches, finite, text_key, write_texts
from decoding.evaluation.study.token_costs import token_costs
from decoding.huggingface import generate_plainly
from decoding.sampling.parameters import Sampling
from solvers.errors import InputError
from tradeoff import evaluate
from tradeoff.rules import DecodingUNO, SpeculativeSampling

CELLS = [Cell(rule=LOSSLESS, level=None, knob={}, calibrated=0.3, standard_error=0.01, kl_over_best=None)] + [
    Cell(rule=rule, level=level, knob={"epsilon": value}, calibrated=0.2, standard_error=0.01, kl_over_best=None)
    for level, value in (("epsilon 0.1", 0.1), ("epsilon 0.2", 0.2))
    for rule in (OPT, UNO, DRAFTED)
]
FIRST, SECOND, THIRD = (cell.label for cell in CELLS[1:4])


PROMPTS = [torch.tensor([[1, 3]]), torch.tensor([[2, 1, 4]])]


def written_alone(prompt, generator, sampling, rule=None):
    drawn: dict[str, Any] = {"do_sample": True} | vars(sampling)
    return decoding.generate(
        prompt, target=TARGET, draft=DRAFT, rule=rule, generator=generator, max_new_tokens=6, **drawn
    )


def account(label, prompt, sample=0, **more):
    counts = {"verified": 4, "generated": 5, "target_calls": 2, "rejection": 0.8, "total_variation": 1.2}
    sums = {"tv": 0.2, "kl": 0.1, "log_likelihood": -5.0, "error": None}
    return {"cell": label, "prompt": prompt, "sample": sample} | counts | sums | more


def found_in(texts, prompts, **changed):
    """Findings of these texts; cells without one get the same one for every prompt."""
    there = {row["cell"] for row in texts}
    others = [account(cell.label, prompt) for cell in CELLS if cell.label not in there for prompt in range(prompts)]
    told = {"samples": 2, "against": OPT, "tolerance": 0.04, "published": (), "seed": 3} | changed
    return Findings(CELLS, prompts, [*texts, *others], **told)


def judged(label, prompt, sample, score, **more):
    return {"cell": label, "prompt": prompt, "sample": sample, "score": score} | more


def test_means_are_ratios_of_sums_over_all_texts_of_a_cell():
    columns = "verified", "generated", "target_calls", "rejection", "total_variation", "tv", "kl", "log_likelihood"
    values = (1, 2, 1, 0.5, 0.6, 0.1, 0.2, -3.0), (4, 6, 2, 1.0, 2.0, 0.4, 0.8, -12.0)
    texts = [account(FIRST, prompt) | dict(zip(columns, each, strict=True)) for prompt, each in enumerate(values)]
    texts[1]["error"] = "the law has nan"
    lossless, cell, *_ = found_in(texts, 2).cells()
    assert {name: mean.value for name, mean in cell.means.items()} == pytest.approx(
        {"rejection": 1.5 / 5, "total_variation": 2.6 / 5, "tv": 0.5 / 5, "kl": 1 / 5, "kl_per_token": 1 / 8}
        | {"log_likelihood": -15 / 8, "tokens_per_target_call": 8 / 3, "length": 8 / 2}
    )
    assert (cell.cell, cell.rule, cell.level, cell.knob) == (FIRST, OPT, "epsilon 0.1", {"epsilon": 0.1})
    assert (cell.texts, cell.errors, lossless.errors, cell.calibrated) == (2, 1, 0, 0.2)


def test_an_infinite_sum_is_null_and_makes_its_means_and_their_intervals_infinite_and_no_other():
    assert [finite(value) for value in (1.5, math.inf, -math.inf, math.nan)] == [1.5, None, None, None]
    texts = [account(FIRST, prompt, kl=None if prompt == 1 else 0.1) for prompt in range(3)]
    first, second = found_in(texts, 3).cells()[1:3]
    for name in ("kl", "kl_per_token"):
        assert first.means[name].value == first.means[name].high == math.inf
        assert math.isfinite(first.means[name].low)  # resamples without that prompt
        assert math.isfinite(second.means[name].high)
    impossible = [account(FIRST, prompt, log_likelihood=None if prompt == 1 else -3.0) for prompt in range(3)]
    assert found_in(impossible, 3).cells()[1].means["log_likelihood"].value == -math.inf
    assert all(math.isfinite(first.means[name].high) for name in first.means.keys() - {"kl", "kl_per_token"})


@pytest.mark.parametrize(("against", "sign"), [(OPT, -1), (UNO, 1)])
@pytest.mark.parametrize(("tolerance", "forced"), [(0.04, False), (0.04, True), (0.06, False)])
def test_rejections_too_far_apart_either_way_refuse_a_win_rate_unless_forced(against, sign, tolerance, forced):
    refused = tolerance < 0.05 and not forced
    rejections = ((FIRST, 0.4), (SECOND, 0.6))
    texts = [account(label, prompt, rejection=each) for label, each in rejections for prompt in range(3)]
    study = found_in(texts, 3, against=against, tolerance=tolerance)
    scores = [judged(cell.label, prompt, 0, float(prompt)) for cell in CELLS for prompt in range(3)]
    compared = study.comparisons("judge", pairwise=False, rows=scores, forced=forced)
    (each,) = [each for each in compared if {each.first, each.second} == {FIRST, SECOND}]
    assert each.mismatch.value == pytest.approx(sign * 0.05)
    assert each.mismatch.low == pytest.approx(each.mismatch.high)
    assert (each.found is None, each.difference is None, each.adjusted_p is None) == (refused,) * 3
    assert each.refused == ("mean rejections differ by 0.0500 along the texts, more than 0.04" if refused else None)


def test_scores_are_compared_on_prompts_judged_on_both_sides_and_unreadable_ones_count_nowhere():
    ours = {(0, 0): 3, (0, 1): 1, (1, 0): 3.5, (1, 1): None, (2, 0): 5, (2, 1): 5}
    theirs = {(0, 0): 1, (0, 1): 2, (1, 0): 1, (1, 1): 4, (3, 0): 0, (3, 1): 0}
    answers = [judged(FIRST, *text, score) for text, score in ours.items()]
    answers += [judged(SECOND, *text, score) for text, score in reversed(theirs.items())]
    answers += [judged(THIRD, 3, 0, None), judged(LOSSLESS, 0, 0, 9.0)]
    compared = found_in([], 4).comparisons("judge", pairwise=False, rows=answers, forced=False)
    assert [(each.first, each.second) for each in compared][:2] == [(FIRST, SECOND), (FIRST, THIRD)]
    found: Any = compared[0].found
    difference: Any = compared[0].difference
    assert (found.prompts, found.comparisons, found.won, found.tied) == (2, 3, 1, 1)
    # 3 over 1 and 2, 1 like 1 and under 2; 3.5 over 1 and under 4
    assert found.pairwise.value == pytest.approx((2.5 / 4 + 1 / 2) / 2)
    assert difference.value == pytest.approx(((2 - 1.5) + (3.5 - 2.5)) / 2)
    assert (difference.low, difference.high) == pytest.approx((0.5, 1.0))
    nothing = [(each.refused, each.found, each.difference, each.adjusted_p) for each in compared[1:]]
    assert nothing == [(None,) * 4] * 3


def preferred(first, second, won, prompts=10):
    return [judged(first, prompt, 0, float(prompt < won), against=second) for prompt in range(prompts)]


def test_preferences_belong_to_their_own_pair_and_holm_is_over_what_was_judged():
    fourth, fifth, sixth = (cell.label for cell in CELLS[4:])
    answers = preferred(FIRST, SECOND, 10) + preferred(FIRST, THIRD, 1) + preferred(fourth, fifth, 8)
    answers += [judged(fourth, 0, 0, None, against=sixth), judged(fourth, 0, 1, None, against=fifth)]
    compared = found_in([], 10).comparisons("judge", pairwise=True, rows=answers[::-1], forced=False)
    pairs = [(FIRST, SECOND), (FIRST, THIRD), (fourth, fifth), (fourth, sixth)]
    assert [(each.first, each.second) for each in compared] == pairs
    assert [each.level for each in compared] == ["epsilon 0.1"] * 2 + ["epsilon 0.2"] * 2
    assert [each.found and each.found.won for each in compared] == [10, 1, 8, None]
    assert [each.found and each.found.comparisons for each in compared] == [10, 10, 10, None]
    assert all(each.difference is None and each.judge == "judge" for each in compared)
    alone = [binomtest(won, 10).pvalue for won in (10, 1, 8)]
    assert [each.adjusted_p for each in compared[:3]] == pytest.approx([3 * alone[0], 2 * alone[1], alone[2]])
    assert compared[3].adjusted_p is None


def test_published_rates_stand_beside_their_own_comparison_and_a_second_reading_is_no_second_test():
    def rate(judge, at, rule, win_rate):
        where = {"judge": judge, "at": at, "against": OPT, "rule": rule}
        return settings.PublishedRate(**where, win_rate=win_rate, prompts=10, source="Table")

    rates = (rate("judge", 0.1, UNO, 0.8), rate("judge", 0.1, DRAFTED, 0.8), rate("judge", 0.2, UNO, 0.9))
    study = found_in([], 3, published=(*rates, rate("other", 0.2, DRAFTED, 1.0)))
    found: list[Any] = [each.published for each in study.comparisons("judge", pairwise=True, rows=[], forced=False)]
    assert [each and each.win_rate for each in found] == [0.8, 0.8, 0.9, None]
    eight, nine = (binomtest(won, 10).pvalue for won in (8, 9))
    assert [each.found.p_value for each in found[:3]] == pytest.approx([eight, eight, nine])
    assert [each.adjusted_p for each in found[:3]] == pytest.approx([eight, eight, 2 * nine])
    assert not any(each.published for each in study.comparisons("third", pairwise=True, rows=[], forced=False))


def test_examples_hold_rules_without_a_knob_at_every_level_and_only_texts_that_are_there():
    token = {"fate": "bonus", "cost": 0.0, "divergence": 0.0}
    shown = [
        {"cell": cell.label, "prompt": prompt, "sample": 0, "tokens": [token | {"text": f"{cell.label} {prompt}"}]}
        for prompt in range(2)
        for cell in CELLS
        if (cell.label, prompt) != (SECOND, 1)
    ]
    found = examples(shown, CELLS, ["one", "two", "three"], 2)
    levels = ["epsilon 0.1", "epsilon 0.2"]
    assert [(each.prompt, each.level) for each in found] == [
        (each, level) for each in ("one", "two") for level in levels
    ]
    second = [LOSSLESS, *(cell.label for cell in CELLS[4:])]
    first = [[LOSSLESS, FIRST, SECOND, THIRD], [LOSSLESS, FIRST, THIRD]]
    assert [list(each.texts) for each in found] == [first[0], second, first[1], second]
    for number, each in enumerate(found):
        assert all(tokens[0].text == f"{label} {number // 2}" for label, tokens in each.texts.items())


def test_a_judge_s_account_tells_unreadable_from_missing_and_adds_up_what_is_there():
    answers = [{"score": 1.0, "calls": 2, "cost": 0.5}, {"score": None, "calls": 1, "cost": None}, {"score": 0.0}]
    found = judge_account("judge", pairwise=True, rows=answers, asked=7)
    assert (found.judgements, found.unreadable, found.missing) == (3, 1, 4)
    assert found.details == {"calls": 3.0, "cost": 0.5}


def test_rows_of_two_commits_have_two_provenances_in_order_of_appearance():
    origins = [("b", 1), ("a", 1), ("b", 1), ("b", 2)]
    found = provenances([{"commit": commit, "seed": seed, "text": "x"} for commit, seed in origins], ("commit", "seed"))
    assert found == [{"commit": "b", "seed": 1}, {"commit": "a", "seed": 1}, {"commit": "b", "seed": 2}]


@pytest.mark.parametrize(("comparisons", "asked"), [(None, 2), (1, 1), (2, 2), (9, 2)])
def test_a_pairwise_judge_is_asked_about_the_first_samples_of_each_pair_of_one_level(comparisons, asked):
    found = cases(Asked(pairwise=True), comparisons, CELLS, 3, samples=2, against=UNO)
    pairs = [(SECOND, FIRST), (SECOND, THIRD), (CELLS[5].label, CELLS[4].label), (CELLS[5].label, CELLS[6].label)]
    assert found == [Case(*pair, prompt, sample) for pair in pairs for prompt in range(3) for sample in range(asked)]


def test_a_judge_of_single_texts_is_asked_about_every_text_of_every_cell():
    every = [Case(cell.label, None, prompt, sample) for cell in CELLS for prompt in range(3) for sample in range(2)]
    assert cases(Asked(pairwise=False), 1, CELLS, 3, samples=2, against=OPT) == every


def test_a_pairwise_judge_is_asked_what_is_missing_and_another_the_whole_batch_again():
    for pairwise in (True, False):
        judge = Asked(pairwise=pairwise)
        asked = [Case(FIRST, SECOND if pairwise else None, prompt, 0) for prompt in range(2 * judging.BATCH + 3)]
        blocks = [asked[:64], asked[64:128], asked[128:]]
        assert unanswered(judge, asked, {}) == blocks
        there = {case: {"judge_settings": judge_hash(judge)} for case in asked if case.prompt not in (70, 129)}
        missing = [[asked[70]], [asked[129]]]
        assert unanswered(judge, asked, there) == (missing if pairwise else blocks[1:])
        there |= {asked[70]: {"judge_settings": "0" * 16}}
        with pytest.raises(InputError, match=r"give this judge another name, or delete judgements/asked\.jsonl"):
            unanswered(judge, asked, there)


def test_a_judge_is_known_by_all_of_its_settings_in_any_order(tmp_path):
    made = [Asked(pairwise=False, told=each) for each in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3})]
    first, same, other = map(judge_hash, made)
    assert first == same != other
    table = judgement_table(tmp_path, Asked(pairwise=False, name="a/b c"))
    assert table.path == tmp_path / "judgements" / "a_b_c.jsonl"


def test_answers_become_rows_of_their_questions_and_failures_none():
    texts = {(label, 0, sample): {"text": f"{label} {sample}"} for label in (FIRST, SECOND) for sample in range(4)}
    asked = [Case(FIRST, SECOND, 0, sample) for sample in range(4)]
    answers = [Judgement(score=0.5, details={"calls": 2}), None, Judgement(score=None), Judgement(score=-math.inf)]
    judge = Asked(pairwise=True, answers=answers)
    ((found, failed),) = ask(judge, [asked], ["the prompt"], texts, {"commit": "c"})
    common = {"judge": "asked", "cell": FIRST, "against": SECOND, "prompt": 0}
    stamped = {"judge_settings": judge_hash(judge), "commit": "c"}
    wanted = [{"sample": 0, "score": 0.5, "calls": 2}, {"sample": 2, "score": None}, {"sample": 3, "score": None}]
    assert found == [common | each | stamped for each in wanted]
    assert failed == 1
    assert [question.prompt for question in judge.questions] == ["the prompt"] * 4
    put = [[text["text"] for text in question.texts] for question in judge.questions]
    assert put == [[f"{FIRST} {sample}", f"{SECOND} {sample}"] for sample in range(4)]
    ((found, _),) = ask(Asked(pairwise=False), [[Case(FIRST, None, 0, 3)]], ["the prompt"], texts, {})
    assert "against" not in found[0]


def by_hand(sampling):
    """Both laws at the 20 calibration positions, one uncached forward pass each, and the prompt of each position."""
    positions, owners = [], []
    for visit in range(4):
        prompt, generator = PROMPTS[visit % 2], seed_for(3, 1, visit)
        text = written_alone(prompt, generator, sampling).sequences
        for length in range(prompt.shape[1], text.shape[1])[: 20 - len(positions)]:
            before = text[:, :length]
            laws = (law_after(model, before, kept_at(sampling)) for model in (DRAFT, TARGET))
            positions.append([law[0].numpy() for law in laws])
            owners.append(visit % 2)
    return positions, np.array(owners)


def rejections(rule, laws):
    return np.array([float(evaluate(rule, *each).rejection) for each in laws])


def knob(laws):
    return brentq(lambda epsilon: rejections(DecodingUNO(epsilon=epsilon), laws).mean() - 0.05, 1e-6, 2)


@pytest.mark.parametrize("sampled", [{}, {"top_p": 0.8, "top_k": 4}], ids=["temperature", "top-p and top-k"])
def test_knobs_are_those_of_the_laws_as_the_texts_are_sampled(sampled, tmp_path):
    texts = replace(PLAIN.texts, **sampled)
    steps, table = [], Table(tmp_path / "texts.jsonl", number_of)
    positions = calibration_positions(PAIR, PROMPTS, texts, table, {}, positions=20, seed=3, progress=steps.append)
    lossless, calibrated = calibrated_cells(positions, (UNO, LOSSLESS), ("rejection", (0.05,)), 3, steps.append)
    assert sum(steps) == 21
    laws, owners = by_hand(texts.sampling)
    assert calibrated.knob == pytest.approx({"epsilon": knob(laws)}, rel=1e-3)
    assert calibrated.knob["epsilon"] != pytest.approx(knob(by_hand(Sampling())[0]), rel=0.1)
    assert calibrated.calibrated == pytest.approx(0.05, abs=1e-6)
    values = rejections(SpeculativeSampling(), laws)
    assert lossless.calibrated == pytest.approx(values.mean(), abs=1e-5)
    by_prompt = [(values - values.mean())[owners == prompt].sum() for prompt in range(2)]
    assert lossless.standard_error == pytest.approx(np.sqrt(2 * np.square(by_prompt).sum()) / 20, abs=1e-5)
    (given,) = calibrated_cells(positions, (UNO,), ("epsilon", (0.1,)), 3, steps.append)
    assert given.knob == {"epsilon": 0.1}
    assert given.calibrated == pytest.approx(rejections(DecodingUNO(epsilon=0.1), laws).mean(), abs=1e-5)


def test_texts_at_a_temperature_are_generated_and_charged_at_it(monkeypatch):
    def failing(*arguments, **options):
        output = generate_plainly(*arguments, **options)
        output.errors = tuple(f"error {place}" for place in range(len(output.errors)))
        return output

    monkeypatch.setattr("decoding.evaluation.study.texts.generate_plainly", failing)
    todo = batches(CELLS[2:4], 2, PLAIN.texts)
    written = list(write_texts(PAIR, PROMPTS, PLAIN.texts, todo, {"commit": "c"}, seed=3, examples=1))
    assert [text_key(row) for texts, _ in written for row in texts] == [key for batch in todo for key in batch.keys]
    for batch, (texts, shown) in zip(todo, written, strict=True):
        assert [row["error"] for row in texts] == ["error 0", "error 1"]
        assert [text_key(row) for row in shown] == [key for key in batch.keys if key[1:] == (0, 0)]
        for row in texts:
            prompt = PROMPTS[row["prompt"]]
            generator = seed_for(3, 4, zlib.crc32(row["cell"].encode()), row["prompt"], row["sample"])
            output = written_alone(prompt, generator, PLAIN.texts.sampling, batch.cell.made())
            tokens = output.sequences[0, prompt.shape[1] :].tolist()
            assert row["text"] == PAIR.tokenizer.decode(tokens, skip_special_tokens=True)
            for each in (each for each in shown if text_key(each) == text_key(row)):
                rule, sampling = batch.cell.made(), PLAIN.texts.sampling
                costs = token_costs(PAIR, PROMPTS[0], tokens, output.statistics, rule, sampling)
                assert [token["cost"] for token in each["tokens"]] == pytest.approx([token.cost for token in costs])


@pytest.fixture
def tiny_study(tmp_path):
    return lambda folder, processes: study_in(folder, tmp_path / "prompts.txt", processes)


def test_a_process_does_its_share_and_leaves_pairwise_judges_to_the_first(tiny_study, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "BATCH", 5)
    whole, part = tmp_path / "whole", tmp_path / "part"
    judges, again = ([(Asked(pairwise=each, name=str(each)), None) for each in (True, False)] for _ in range(2))
    study = tiny_study(whole, Alone())
    results = study.run(judges, forced=True)
    assert [len(judge.questions) for judge, _ in judges] == [2 * 3 * 2, 4 * 3 * 2]
    assert [each.missing for each in results.judges] == [0, 0]
    second = SimpleNamespace(rank=1, count=2, wait=lambda: None)
    part.mkdir()
    shutil.copy(whole / "calibration.json", part)
    assert tiny_study(part, second).run([], forced=True) is None
    cells = read_cells(part / "calibration.json", study.configuration.rules, study.configuration.at)
    mine = batches(cells, 3, study.configuration.texts)[1::2]
    written = rows(part / "texts.parts" / "0001.jsonl")
    assert [text_key(row) for row in written] == [key for batch in mine for key in batch.keys]
    shutil.copy(whole / "texts.jsonl", part)
    tiny_study(part, second).run(again, forced=True)
    assert [len(judge.questions) for judge, _ in again] == [0, 5 + 5]


def test_a_batch_of_which_a_part_is_there_is_written_whole(tiny_study, tmp_path):
    tiny_study(tmp_path, Alone()).run([], forced=True)
    file = tmp_path / "texts.jsonl"
    complete = file.read_text()
    lines = complete.splitlines(keepends=True)
    for number in range(0, len(lines), 5):
        file.write_text("".join(lines[:number] + lines[number + 1 :]))
        tiny_study(tmp_path, Alone()).run([], forced=True)
        assert file.read_text() == complete
