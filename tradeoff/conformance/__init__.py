"""Whether a sampler does what its rule says."""

from tradeoff.conformance.checking import Case, Report, check

__all__ = ["Case", "Report", "check"]
