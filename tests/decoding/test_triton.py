"""The fused verification step against the rule in numbers, and against the torch step on a GPU.

Without a GPU the kernels run in triton's interpreter, in a process of its own: the interpreter must be chosen before
triton is first imported, and transformers imports it.
"""

import itertools
import multiprocessing
import re
import subprocess
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ratio_definition import FORMS, LAST, ROUNDING, Step, expected, masses_after, near
from torch import Tensor

from decoding.verification.ratio import verify_ratio as torch_verify_ratio
from decoding.verification.ratio_form import RatioForm
from solvers.errors import InputError

triton = pytest.importorskip("triton", reason="triton is made for Linux only")
compiler = pytest.importorskip("triton.compiler")
backends = pytest.importorskip("triton.backends.compiler")
rows = pytest.importorskip("decoding.verification.kernels.rows")
verification = pytest.importorskip("decoding.verification.kernels.steps")
verify_ratio = verification.verify_ratio

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def _strictly() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")


@pytest.fixture(scope="module")
def fused():
    """The fused step with small blocks: on a GPU if there is one, else interpreted."""
    if GPU:

        def on_gpu(form: RatioForm, step: Step, block: int = 32) -> tuple[list[int], list[int]]:
            tensors = [each.cuda() for each in step[:5]]
            accepted, token = verification.launch(form, *tensors, step.temperature, block)
            return accepted.tolist(), token.tolist()

        yield on_gpu
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_strictly) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(int).result()
        yield lambda form, step, block=32: pool.submit(_launched, form, step, block).result()


def _launched(form: RatioForm, step: Step, block: int) -> tuple[list[int], list[int]]:
    accepted, token = verification.launch(form, *step, block)
    return accepted.tolist(), token.tolist()


def assert_as_expected(form: RatioForm, step: Step, outcome: tuple[list[int], list[int]]) -> None:
    """Assert that every text is as expected but for rounding, and nearly every one exactly."""
    exact = [expected(form, step, text, step.uniforms[text].numpy()) for text in range(len(step.tested))]
    got = list(zip(*outcome, strict=True))
    for text, (each, wanted) in enumerate(zip(got, exact, strict=True)):
        assert each == wanted or each in near(form, step, text), (text, each, wanted)
    assert sum(each != wanted for each, wanted in zip(got, exact, strict=True)) <= max(1, len(got) // 10)


def random_step(seed: int, *, batch: int = 6, k: int = 3, vocab: int = 37, dtype: torch.dtype = torch.float32) -> Step:
    """Laws near each other, some tokens masked in one or both, and drafted tokens that the draft's law may draw."""
    rng = torch.Generator().manual_seed(seed)
    target = 2 * torch.randn(batch, k + 1, vocab, generator=rng)
    draft = target[:, :k] + torch.randn(batch, k, vocab, generator=rng)
    for logits in (draft, target):
        masked = torch.rand(logits.shape, generator=rng) < 0.2
        masked[..., 1::7] = False
        logits.masked_fill_(masked, -torch.inf)
    draft, target = draft.to(dtype), target.to(dtype)
    laws = draft.double().softmax(-1).view(batch * k, vocab)
    drafted = (
        torch.multinomial(laws, 1, generator=rng).view(batch, k) if k else torch.zeros(batch, 0, dtype=torch.int64)
    )
    uniforms = torch.rand(batch, k + 1, generator=rng, dtype=torch.float64)
    return Step(draft, target, drafted, uniforms, torch.full((batch,), k))


@every_form
def test_every_form_follows_its_definition(fused, form):
    step = random_step(2)
    # half of the texts reject early
    step.uniforms[::2, :-1] = 1 - 0.1 * step.uniforms[::2, :-1]
    accepted, token = fused(form, step)
    assert_as_expected(form, step, (accepted, token))
    assert form.level == "fixed" or min(accepted) < 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["lossless", "ceiling", "rejection", "price"])
def test_half_precision_logits(fused, name, dtype):
    step = random_step(3, batch=4, k=2, dtype=dtype)._replace(temperature=0.75)
    assert_as_expected(FORMS[name], step, fused(FORMS[name], step))


@pytest.mark.parametrize("name", ["rejection", "price"])
def test_one_knob_for_each_text(fused, name):
    form, step = FORMS[name], random_step(4)
    knobs = torch.tensor([0.0, 0.05, 0.2, 0.4, 0.9, 3.0], dtype=torch.float32)
    own = RatioForm(level=form.level, knob=knobs, residual="fill")
    assert_as_expected(own, step, fused(own, step))


