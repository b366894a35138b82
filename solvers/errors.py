"""The two errors a caller can act on, and how a numerical solver may end."""

from enum import Enum


class InputError(ValueError):
    """What was given cannot be used; the message says what was expected, what came and what to do."""


class Status(Enum):
    """How a numerical solver ended, with what to do about it in `remedy`."""

    OPTIMAL = "optimal", "nothing to do"
    INACCURATE = (
        "optimal, to a looser tolerance than asked",
        "compare with solver='closed_form' before using digits beyond the third",
    )
    INFEASIBLE = (
        "infeasible: no law within this rejection budget has a finite divergence",
        "raise the budget above the draft's mass off the target's support (a fixed acceptance must be 0 there), "
        "or use divergence='tv'",
    )
    UNBOUNDED = (
        "unbounded, although no divergence is negative: the masses differ by too many orders of magnitude",
        "set masses below 1e-12 to zero, or use solver='closed_form', which has no limit",
    )
    LIMIT = (
        "stopped at its limit of iterations or time",
        "set masses below 1e-12 to zero, or use solver='closed_form', which has no limit",
    )
    FAILED = "failed", "use solver='closed_form', which has no limit"

    def __init__(self, meaning: str, remedy: str) -> None:
        self.meaning, self.remedy = meaning, remedy


class SolverError(RuntimeError):
    """A numerical solver did not return an optimum; `status` and the message say how it ended and what to do.

    Parameters
    ----------
    solver
        Its name and version.
    status
        Any but `Status.OPTIMAL`.
    detail
        The solver's own words.
    """

    def __init__(self, solver: str, status: Status, detail: str = "") -> None:
        super().__init__(f"{solver}: {status.meaning}{f' ({detail})' if detail else ''}; {status.remedy}")
        self.solver, self.status = solver, status


def one_line(value: object) -> str:
    """A value as messages show it: on one line, and cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
