"""What a common price saves on real positions, against equal budgets and a common ceiling.

Run it with `python -m benchmarks.mean_budget`: rows in `benchmarks/results`, figure in `docs/mean_budget.png`.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import decoding
from benchmarks.harness import write_rows
from decoding import embedded
from decoding.evaluation.positions.collect import collect_positions
from decoding.evaluation.prompts import read_prompts
from decoding.huggingface import hide_progress_bars
from solvers.roots import monotone_root
from tradeoff import ParetoFront, solve_pareto

POSITIONS, NEW_TOKENS, SEED = 1000, 40, 0
DIVERGENCES = ("kl", "reverse_kl", "js", "hellinger", "chi2", "tv")
REJECTIONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
LIMITS = {"kl": (0.02, 0.1), "js": (0.01,)}
WAYS = {"common_price": "common price", "common_ceiling": "common ceiling", "equal_budgets": "equal budgets"}
COLOURS = {"common_price": "#1f5fa8", "common_ceiling": "#4f9d8f", "equal_budgets": "#d9622b"}
FIGURE = Path(__file__).parents[1] / "docs" / "mean_budget.png"


def laws() -> tuple[np.ndarray, np.ndarray]:
    """Draft and target after every prefix of texts that the embedded target wrote, `[positions, vocab]`."""
    hide_progress_bars()
    pair = decoding.load_pair()
    prompts = [pair.tokenizer(text, return_tensors="pt").input_ids for text in read_prompts(embedded.PROMPTS)]
    positions = collect_positions(pair, prompts, new_tokens=NEW_TOKENS, limit=POSITIONS, seed=SEED)
    return positions.draft.double().numpy(), positions.target.double().numpy()


def rejections_within(front: ParetoFront, limit: float) -> dict[str, float]:
    """Mean rejection each way needs to stay within a mean divergence."""

    def needed(way: str) -> float:
        def slack(rejection: np.ndarray) -> np.ndarray:
            return np.asarray(limit - getattr(front.alternatives(rejection=float(rejection)), way))

        end = np.asarray(float(front.total_variation))
        return float(monotone_root(slack, low=0 * end, high=end, step=1e-4).value)

    point = front.at(divergence=limit)
    return {"common_price": point.mean_rejection} | {way: needed(way) for way in ("common_ceiling", "equal_budgets")}


def measure(divergence: str, draft: np.ndarray, target: np.ndarray) -> list[dict[str, object]]:
    """One row per budget."""
    front = solve_pareto(draft, target, divergence=divergence, budget="mean", rejection=REJECTIONS, normalise=True)
    common = {"divergence": divergence, "positions": POSITIONS, "lossless_rejection": float(front.total_variation)}
    rows = []
    for rejection in REJECTIONS:
        point, ways = front.at(rejection=rejection), front.alternatives(rejection=rejection)
        rows.append(
            common
            | {
                "question": "least mean divergence at a mean rejection",
                "mean_rejection": rejection,
                "mean_divergence": {way: getattr(ways, way) for way in WAYS},
                "gain": ways.gain,
                "price": float(point.certificate.price),
                "certificate_gap": float(point.certificate.gap),
                "certificate_holds": point.certificate.holds(1e-9),
                "seed": SEED,
            }
        )
    for limit in LIMITS.get(divergence, ()):
        rows.append(
            common
            | {
                "question": "least mean rejection within a mean divergence",
                "mean_divergence": limit,
                "mean_rejection": rejections_within(front, limit),
                "seed": SEED,
            }
        )
    return rows


def figure(rows: list[dict], path: Path) -> None:
    """KL and what the simpler ways give away beside it, from rows alone."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    at_rejection = [row for row in rows if row["question"].startswith("least mean divergence")]
    kl = [row for row in at_rejection if row["divergence"] == "kl"]
    for way, label in WAYS.items():
        x, y = zip(*((row["mean_rejection"], row["mean_divergence"][way]) for row in kl), strict=True)
        left.plot(x, y, "o-", color=COLOURS[way], label=label, markersize=4)
    left.set(xlabel="mean rejection probability", ylabel="mean KL(output, target), nats", yscale="log")
    left.set_yticks([0.03, 0.1, 0.3], ["0.03", "0.1", "0.3"])
    left.minorticks_off()
    left.legend(frameon=False)
    for way in ("equal_budgets", "common_ceiling"):
        for divergence, style in (("kl", "-"), ("js", "--"), ("hellinger", ":")):
            chosen = [row for row in at_rejection if row["divergence"] == divergence]
            x, y = zip(*((row["mean_rejection"], row["gain"][way]) for row in chosen), strict=True)
            right.plot(x, y, style, color=COLOURS[way], label=f"{WAYS[way]}, {divergence}")
    right.axhline(1.0, color=COLOURS["common_price"], linewidth=1.0)
    right.set(xlabel="mean rejection probability", ylabel="divergence / common price's")
    right.legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=160)


def main() -> None:
    """Measure, write rows and figure, print a table."""
    torch.set_num_threads(1)
    draft, target = laws()
    rows = [row for name in track(DIVERGENCES, description="solving") for row in measure(name, draft, target)]
    table = Table("divergence", "budget", "common price", "common ceiling", "equal budgets", "proved")
    for row in rows:
        asked = "mean_rejection" if isinstance(row["mean_rejection"], float) else "mean_divergence"
        answers = row["mean_divergence" if asked == "mean_rejection" else "mean_rejection"]
        assert isinstance(answers, dict)
        table.add_row(
            str(row["divergence"]),
            f"{asked.removeprefix('mean_')} {row[asked]}",
            *(f"{answers[way]:.4g}" for way in WAYS),
            str(row.get("certificate_holds", "")),
        )
    Console(width=120).print(table)
    Console(width=120).print(str(write_rows("mean_budget", rows)))
    figure(rows, FIGURE)


if __name__ == "__main__":
    main()
