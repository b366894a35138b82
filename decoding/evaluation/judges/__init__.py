"""Judges of texts: accounts of their generation, reward models, and chat models asked which of two is better."""

from decoding.evaluation.judges.accounts import LogLikelihood, SequenceKL
from decoding.evaluation.judges.chat import ChatEstimate, ChatJudge
from decoding.evaluation.judges.protocol import Judge, Judgement, Question
from decoding.evaluation.judges.reward_model import RewardModel

__all__ = [
    "ChatEstimate",
    "ChatJudge",
    "Judge",
    "Judgement",
    "LogLikelihood",
    "Question",
    "RewardModel",
    "SequenceKL",
]
