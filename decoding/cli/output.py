"""Standard streams that may be closed, full, or read only in part."""

import os
import sys
from typing import Any

from solvers.errors import InputError


class Output:
    """Standard output, for tables. Whoever reads it may stop (`| head -1`): the rest goes nowhere."""

    def write(self, text: str) -> None:
        """Write text.

        Raises
        ------
        InputError
            There is no room for it.
        """
        self._attempt(sys.stdout.write, text)

    def flush(self) -> None:
        """Write what is held back.

        Raises
        ------
        InputError
            There is no room for it.
        """
        self._attempt(sys.stdout.flush)

    def __getattr__(self, name: str) -> Any:
        """Whether it is a terminal, its encoding."""
        return getattr(sys.stdout, name)

    def _attempt(self, call: Any, *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:
            # what is held back is written once more at the end, and would fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                raise InputError(
                    f"standard output: expected room for the tables; {error.strerror}; send it elsewhere"
                ) from None


def open_streams() -> None:
    """Make every standard stream that came closed an empty one: the next file would take its number and its text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  open to the end
