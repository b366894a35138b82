"""Standard output that is closed, full, or read only in part: no traceback, and an exit code that tells."""

import subprocess
import sys

import numpy as np
import pytest
from study_files import ALONE

COMMAND = f"{sys.executable} -c 'from decoding.cli import main; main()'"


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("| head -1 >/dev/null", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (">/dev/full", 2, "error: standard output: expected room for the tables; No space left on device"),
    ],
)
def test_tables_that_nobody_reads(tmp_path, end, code, message):
    laws = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3))
    np.savez(tmp_path / "laws.npz", draft=laws[0], target=laws[1])
    script = f"{COMMAND} front {tmp_path / 'laws.npz'} {end}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], env=ALONE, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == bool(message)


def test_the_version_too_needs_room():
    script = f"{COMMAND} --version >/dev/full"
    done = subprocess.run(["bash", "-c", script], env=ALONE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