@pytest.mark.parametrize("vocab", [5, 32, 150])
def test_vocabularies_of_less_than_a_block_one_and_many(fused, vocab):
    for name in ("lossless", "price"):
        step = random_step(5, batch=3, k=2, vocab=vocab)
        assert_as_expected(FORMS[name], step, fused(FORMS[name], step))


def test_texts_with_fewer_tokens_do_not_read_the_rows_behind(fused):
    step = random_step(6, vocab=20)
    count = torch.tensor([0, 1, 2, 3, 0, 1])
    for text, tested in enumerate(count.tolist()):
        step.draft[text, tested:], step.target[text, tested + 1 :] = torch.nan, torch.nan
        step.uniforms[text, tested:-1] = torch.nan
    ragged = step._replace(tested=count)
    for name in ("lossless", "rejection", "price"):
        accepted, token = fused(FORMS[name], ragged)
        finite = ragged._replace(uniforms=ragged.uniforms.nan_to_num(0.5))
        assert_as_expected(FORMS[name], finite, (accepted, token))
        assert accepted[0] == accepted[4] == 0


@pytest.mark.parametrize("name", ["lossless", "ceiling", "price"])
def test_nothing_drafted_draws_from_the_target(fused, name):
    step = random_step(7, k=0)
    assert_as_expected(FORMS[name], step, fused(FORMS[name], step))


def test_strides_of_a_view(fused):
    step, wide = random_step(8, batch=3), random_step(9, batch=3, k=5, vocab=60)
    draft, target = wide.draft[:, 1:4, 3:40], wide.target[:, 2:6, 11:48]
    draft.copy_(step.draft)
    target.copy_(step.target)
    assert not draft.is_contiguous()
    viewed = step._replace(draft=draft, target=target)
    assert fused(FORMS["price"], viewed) == fused(FORMS["price"], step)


def test_a_uniform_on_a_boundary_draws_the_token_behind_it(fused):
    quarters = torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64)[:, None]
    step = Step(torch.zeros(4, 0, 4), torch.zeros(4, 1, 4), torch.zeros(4, 0).long(), quarters, torch.zeros(4).long())
    assert fused(FORMS["lossless"], step)[1] == [0, 1, 2, 3]


@every_form
def test_the_ends_of_the_unit_interval_draw_no_token_without_mass(fused, form):
    # in one block of 100 masses a running sum and a sum end differently
    step = random_step(10, batch=4, k=1, vocab=120)
    step.target[..., :3], step.target[..., -4:] = -torch.inf, -torch.inf
    ends = [0.0, LAST, 0.0, LAST]
    step.uniforms[:, -1] = torch.tensor(ends, dtype=torch.float64)
    step.uniforms[:2, 0] = LAST
    for text, (accepted, token) in enumerate(zip(*fused(form, step, 128), strict=True)):
        p, q = (each[text].double().softmax(-1).numpy() for each in step[:2])
        knob = float(form.knob)
        masses = q[accepted] if accepted == 1 else masses_after(form, p[0], q[0], knob)
        assert masses[token] > 0
        assert (masses[:token] if ends[text] == 0 else masses[token + 1 :]).sum() <= ROUNDING * masses.sum()


def test_a_residual_of_zeros_gives_way_to_the_target(fused):
    step = random_step(11, k=1, batch=8)
    step.draft.copy_(step.target[:, :1])
    step.uniforms[:, 0] = LAST
    form = RatioForm(target_weight=0.5)
    accepted, token = fused(form, step)
    assert accepted == [0] * 8
    assert_as_expected(form, step, (accepted, token))


def test_a_drafted_token_that_neither_law_has_is_rejected(fused):
    step = random_step(12, k=1, batch=2)
    step.draft[:, 0, 4], step.target[:, 0, 4], step.drafted[:] = -torch.inf, -torch.inf, 4
    step.uniforms[:, 0] = 0.0
    for form in (FORMS["lossless"], FORMS["no ceiling"], FORMS["price"]):
        assert fused(form, step)[0] == [0, 0]


def test_a_fill_that_lost_nothing_gives_way_to_the_target(fused):
    step = random_step(18, k=1, batch=8)
    # the draft's support is within the target's, and larger masses of the target lie outside the draft's
    step.draft.copy_(step.target[:, :1])
    step.draft[..., 8:] = -torch.inf
    step.draft[:, 0, 4], step.target[:, 0, 4], step.drafted[:] = -torch.inf, -torch.inf, 4
    step.uniforms[:4, 1] = 0.0
    form = RatioForm(level="rejection", knob=0.0, residual="fill")
    accepted, token = fused(form, step)
    assert accepted == [0] * 8
    assert max(token[:4]) < 8
    assert_as_expected(form, step, (accepted, token))


