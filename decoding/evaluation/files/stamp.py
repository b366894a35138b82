"""What results say about where they come from."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from decoding.evaluation.files.kept import replace_file


def stamp() -> dict[str, object]:
    """Time and threads of this run, and where it runs."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now} | origin() | {"threads": torch.get_num_threads()}


def write_stamp(path: Path) -> None:
    """Write this run's stamp beside rows, which hold only what is the same in every run of a command.

    Raises
    ------
    InputError
        It cannot be written.
    """
    replace_file(path, lambda file: file.write(json.dumps(stamp(), indent=1).encode() + b"\n"))


def origin() -> dict[str, object]:
    """Commit (when run from a clone), versions and hardware."""
    return {
        "commit": commit(),
        "versions": {name: version(name) for name in ("tradeoff", "torch", "transformers", "numpy", "cvxpy")}
        | {"python": platform.python_version()},
        "processor": _processor(),
        # one that is there, not one that was used: what was used stands in the row's own settings
        "gpu_present": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
    }


def commit() -> str | None:
    """Commit of the clone this runs from, "-dirty" where tracked files were changed; None outside of one."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
