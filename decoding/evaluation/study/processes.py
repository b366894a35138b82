"""One process, or several that share a folder: what `accelerate launch` started."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

from solvers.errors import InputError

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""How long a process waits for the others: one may have many hours more to do."""


class Processes(Protocol):
    """Those that work on one study."""

    @property
    def rank(self) -> int:
        """The number of this one; 0 is the one that calibrates, merges and reports."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def wait(self) -> None:
        """Return when all have come here."""
        ...


class Alone:
    """One process."""

    rank, count = 0, 1

    def wait(self) -> None:
        """Return at once."""


class Launched:
    """Several processes under `accelerate launch`.

    Raises
    ------
    InputError
        accelerate is not installed.
    """

    def __init__(self, device: str) -> None:
        try:
            from accelerate import PartialState
        except ImportError:
            raise InputError(
                "processes: expected the accelerate package under several; got none; pip install 'tradeoff[evaluate]'"
            ) from None
        self._state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
        self.rank, self.count = self._state.process_index, self._state.num_processes

    def wait(self) -> None:
        """Return when all have come here."""
        self._state.wait_for_everyone()


def processes_here(device: str) -> Processes:
    """Join the processes that were launched together, or be the only one."""
    return Launched(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()


def device_here(device: str) -> str:
    """The device of this process: under several, "cuda" is each one's own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def share(items: Sequence[T], processes: Processes) -> Sequence[T]:
    """Every process's part of a list that is the same in all."""
    return items[processes.rank :: processes.count]