def test_a_rejection_above_the_lossless_one_accepts_as_lossless(fused):
    step, form = random_step(19), RatioForm(level="rejection", knob=2.0, residual="fill")
    step.uniforms[:, :-1] *= 0.7
    accepted, token = fused(form, step)
    assert accepted == fused(FORMS["lossless"], step)[0]
    assert max(accepted) > 0
    assert_as_expected(form, step, (accepted, token))


@pytest.mark.parametrize("temperature", [0.02, 1e-30, 50.0])
def test_no_temperature_overflows(fused, temperature):
    step = random_step(13, batch=2, k=2)._replace(temperature=temperature)
    assert_as_expected(FORMS["lossless"], step, fused(FORMS["lossless"], step))


def assert_replacement_law(fused: Any, form: RatioForm, draft: Tensor, target: Tensor, within: float) -> None:
    """Assert the law after a rejection, at uniforms on both sides of where its running sum passes from token to token.

    The drafted token is the one that the target holds least of; logits `[vocab]`.
    """
    p, q = (each.double().softmax(-1).numpy() for each in (draft, target))
    rejected = int(np.argmax(p / np.maximum(q, 1e-300)))
    masses = masses_after(form, p, q, float(form.knob))
    running = np.cumsum(masses) / masses.sum()
    wide = np.flatnonzero(masses > 20 * within * masses.sum())
    steps = list(itertools.pairwise(wide[:: max(1, len(wide) // 2)]))
    # the token before a wide one ends where that one begins
    uniforms = [running[right] - masses[right] / masses.sum() + within for _, right in steps]
    uniforms += [running[left] - within for left, _ in steps]
    texts = len(uniforms)
    step = Step(
        draft.expand(texts, 1, -1),
        target.expand(texts, 2, -1),
        torch.full((texts, 1), rejected),
        torch.tensor([[LAST, u] for u in uniforms], dtype=torch.float64),
        torch.ones(texts, dtype=torch.int64),
    )
    accepted, token = fused(form, step, 64)
    assert accepted == [0] * texts
    assert token == [int(right) for _, right in steps] + [int(left) for left, _ in steps]
    assert texts >= 2


@every_form
def test_every_replacement_has_the_defined_law(fused, form):
    step = random_step(16, batch=1, k=1)
    # no rule keeps a token of much draft mass that the target masks, with this uniform
    step.target[0, 0, step.draft[0, 0].argmax()] = -torch.inf
    assert_replacement_law(fused, form, step.draft[0, 0], step.target[0, 0], 1e-5)


@pytest.mark.parametrize(("spread", "rejection"), [(1e-2, 1e-4), (0.5, 1e-2), (5.0, 0.3), (12.0, 1e-3)])
def test_levels_of_hard_pairs(fused, spread, rejection):
    rng = torch.Generator().manual_seed(14)
    target = torch.randn(37, generator=rng)
    draft = target + spread * torch.randn(37, generator=rng)
    ratio = draft.double().softmax(-1) / target.double().softmax(-1)
    for form in (
        RatioForm(level="rejection", knob=rejection, residual="fill"),
        RatioForm(level="price", knob=0.5 * float((ratio.max() / ratio.min()).log()), residual="fill"),
        RatioForm(target_weight=float(ratio.max()) ** 0.9, residual="fill"),
    ):
        assert_replacement_law(fused, form, draft, target, 1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    step = random_step(0)
    with pytest.raises(InputError, match="positive temperature"):
        verify_ratio(FORMS["lossless"], *step[:4], count=step.tested, temperature=temperature)


def test_logits_with_gaps_are_refused():
    step = random_step(0, vocab=40)
    with pytest.raises(InputError, match="last stride"):
        verify_ratio(FORMS["lossless"], step.draft[..., ::2], *step[1:4], count=step.tested, temperature=1.0)
    with pytest.raises(InputError, match="last stride"):
        verify_ratio(
            FORMS["lossless"], step.draft, step.target[..., ::2], *step[2:4], count=step.tested, temperature=1.0
        )


@pytest.mark.parametrize("name", ["lossless", "ceiling", "rejection", "price"])
def test_the_torch_step_says_the_same(fused, name):
    step = random_step(15, batch=3, k=2, vocab=9001)
    torch_outcome = torch_verify_ratio(FORMS[name], *step[:4], count=step.tested, temperature=1.0)
    assert fused(FORMS[name], step, 4096) == tuple(each.tolist() for each in torch_outcome)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("vocab", [50304, 151936])
@needs_gpu
def test_large_vocabularies_on_a_gpu_as_in_torch(name, vocab):
    rng = torch.Generator("cuda").manual_seed(0)
    target = 3 * torch.randn(32, 5, vocab, generator=rng, device="cuda")
    draft = target[:, :4] + torch.randn(32, 4, vocab, generator=rng, device="cuda")
    drafted = torch.multinomial(draft.softmax(-1).flatten(0, 1), 1, generator=rng).view(32, 4)
    uniforms = torch.rand(32, 5, generator=rng, dtype=torch.float64, device="cuda")
    count = torch.arange(32, device="cuda") % 5
    pair = [
        step(FORMS[name], draft, target, drafted, uniforms, count=count, temperature=0.8)
        for step in (verify_ratio, torch_verify_ratio)
    ]
    (accepted, token), (torch_accepted, torch_token) = pair
    # a text is off if one of its uniforms is within rounding of a boundary: 1e-5 for each test, 1e-3 for the token
    assert int(((accepted != torch_accepted) | (token != torch_token)).sum()) <= 1


@needs_gpu
def test_a_cuda_graph_replays_the_step():
    step = [each.cuda() for each in random_step(17)[:5]]
    graph, other = torch.cuda.CUDAGraph(), torch.rand(6, 4, dtype=torch.float64).cuda()
    knob = torch.full((6,), 0.7, dtype=torch.float64, device="cuda")
    form = RatioForm(level="price", knob=knob, residual="fill")
    verify_ratio(form, *step[:4], count=step[4], temperature=1.0)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = verify_ratio(form, *step[:4], count=step[4], temperature=1.0)
    step[3].copy_(other)
    graph.replay()
    eager = verify_ratio(form, *step[:4], count=step[4], temperature=1.0)
    assert [each.tolist() for each in captured] == [each.tolist() for each in eager]


def compiled(kernel: Any, dtype: str, warps: int, constants: dict[str, Any]) -> Any:
    """Compile a kernel for sm_90 as `launch` would, without a GPU."""
    pointer = "*" + dtype
    types = {
        "rows": rows.Rows(pointer, pointer, "i64", "i64", "i64", "i64", "fp32", "*fp32", "*fp32", "i32", "i32", "i32"),
        **dict.fromkeys(("count", "drafted", "accepted", "next_token"), "*i64"),
        **dict.fromkeys(("part", "uniforms", "knob", "levels", "masses"), "*fp64"),
        **dict.fromkeys(("target_weight", "draft_weight", "slack"), "fp64"),
    }
    if constants.get("LEVEL") == "fixed":
        constants = constants | {"knob": None, "part": None}
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    source = compiler.ASTSource(kernel, signature, constants)
    return triton.compile(
        source, target=backends.GPUTarget("cuda", 90, 32), options={"num_warps": warps} | verification.COMPILE
    )


BY_BLOCK = {"BLOCK": verification.BLOCK, "BLOCKS": 64}
KERNELS = [
    (rows.row_statistics, 8, {"BLOCK": verification.BLOCK}),
    *((verification.margins, 8, BY_BLOCK | {"LEVEL": level}) for level in ("rejection", "price")),
    *(
        (verification.settle, 16, BY_BLOCK | {"LEVEL": level, "FILL": fill, "STEPS": 8})
        for level, fill in (("fixed", False), ("fixed", True), ("rejection", True), ("price", True))
    ),
    *(
        (kernel, warps, BY_BLOCK | {"RESIDUAL": residual})
        for kernel, warps in ((verification.block_masses, 8), (verification.draw, 32))
        for residual in ("difference", "fill", "target", "draft")
    ),
]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("kernel", "warps", "constants"),
    KERNELS,
    ids=["-".join([each[0].__name__, *(str(value) for value in each[2].values())]) for each in KERNELS],
)
def test_every_kernel_compiles_for_hopper_without_spills(kernel, warps, constants, dtype, tmp_path):
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(compiled(kernel, dtype, warps, constants).asm["ptx"])
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [assembler, "--verbose", "--gpu-name=sm_90a", ptx, "-o", tmp_path / "kernel.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in report, report
    used = re.search(r"Used (\d+) registers", report)
    # the 65536 registers of a multiprocessor
    assert used is not None
    assert int(used[1]) * 32 * warps <= 65536
