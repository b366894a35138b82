"""What a result row says about where it comes from."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch


def stamp() -> dict[str, object]:
    """Time, commit (when run from a clone), versions, hardware and threads."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {name: version(name) for name in ("tradeoff", "torch", "transformers", "numpy", "cvxpy")}
        | {"python": platform.python_version()},
        "processor": _processor(),
        # one that is there, not one that was used: what was used stands in the row's own settings
        "gpu_present": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
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
