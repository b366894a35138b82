"""The paper's theory on Markov chains: expected rejections, lower bound and batches, exactly and by simulation.

>>> from tradeoff.chains import expected_rejections, published_chains
>>> draft, target = published_chains(horizon=50)
>>> round(expected_rejections(draft, target).mean, 4)
16.4049
"""

from tradeoff.chains.batch import (
    BatchRejections,
    RootOutcome,
    batch_algorithm,
    batch_expected_rejections,
    batch_improvement,
    judge_root,
)
from tradeoff.chains.chain import MarkovChain
from tradeoff.chains.published import published_chains
from tradeoff.chains.rejections import (
    Rejections,
    TokensPerCall,
    expected_rejections,
    output_chain,
    rejection_lower_bound,
    tokens_per_call,
)
from tradeoff.chains.sequence import SequenceFront, solve_sequence_pareto
from tradeoff.chains.sequence_alternatives import SequenceAlternatives
from tradeoff.chains.sequence_point import SequencePoint
from tradeoff.chains.simulation import Simulation, simulate, simulate_autoregressive, simulate_batch

__all__ = [
    "BatchRejections",
    "MarkovChain",
    "Rejections",
    "RootOutcome",
    "SequenceAlternatives",
    "SequenceFront",
    "SequencePoint",
    "Simulation",
    "TokensPerCall",
    "batch_algorithm",
    "batch_expected_rejections",
    "batch_improvement",
    "expected_rejections",
    "judge_root",
    "output_chain",
    "published_chains",
    "rejection_lower_bound",
    "simulate",
    "simulate_autoregressive",
    "simulate_batch",
    "solve_sequence_pareto",
    "tokens_per_call",
]
