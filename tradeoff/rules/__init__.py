"""The verification rules, by family: small frozen values; `from_spec` builds one by name, `available` lists them."""

from tradeoff.rules.blocks import ApproximateSD, BlockVerification, Consultant, FLy
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
