"""The verification rules, by family; small frozen values that implement `tradeoff.Rule`."""

from tradeoff.rules.lossless import SpeculativeSampling
from tradeoff.rules.optimal import CommonPrice, RatioClip
from tradeoff.rules.yin import DecodingOPT, DecodingUNO

__all__ = ["CommonPrice", "DecodingOPT", "DecodingUNO", "RatioClip", "SpeculativeSampling"]
