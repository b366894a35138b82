"""Rows of a study survive interruptions and do not tell how many processes wrote them."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from decoding.evaluation.files.kept import locked
from decoding.evaluation.study.processes import Alone, device_here, processes_here, share
from decoding.evaluation.study.store import Table
from solvers.errors import InputError


class Rank(Alone):
    """One of several, for sharing out."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count


def key(row):
    return row["cell"], row["number"]


def row(cell, number, **more):
    return {"cell": cell, "number": number, **more}


ORDER = [(cell, number) for cell in "ab" for number in range(6)]


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_merged_bytes_do_not_depend_on_who_wrote_what(tmp_path, processes):
    alone, several = (Table(tmp_path / who / "rows.jsonl", key) for who in ("alone", "several"))
    for each in ORDER:
        alone.append([row(*each)], rank=0)
    for rank in range(processes):
        for each in reversed(share(ORDER, Rank(rank, processes))):
            several.append([row(*each)], rank)
    assert alone.merge(ORDER) == several.merge(ORDER) == [row(*each) for each in ORDER]
    assert alone.path.read_bytes() == several.path.read_bytes()
    assert not several.path.with_suffix(".parts").exists()


def test_every_item_is_one_process_s_share():
    shares = [list(share(range(11), Rank(rank, 3))) for rank in range(3)]
    assert sorted(sum(shares, [])) == list(range(11))


def test_a_line_cut_short_is_dropped_and_what_follows_it_is_whole(tmp_path):
    table = Table(tmp_path / "rows.jsonl", key)
    table.append([row("a", 0), row("a", 1)], rank=0)
    part = tmp_path / "rows.parts" / "0000.jsonl"
    part.write_bytes(part.read_bytes()[:-5])
    assert list(table.rows()) == [("a", 0)]
    table.append([row("a", 1), row("a", 2)], rank=0)
    assert list(table.rows()) == [("a", 0), ("a", 1), ("a", 2)]


def test_of_two_rows_with_one_key_the_first_counts_and_merged_ones_before_new_ones(tmp_path):
    table = Table(tmp_path / "rows.jsonl", key)
    table.append([row("a", 0, value=1), row("a", 0, value=2)], rank=0)
    table.merge(ORDER)
    table.append([row("a", 0, value=3), row("a", 1, value=4)], rank=3)
    assert [each["value"] for each in table.merge(ORDER)] == [1, 4]


def test_a_merge_gives_what_was_asked_for_and_keeps_the_rest_behind_it(tmp_path):
    table = Table(tmp_path / "rows.jsonl", key)
    table.append([row("d", 1), row("c", 0), row("b", 5), row("a", 3)], rank=0)
    assert table.merge(ORDER) == [row("a", 3), row("b", 5)]
    assert list(table.rows()) == [("a", 3), ("b", 5), ("c", 0), ("d", 1)]
    assert table.merge([("c", 0)]) == [row("c", 0)]
    assert list(table.rows()) == [("c", 0), ("a", 3), ("b", 5), ("d", 1)]


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with locked(tmp_path / "out"), pytest.raises(InputError, match="where one is at work"), locked(tmp_path / "out"):
        pass
    with locked(tmp_path / "out"):
        pass


def test_a_killed_run_leaves_its_folder_free(tmp_path):
    code = """
        import sys, time
        from pathlib import Path
        from decoding.evaluation.files.kept import locked
        with locked(Path(sys.argv[1])):
            print("locked", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="where one is at work"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    time.sleep(0.1)
    with locked(tmp_path):
        pass


def test_one_process_is_alone_and_keeps_the_device_it_was_given(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(processes_here("cpu"), Alone)
    assert device_here("cuda") == "cuda"
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "3")
    assert [device_here(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]
