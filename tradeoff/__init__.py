"""What a speculative decoder gives away, the rule that gives away least, exactly.

>>> import tradeoff
>>> front = tradeoff.solve_pareto([0.7, 0.2, 0.1], [0.4, 0.4, 0.2], divergence="kl")
>>> front.at(rejection=0.15)
ParetoPoint: KL(output, target) 0.04569 nats at rejection 0.15
  output / target from 0.75 to 1.375; one more rejection buys 0.6061
  solved by closed form; .rule to decode with it, .certificate to prove it, .to_dict()
>>> front.at(rejection=0.15).rule
RatioClip(ceiling=None, rejection=0.15)
"""

from solvers.certificate import Certificate
from solvers.divergences import Divergence, f_divergence
from solvers.errors import InputError, SolverError
from tradeoff import chains, conformance, rules
from tradeoff.calls import CallSchedule, call_schedule
from tradeoff.conversion import Conversion, convert
from tradeoff.fronts.alternatives import Alternatives
from tradeoff.fronts.multi_draft import solve_multi_draft_pareto
from tradeoff.fronts.pareto import ParetoFront, ParetoPoint, solve_pareto
from tradeoff.fronts.residual import best_residual
from tradeoff.outcome.block import joint_law
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.outcome.positions import Positions
from tradeoff.outcome.token import Outcome, evaluate
from tradeoff.rule import Rule

__all__ = [
    "Alternatives",
    "CallSchedule",
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
    "call_schedule",
    "chains",
    "conformance",
    "convert",
    "evaluate",
    "evaluate_multi_draft",
    "f_divergence",
    "joint_law",
    "rules",
    "solve_multi_draft_pareto",
    "solve_pareto",
]
