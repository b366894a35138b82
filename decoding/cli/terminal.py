"""What all commands share: one line to an error, progress, and how a pair is loaded."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from decoding.cli.output import Output
from solvers.errors import InputError, SolverError
from solvers.shown import one_line

if TYPE_CHECKING:
    from decoding.pairs import Pair

console = Console(stderr=True)


@contextmanager
def one_line_errors(interrupted: str) -> Iterator[None]:
    """Bad input is one line and exit code 2; an interruption is one line and exit code 130."""
    try:
        yield
    except (InputError, SolverError) as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        say(interrupted)
        raise typer.Exit(130) from None


def numbers(text: str, name: str = "rejection") -> tuple[float, ...]:
    """Read numbers with commas."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{name}: expected numbers with commas, such as 0.2,0.1; got {text!r}") from None


def load(target: str | None, draft: str | None, dtype: str, device: str, threads: int | None) -> "Pair":
    """Load a pair as options describe it."""
    import torch

    from decoding.huggingface import hide_progress_bars
    from decoding.pairs import load_pair

    hide_progress_bars()  # ours are enough
    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(f"dtype: expected float32, bfloat16 or float16; got {dtype!r}")
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected at least 1; got {threads}")
    if threads is not None or target is None:
        # layers of a few hundred units: a second thread waits more than it works
        torch.set_num_threads(threads or 1)
    return load_pair(target, draft, dtype=getattr(torch, dtype), device=device)


def screen() -> Console:
    """Return the console for tables."""
    # a file has room for every column; rich would take it for a terminal of 80
    roomy = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(file=cast(IO[str], Output()), width=1000 if roomy else None)


def say(line: str) -> None:
    """One line on stderr, never folded: scripts and tests read it."""
    console.print(one_line(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def progress_bars() -> Progress:
    """Make bars with counts and the time that is left."""
    return Progress(
        TextColumn("{task.description:>13}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def track(what: str, total: int, done: int) -> Iterator[Callable[[int], object]]:
    """Show one bar; what it gives advances it."""
    with progress_bars() as progress:
        task = progress.add_task(one_line(what), total=total, completed=done)
        yield lambda count: progress.advance(task, count)
