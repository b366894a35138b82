"""What results of decoding print, to the letter."""

import numpy as np
import torch
from tiny import tiny_model

from decoding.huggingface import SpeculativeOutput
from decoding.huggingface.pair import Pair
from decoding.loop.statistics import Recorder, Statistics
from decoding.policies.stopwatch import Seconds
from decoding.verification.account import EXACT

TARGET = tiny_model(0)


def account(exact: bool = True) -> Statistics:
    """Two rounds: one of two drafted tokens is rejected, then both are kept and a bonus follows."""
    recorder = Recorder()
    columns = np.full((2, len(EXACT)), 0.25) if exact else None
    recorder.add(drafted=[1, 2], accepted=1, emitted=2, exact=columns, log_likelihood=np.array([-1.0, -2.0]))
    recorder.add(drafted=[3, 4], accepted=2, emitted=3, exact=columns, log_likelihood=np.full(3, -1.0))
    return recorder.statistics()


def output(**facts) -> SpeculativeOutput:
    given = {"errors": (None, None), "interrupted": False, "saved_settings": {}} | facts
    return SpeculativeOutput(
        sequences=torch.zeros((2, 8), dtype=torch.long),
        statistics=Statistics.pooled([account(), account()]),
        texts=(account(), account()),
        seconds=Seconds(draft=0.0, target=0.0, verify=0.0, rest=0.0),
        **given,
    )


def test_statistics_print_speed_and_price():
    assert repr(account()) == (
        "Statistics: 5 tokens in 2 target calls, 2.5 tokens per call; 1 of 4 drafted tokens rejected\n"
        "  per verified token: rejection 0.25 (lossless 0.25), KL 0.25 nats from the target\n"
        "  .mean, .spent, .acceptance_by_draft_index, .to_dict() tell the rest"
    )
    assert "no exact account" in repr(account(exact=False))
    assert "0 tokens in 0 target calls" in repr(Recorder().statistics())


def test_statistics_are_a_table_in_notebooks_and_columns_for_pandas():
    assert account()._repr_html_().count("<tr>") == 1 + len(EXACT)
    columns = account().to_dict()
    assert {len(column) for column in columns.values()} == {4}
    assert columns["accepted"].tolist() == [True, False, True, True]
    assert columns["position"].tolist() == [0, 1, 2, 3]
    assert columns["kl"].tolist() == [0.25] * 4
    assert account().totals()["kl"] == 1.0


def test_an_output_prints_its_account_and_what_went_wrong():
    assert (
        repr(output())
        == str(output())
        == (
            "SpeculativeOutput: 2 texts, 10 tokens in 4 target calls, 2.5 tokens per call\n"
            "  per verified token: rejection 0.25 (lossless 0.25), KL 0.25 nats from the target"
        )
    )
    late = output(errors=("no law", None), interrupted=True, saved_settings={"top_k": 3})
    assert repr(late).splitlines()[2:] == [
        "  1 text ended in an error, interrupted by Ctrl-C",
        "  From the generation config saved with the target: top_k 3",
    ]


def test_a_pair_prints_sizes_and_no_modules():
    printed = repr(Pair(target=TARGET, draft=TARGET, tokenizer=None, name="tiny"))
    assert printed.splitlines()[0].startswith("Pair: tiny, ")
    assert "float32 on cpu" in printed
    assert len(printed.splitlines()) == 2
