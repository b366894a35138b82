"""The verification rules, by family: small frozen values; `from_spec` builds one by name, `available` lists them.

Their docstrings use four terms. *On the TV front*: no rule that rejects as often has less total variation from the
target; in other divergences there may be better ones. *Leaks*: it emits tokens to which the target gives no mass, such
as masked ones. *Lossless*: the output follows the target's law. *Bonus*: the token after a fully accepted block.
"""

from tradeoff.rules.blocks import ApproximateSD, BlockPrice, BlockVerification, Consultant, FLy
from tradeoff.rules.info import Family, Knob, RuleInfo
from tradeoff.rules.lossless import OpenVINO, SampleMatch, SpeculativeSampling
from tradeoff.rules.mixture import Cascade, Contrastive, Ensemble, Fuzzy, Synthetic
from tradeoff.rules.multi_draft import GreedyMultiDraft, KSeq, RecursiveRejection, SGLangTree
from tradeoff.rules.optimal import CommonPrice, Mentored, RatioClip
from tradeoff.rules.places import PricedPlaces
from tradeoff.rules.ratio import EARS, AdditiveSlack, DistillSpec, Lenience, LossySpeculative
from tradeoff.rules.registry import as_rule, available, from_spec, register
from tradeoff.rules.threshold import MARS, BiLD, LogitComparison, SGLang, TensorRTRelaxed, TopKGate, Typical
from tradeoff.rules.virtual import CSD, Cactus, Judge, Lantern, RewardGuided
from tradeoff.rules.yin import DecodingOPT, DecodingUNO

__all__ = [
    "CSD",
    "EARS",
    "MARS",
    "AdditiveSlack",
    "ApproximateSD",
    "BiLD",
    "BlockPrice",
    "BlockVerification",
    "Cactus",
    "Cascade",
    "CommonPrice",
    "Consultant",
    "Contrastive",
    "DecodingOPT",
    "DecodingUNO",
    "DistillSpec",
    "Ensemble",
    "FLy",
    "Family",
    "Fuzzy",
    "GreedyMultiDraft",
    "Judge",
    "KSeq",
    "Knob",
    "Lantern",
    "Lenience",
    "LogitComparison",
    "LossySpeculative",
    "Mentored",
    "OpenVINO",
    "PricedPlaces",
    "RatioClip",
    "RecursiveRejection",
    "RewardGuided",
    "RuleInfo",
    "SGLang",
    "SGLangTree",
    "SampleMatch",
    "SpeculativeSampling",
    "Synthetic",
    "TensorRTRelaxed",
    "TopKGate",
    "Typical",
    "as_rule",
    "available",
    "from_spec",
    "register",
]
