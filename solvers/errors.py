"""The two errors a caller can act on."""


class InputError(ValueError):
    """What was given cannot be used; the message says what was expected, what came and what to do."""


class SolverError(RuntimeError):
    """A numerical solver did not return an optimum; the message names its status and a remedy."""
