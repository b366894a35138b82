"""How much quality speculative decoding gives away, and the rule that gives away least: exactly.

A draft model proposes tokens with one law, the target would write them with another:

>>> import tradeoff
>>> draft, target = [0.7, 0.2, 0.1], [0.4, 0.4, 0.2]

A rule may reject only 15 % of the drafted tokens. How near to the target can it stay?

>>> front = tradeoff.solve_pareto(draft, target, divergence="kl")
>>> best = front.at(rejection=0.15)
>>> best
ParetoPoint: KL(output, target) 0.04569 nats at rejection 0.15
  output / target from 0.75 to 1.375; one more rejection buys 0.6061
  solved by closed form; .rule to decode with it, .certificate to prove it, .to_dict()

How near does a published rule stay that rejects equally often?

>>> tradeoff.evaluate("decoding_uno:epsilon=0.15", draft, target)
Outcome: rejection 0.15, TV 0.21, KL 0.08941 nats from the target, leak 0
  above the best rule at this rejection: KL 0.04372 nats, TV 0.06
  .divergence_in(name), .optimum(name), .round(draft_length), .to_dict()

Decode with the better one: `decoding.generate(..., rule=best.rule)`.

>>> best.rule
RatioClip(ceiling=None, rejection=0.15)
"""

from solvers.certificate import Certificate
from solvers.divergences import Divergence, f_divergence
from solvers.errors import InputError, SolverError
from tradeoff import chains, conformance, rules
from tradeoff.calls import CallSchedule, call_schedule
from tradeoff.conversion import Conversion, convert
from tradeoff.fronts.alternatives import Alternatives
from tradeoff.fronts.block import solve_block_pareto
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
    "solve_block_pareto",
    "solve_multi_draft_pareto",
    "solve_pareto",
]
