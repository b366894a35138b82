"""How measured texts are sampled, said in one value: temperature, top-p and top-k."""

import math
from dataclasses import dataclass

from solvers.errors import InputError

LEAST_TEMPERATURE = 1e-3
"""Below, what rounding leaves of a difference of logits decides which token is certain; in float32 a law is NaN."""


def check_temperature(temperature: float) -> None:
    """Check a softmax's temperature.

    Raises
    ------
    InputError
        It is not finite, or below `LEAST_TEMPERATURE`.
    """
    if not (temperature >= LEAST_TEMPERATURE and math.isfinite(temperature)):
        raise InputError(f"temperature: expected a finite number >= {LEAST_TEMPERATURE}; got {temperature}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What `generate` calls temperature, top_p and top_k, for the draft and the target alike.

    Parameters
    ----------
    temperature
        Of both softmaxes; at least `LEAST_TEMPERATURE`.
    top_p
        Only the likeliest tokens that together have this mass; 1 for all.
    top_k
        Only so many of the likeliest tokens; 0 for all.

    Raises
    ------
    InputError
        A value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: expected a number above 0 and at most 1, which keeps all; got {self.top_p}")
        if self.top_k < 0:
            raise InputError(f"top_k: expected a whole number >= 0, which keeps all; got {self.top_k}")

    def __str__(self) -> str:
        """In words, what keeps all tokens left out."""
        top_p = f", top-p {self.top_p:g}" if self.top_p < 1 else ""
        return f"temperature {self.temperature:g}{top_p}{f', top-k {self.top_k}' if self.top_k else ''}"


PLAIN = Sampling()
"""The models' own laws."""
