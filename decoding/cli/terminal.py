"""What all commands share: one line to an error, progress, and how a pair is loaded."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from decoding.cli.output import Output
from decoding.evaluation.files.plain_text import quoted
from solvers.errors import InputError, SolverError
from solvers.shown import one_line

if TYPE_CHECKING:
    from decoding.huggingface.pair import Pair

console = Console(stderr=True)

OUT_OF_MEMORY = "expected work that fits into memory; it is full; ask for less at once, or use a larger machine"

MOST_NUMBERS = 1000
"""Nobody asks for more points of a front than this."""


@contextmanager
def one_line_errors(interrupted: str) -> Iterator[None]:
    """Bad input is one line and exit code 2, as is a machine that is full; an interruption is one line and code 130."""
    try:
        yield
    except (InputError, SolverError) as error:
        reason = str(error)
    except BrokenPipeError:
        raise  # whoever read the output has read enough: no error to tell
    except OSError as error:
        reason = f"{error.filename or 'output'}: cannot be read or written: {error.strerror or type(error).__name__}"
    except UnicodeEncodeError as error:
        reason = (
            f"expected text that {error.encoding} can write; got {quoted(error.object)}; set PYTHONIOENCODING=utf-8"
        )
    except MemoryError:
        reason = OUT_OF_MEMORY
    except RuntimeError as error:
        if "memory" not in str(error):  # torch has no type of its own for a CPU that is full
            raise
        reason = OUT_OF_MEMORY
    except KeyboardInterrupt:
        say(interrupted)
        raise typer.Exit(130) from None
    else:
        return
    with suppress(OSError):  # nobody is there to be told
        say(f"error: {reason}")
    raise typer.Exit(2)


def numbers(text: str, name: str = "rejection") -> tuple[float, ...]:
    """Read numbers with commas."""
    parts = [part for part in text.split(",") if part.strip()]
    try:
        found = tuple(map(float, parts))
    except ValueError:
        raise InputError(f"{name}: expected numbers with commas, such as 0.2,0.1; got {quoted(text)}") from None
    if len(found) > MOST_NUMBERS:
        raise InputError(f"{name}: expected at most {MOST_NUMBERS} numbers; got {len(found)}")
    return found


def check_options(dtype: str | None, threads: int | None) -> None:
    """Check what can be checked before anything is read or loaded.

    Raises
    ------
    InputError
        An unknown dtype, or threads that this machine has not.
    """
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise InputError(f"dtype: expected float32, bfloat16 or float16; got {quoted(dtype)}")
    most = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= most:
        raise InputError(f"threads: expected at least 1, and at most {most}, this machine's; got {threads}")


def load(target: str | None, draft: str | None, dtype: str, device: str, threads: int | None) -> "Pair":
    """Load a pair as options describe it."""
    import torch

    from decoding.huggingface import hide_progress_bars
    from decoding.huggingface.pair import load_pair

    hide_progress_bars()  # ours are enough
    check_options(dtype, threads)
    if threads is not None or target is None:
        # layers of a few hundred units: a second thread waits more than it works
        torch.set_num_threads(threads or 1)
    return load_pair(target=target, draft=draft, dtype=getattr(torch, dtype), device=device)


def screen() -> Console:
    """Return the console for tables."""
    # a file has room for every column; rich would take it for a terminal of 80
    roomy = not Console().is_terminal and "COLUMNS" not in os.environ
    return Console(file=cast(IO[str], Output()), width=1000 if roomy else None)


def say(line: str) -> None:
    """One line on stderr, never folded: scripts and tests read it. What names hold steers no terminal."""
    console.print(Text(one_line(line)), soft_wrap=True)


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
