"""Memory of decoding by length of the text and by vocabulary, beside transformers' assisted generation and sampling.

Run it with `python -m benchmarks.decoding_memory`: rows in `benchmarks/results`, figure in `docs/decoding_memory.png`.

Every point is a process of its own that builds a pair with random weights, and then generates: its peak resident memory
during the call, above what it held before. The C allocator is told to give every larger block back as soon as it is
freed (MALLOC_MMAP_THRESHOLD_), so that resident memory is memory in use, to a quarter of a megabyte.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.decoding_pairs import Shape, random_pair
from benchmarks.decoding_speed import ASSISTED, DRAFT_LENGTH, EXACT, OURS, SAMPLING, Asked, decoders
from benchmarks.harness import write_rows
from decoding.huggingface import hide_progress_bars

LAYERS, DRAFT_LAYERS, HIDDEN = 4, 1, 64
PROMPT_TOKENS, LENGTH, VOCAB = 16, 256, 151936
POINTS = [(length, VOCAB) for length in (64, LENGTH, 1024)] + [(LENGTH, vocab) for vocab in (32000, 64000)]
"""New tokens and vocabulary."""
STYLES = {OURS: ("#1f5fa8", "o-"), EXACT: ("#12365f", "s--"), ASSISTED: ("#d9622b", "o-"), SAMPLING: ("#8a8a8a", "o-")}
FIGURE = Path(__file__).parents[1] / "docs" / "decoding_memory.png"
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}


def asked_for(new_tokens: int, vocab: int) -> Asked:
    """Make a pair, and a prompt for it."""
    shape = Shape(layers=LAYERS, draft_layers=DRAFT_LAYERS, hidden=HIDDEN, heads=4, vocab=vocab, spread=3.0, echo=0.03)
    target, draft = random_pair(shape)
    ids = torch.randint(vocab, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    return Asked(target=target, draft=draft, ids=ids, temperature=1.0, new_tokens=new_tokens)


def peak_in_this_process(name: str, new_tokens: int, vocab: int) -> int:
    """Bytes above what the models and the libraries hold."""
    torch.set_num_threads(1)
    hide_progress_bars()
    decoder = decoders(1.0, 1)[name]
    # whatever is imported or set up once, is now
    decoder(asked_for(8, 1000))
    asked = asked_for(new_tokens, vocab)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    decoder(asked)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def point(name: str, new_tokens: int, vocab: int) -> dict[str, Any]:
    """One row."""
    command = [sys.executable, "-m", "benchmarks.decoding_memory", "--peak-of", name, "--point", str(new_tokens)]
    finished = subprocess.run(
        [*command, str(vocab)], check=True, stdout=subprocess.PIPE, text=True, env=os.environ | RETURNED
    )
    columns = PROMPT_TOKENS + new_tokens
    peak = int(finished.stdout.split()[-1])
    return {
        "question": "peak resident memory of a call above what the process held before, batch 1, CPU, float32",
        "decoder": name,
        "new_tokens": new_tokens,
        "prompt_tokens": PROMPT_TOKENS,
        "vocab": vocab,
        "layers": [LAYERS, DRAFT_LAYERS],
        "hidden": HIDDEN,
        "draft_length": DRAFT_LENGTH,
        "threads": 1,
        "peak_bytes": peak,
        "rows_of_logits": peak / (4 * vocab),
        # keys and values of the layers that run
        "cache_bytes": 2 * 4 * columns * HIDDEN * (LAYERS + (0 if name == SAMPLING else DRAFT_LAYERS)),
        "bytes_of_all_logits": 4 * vocab * new_tokens,
    }


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Both questions, from rows alone."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.7), layout="constrained")
    for axis, key in ((left, "new_tokens"), (right, "vocab")):
        fixed, value = ("vocab", VOCAB) if key == "new_tokens" else ("new_tokens", LENGTH)
        chosen = sorted((row for row in rows if row[fixed] == value), key=lambda row: row[key])
        for name, (colour, style) in STYLES.items():
            own = [row for row in chosen if row["decoder"] == name]
            x, y = [row[key] for row in own], [row["peak_bytes"] / 1e6 for row in own]
            axis.plot(x, y, style, color=colour, label=name, markersize=4)
        all_logits = {row[key]: row["bytes_of_all_logits"] / 1e6 for row in chosen}
        axis.plot(*zip(*all_logits.items(), strict=True), ":", color="0.5", label="the target's logits at every token")
        axis.set(xscale="log", yscale="log", ylabel="peak memory of the call, MB")
        axis.set_xticks(list(all_logits), [str(each) for each in all_logits])
        axis.minorticks_off()
    left.set(xlabel="new tokens")
    left.set_title(f"{VOCAB} tokens in the vocabulary", fontsize=10)
    right.set(xlabel="tokens in the vocabulary")
    right.set_title(f"{LENGTH} new tokens", fontsize=10)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    fig.savefig(path, dpi=160)


def main() -> None:
    """Measure, print a table, write rows and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--point", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console = Console(width=120)
    if arguments.peak_of:
        console.print(peak_in_this_process(arguments.peak_of, *arguments.point))
        return
    tasks = [(name, *each) for each in POINTS for name in STYLES]
    rows = [point(*each) for each in track(tasks, description="points")]
    table = Table("decoder", "new tokens", "vocabulary", "peak, MB", "rows of logits", "cache, MB", "all logits, MB")
    for row in rows:
        table.add_row(
            row["decoder"],
            str(row["new_tokens"]),
            str(row["vocab"]),
            f"{row['peak_bytes'] / 1e6:.1f}",
            f"{row['rows_of_logits']:.1f}",
            f"{row['cache_bytes'] / 1e6:.1f}",
            f"{row['bytes_of_all_logits'] / 1e6:.0f}",
        )
    console.print(table)
    console.print(str(write_rows("decoding_memory", rows)))
    figure(rows, FIGURE)


if __name__ == "__main__":
    main()
