"""What a speculative decoder gives away, the rule that gives away least, exactly.

>>> import numpy as np, tradeoff
>>> front = tradeoff.solve_pareto(np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2]), divergence="kl")
>>> point = front.at(rejection=0.15)
>>> float(point.floor).__round__(4), float(point.ceiling).__round__(4)
(0.75, 1.375)
"""

from solvers.certificate import Certificate
from solvers.divergences import Divergence, f_divergence
from solvers.errors import InputError, SolverError
from tradeoff import chains, conformance, rules
from tradeoff.alternatives import Alternatives
from tradeoff.conversion import Conversion, convert
from tradeoff.multi_draft_front import solve_multi_draft_pareto
from tradeoff.outcome import Outcome, evaluate
from tradeoff.pareto import ParetoFront, ParetoPoint, solve_pareto
from tradeoff.positions import Positions
from tradeoff.residual import best_residual
from tradeoff.rule import Rule

__all__ = [
    "Alternatives",
    "Certificate",
    "Conversion",
    "Divergence",
    "InputError",
    "Outcome",
    "ParetoFront",
    "ParetoPoint",
    "Positions",
    "Rule",
    "SolverError",
    "best_residual",
    "chains",
    "conformance",
    "convert",
    "evaluate",
    "f_divergence",
    "rules",
    "solve_multi_draft_pareto",
    "solve_pareto",
]
