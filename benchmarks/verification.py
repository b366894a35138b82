"""The verification step of a batch, beside the time its logits take to be read once.

Run it with `python -m benchmarks.verification`, on a GPU with `--device cuda`. Everybody gets the same bfloat16 logits,
k = 4; peers that take probabilities are timed with the two softmaxes that make them.
"""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.generation.utils import _speculative_sampling

from benchmarks.harness import interleaved_seconds, quantiles, write_rows
from decoding.verification.ratio import verify_ratio
from decoding.verification.ratio_form import RatioForm

SEED, STEPS, SPREAD = 0, 4, 0.7
SHAPES = {
    "cpu": ((1, 50304), (8, 50304)),
    "cuda": tuple((batch, vocab) for vocab in (50304, 151936) for batch in (1, 32, 256)),
}
COPIED = {"cpu": 2**28, "cuda": 2**32}
FORMS = {"lossless": RatioForm(), "price 1": RatioForm(level="price", knob=1.0, residual="fill")}


class Step(NamedTuple):
    """Logits `[batch, k, vocab]` and `[batch, k + 1, vocab]`, drafted tokens, uniforms and counts of one step."""

    draft: Tensor
    target: Tensor
    drafted: Tensor
    uniforms: Tensor
    tested: Tensor


def zipf_step(batch: int, vocab: int, device: str) -> Step:
    """Zipf-like logits, the draft's with noise, and tokens drawn from the draft."""
    generator = torch.Generator(device).manual_seed(SEED)
    rank = torch.arange(1, vocab + 1, device=device).log().expand(batch, STEPS + 1, vocab)
    target = 0.1 * torch.randn(rank.shape, generator=generator, device=device) - rank
    draft = target[:, :STEPS] + SPREAD * torch.randn(batch, STEPS, vocab, generator=generator, device=device)
    draft, target = draft.bfloat16(), target.bfloat16()
    drafted = torch.multinomial(draft.float().softmax(-1).flatten(0, 1), 1, generator=generator).view(batch, STEPS)
    uniforms = torch.rand(batch, STEPS + 1, generator=generator, device=device, dtype=torch.float64)
    return Step(draft, target, drafted, uniforms, torch.full((batch,), STEPS, device=device))


def replayed(step: Callable[[], object]) -> Callable[[], object]:
    """The same step as a CUDA graph, as a decoding loop runs it."""
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def ours(verify: Any, form: RatioForm, step: Step) -> Callable[[], object]:
    """One of our two implementations."""
    return lambda: verify(
        form, step.draft, step.target, step.drafted, step.uniforms, count=step.tested, temperature=1.0
    )


def flashinfer_step(step: Step) -> Callable[[], object]:
    """FlashInfer's chain step, lossless only."""
    sampling: Any = import_module("flashinfer.sampling")
    drafted = step.drafted.int()
    return lambda: sampling.chain_speculative_sampling(
        step.draft.float().softmax(-1), drafted, step.target.float().softmax(-1)
    )


def vllm_step(step: Step) -> Callable[[], object]:
    """vLLM's rejection sampler, lossless only; its kernels take the draft's probabilities and the target's."""
    sampler: Any = import_module("vllm.v1.sample.rejection_sampler")
    batch, flat = len(step.drafted), step.drafted.flatten().int()
    ends = STEPS * torch.arange(1, batch + 1, device=flat.device, dtype=torch.int32)
    bonus = torch.zeros(batch, 1, dtype=torch.int32, device=flat.device)

    class Metadata(NamedTuple):
        all_greedy: bool = False
        all_random: bool = True
        temperature: Tensor = torch.ones(batch, device=flat.device)
        generators: Any = {}

    return lambda: sampler.rejection_sample(
        flat,
        [STEPS] * batch,
        STEPS,
        ends,
        step.draft.float().softmax(-1).flatten(0, 1),
        step.target[:, :STEPS].float().softmax(-1).flatten(0, 1),
        bonus,
        Metadata(),
    )


PEERS = {"FlashInfer": flashinfer_step, "vLLM": vllm_step}


def implementations(step: Step, device: str) -> tuple[dict[tuple[str, str], Callable[[], object]], dict[str, str]]:
    """What is timed, by form and name, and why the rest is not, by name."""
    tasks: dict[tuple[str, str], Callable[[], object]] = {}
    for name, form in FORMS.items():
        tasks[name, "ours, torch"] = ours(verify_ratio, form, step)
    if device != "cuda":
        return tasks, dict.fromkeys(("ours, triton", "transformers", *PEERS), "not measured on a GPU")
    fused = import_module("decoding.verification.kernels").verify_ratio
    for name, form in FORMS.items():
        tasks[name, "ours, triton"] = ours(fused, form, step)
        tasks[name, "ours, triton, graph"] = replayed(tasks[name, "ours, triton"])
    missing = {}
    if len(step.drafted) == 1:
        draft, target = step.draft.float(), step.target.float()
        tasks["lossless", "transformers"] = lambda: _speculative_sampling(step.drafted, draft, STEPS, target)
    for name, peer in PEERS.items():
        try:
            tasks["lossless", name] = peer(step)
        except ImportError:
            missing[name] = "not installed"
    return tasks, missing


def bytes_per_second(device: str) -> float:
    """Measured bandwidth of a copy: what it reads plus what it writes."""
    source = torch.zeros(COPIED[device], dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    seconds = interleaved_seconds({"copy": lambda: copy.copy_(source)}, repeats=21)["copy"]
    return 2 * COPIED[device] / quantiles(seconds)["median"]


def measure(batch: int, vocab: int, device: str, bandwidth: float, repeats: int) -> list[dict[str, Any]]:
    """Rows of one shape."""
    step = zipf_step(batch, vocab, device)
    floor = (step.draft.nbytes + step.target.nbytes) / bandwidth
    tasks, missing = implementations(step, device)
    shared = {"question": "verification step", "batch": batch, "vocab": vocab, "k": STEPS, "dtype": "bfloat16"}
    shared |= {"device": device, "floor_microseconds": 1e6 * floor, "copy_bytes_per_second": bandwidth}
    labels = {f"{form}: {name}": (form, name) for form, name in tasks}
    seconds = interleaved_seconds({label: tasks[key] for label, key in labels.items()}, repeats=repeats)
    rows = [
        shared
        | {"form": form, "implementation": name}
        | {"microseconds": quantiles(1e6 * seconds[label]), "ratio_to_floor": quantiles(seconds[label] / floor)}
        for label, (form, name) in labels.items()
    ]
    return rows + [shared | {"implementation": name, "missing": reason} for name, reason in missing.items()]


def main() -> None:
    """Measure, write rows, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=SHAPES, default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    bandwidth = bytes_per_second(device)
    repeats = 201 if device == "cuda" else 9
    rows = [row for batch, vocab in SHAPES[device] for row in measure(batch, vocab, device, bandwidth, repeats)]
    table = Table("batch", "vocab", "form", "implementation", "microseconds", "times the floor")
    for row in rows:
        cells = str(row["batch"]), str(row["vocab"]), row.get("form", ""), row["implementation"]
        if "missing" in row:
            table.add_row(*cells, row["missing"], "")
        else:
            table.add_row(*cells, f"{row['microseconds']['median']:.1f}", f"{row['ratio_to_floor']['median']:.1f}")
    console = Console(width=140)
    console.print(table)
    console.print(str(write_rows(f"verification_{device}", rows)))


if __name__ == "__main__":
    main()
