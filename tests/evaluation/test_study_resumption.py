"""A study that is interrupted, killed, shared out or run again ends with the same bytes, and asks nobody twice."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from study_files import ALONE, SMALL, TEXTS, contents, evaluate, finished, rows, started, written

from decoding.evaluation.files.kept import read_rows, row_lines
from decoding.evaluation.judges import Judgement
from decoding.evaluation.positions import collect
from decoding.evaluation.study import judging
from decoding.evaluation.study.configuration import read_configuration
from decoding.evaluation.study.run import Study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("study"))


def _killed(configuration, out, when):
    """Run, kill -9 as soon as the folder is as wanted, and say whether that was in the middle."""
    with started(configuration, f"--out={out}") as run:
        while run.poll() is None and not when():
            time.sleep(0.01)
        middle = run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.communicate()
    return middle


def test_a_study_killed_again_and_again_ends_with_the_same_bytes(whole, tmp_path):
    configuration, complete, _ = whole
    out = tmp_path / "out"
    part, calibrating = (out / f"{name}.parts" / "0000.jsonl" for name in ("texts", "calibration_texts"))

    def lines(file=part):
        return file.read_bytes().count(b"\n") if file.exists() else 0

    assert _killed(configuration, out, lambda: lines(calibrating) >= 3)
    assert not (out / "calibration.json").exists()
    assert _killed(configuration, out, lambda: lines() >= 9)
    kept = lines()
    assert 9 <= kept < TEXTS
    with part.open("ab") as file:  # as if in the middle of a write
        file.write(b'{"cell": "decoding_opt", "pro')
    last = evaluate(configuration, f"--out={out}")
    assert last.exit_code == 0, last.output
    assert "going on in" in last.output
    assert contents(out) == contents(complete)


def test_calibration_texts_that_are_there_are_not_written_again(whole, tmp_path, monkeypatch):
    configuration, complete, _ = whole
    out = tmp_path / "out"
    shutil.copytree(complete, out)
    (out / "calibration.json").unlink()
    monkeypatch.setattr(collect, "generate_plainly", lambda *_, **__: pytest.fail("a text was written again"))
    result = evaluate(configuration, f"--out={out}")
    assert result.exit_code == 0, result.output
    assert contents(out) == contents(complete)


def test_ctrl_c_keeps_what_is_finished(whole, tmp_path, monkeypatch):
    configuration, complete, _ = whole
    original, batches = judging.ask, 0

    def interrupted(*arguments):
        nonlocal batches
        for answered in original(*arguments):
            if batches == 1:
                raise KeyboardInterrupt
            batches += 1
            yield answered

    with monkeypatch.context() as patch:
        patch.setattr("decoding.evaluation.study.run.ask", interrupted)
        stopped = evaluate(configuration, f"--out={tmp_path / 'out'}")
    assert stopped.exit_code == 130
    assert "the same command goes on from there" in stopped.output
    assert len(rows(tmp_path / "out" / "texts.jsonl")) == TEXTS
    assert len(rows(tmp_path / "out" / "judgements" / "log_likelihood.parts" / "0000.jsonl")) == judging.BATCH
    assert evaluate(configuration, f"--out={tmp_path / 'out'}").exit_code == 0
    assert contents(tmp_path / "out") == contents(complete)


def test_two_processes_write_what_one_writes(whole, tmp_path):
    pytest.importorskip("accelerate")
    configuration, complete, _ = whole
    program = tmp_path / "program.py"
    program.write_text("from decoding.cli import main\nmain()\n")
    options = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options, "--main_process_port=0", str(program)]
        + ["evaluate", configuration, f"--out={tmp_path / 'out'}"],
        env=ALONE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(tmp_path / "out") == contents(complete)
    assert "judge" in done.stdout


def test_two_runs_in_one_folder_are_refused(whole, tmp_path):
    configuration, _, _ = whole
    out = tmp_path / "out"
    with started(configuration, f"--out={out}") as run:
        while run.poll() is None and not (out / ".lock").exists():
            time.sleep(0.01)
        second = evaluate(configuration, f"--out={out}")
        run.kill()
        run.communicate()
    assert second.exit_code == 2
    assert "where one is at work" in second.output


def test_other_settings_do_not_mix_with_written_texts_but_other_judges_do(whole, tmp_path):
    configuration, complete, _ = whole
    out = tmp_path / "out"
    shutil.copytree(complete, out)
    for other in ("--seed=1", "--samples=3", "--limit=4"):
        refused = evaluate(configuration, other, f"--out={out}")
        assert refused.exit_code == 2
        assert "choose another --out" in refused.output
    fewer = written(tmp_path / "fewer.yaml", SMALL + "judges: [{kind: sequence_kl}]\n")
    assert evaluate(fewer, f"--out={out}").exit_code == 0
    assert contents(out) == contents(complete)


def test_answers_that_are_not_asked_for_this_time_are_kept_for_another(whole, tmp_path):
    _, complete, _ = whole
    out = tmp_path / "out"
    shutil.copytree(complete, out)
    asked = []

    class Second:
        name, pairwise, settings = "second", True, {"kind": "second"}

        def judge(self, questions):
            asked.extend(questions)
            return [Judgement(score=0.0) for _ in questions]

    for comparisons, against, fresh in ((2, "decoding_opt", 40), (1, "decoding_opt", 0), (2, "decoding_uno", 40)):
        study = Study(read_configuration(written(tmp_path / "study.yaml"), {"against": against}), out)
        results = study.run([(Second(), comparisons)], forced=True)
        assert results is not None
        assert len(asked) == fresh
        assert results.judges[0].judgements == 20 * comparisons
        assert all(each.found is not None and each.found.won == 0 for each in results.comparisons)
        asked.clear()
    again = Study(read_configuration(written(tmp_path / "study.yaml"), {}), out)
    again.run([(Second(), None)], forced=True)
    assert asked == []


def test_answers_of_a_judge_under_other_settings_are_refused(whole, tmp_path):
    configuration, complete, _ = whole
    out = tmp_path / "out"
    shutil.copytree(complete, out)
    file = out / "judgements" / "sequence_kl.jsonl"
    others = [row | {"judge_settings": "0123456789abcdef"} for row in read_rows(file, file.stem)]
    file.write_bytes(row_lines(others, file.stem))
    refused = evaluate(configuration, f"--out={out}")
    assert refused.exit_code == 2
    assert "judge sequence_kl: expected answers given under these settings" in refused.output
