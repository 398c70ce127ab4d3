"""What checking, proving and following products costs: guarantees.check, all proofs, and a Lyapunov spectrum."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import sympy as sp
import torch
from torch.nn.functional import logsigmoid, normalize

from qdelta_analysis import QDeltaInputs, generators, guarantees, products, symbolic
from qdelta_kernels import chunk_qdelta_rule, recurrent_qdelta_rule

from .machine import use_threads
from .report import Figure, among_others, spread, timing
from .timing import calmest, interleaved, once

TITLE = "checks in float32, B = 1, H = 8, K = V = 128 (T = 131072 unless --quick); all proofs; a Lyapunov spectrum"
H, D = 8, 128

Found = TypeVar("Found")


def measure(quick: bool = False) -> list[Figure]:
    """Check that verdicts, proofs and exponents are right, then time them; memory and proofs in fresh processes."""
    return [*_check(quick), *_memory(quick), *_proofs(quick), *_spectrum(quick)]


def _check(quick: bool) -> list[Figure]:
    T, repeats = (4096, 2) if quick else (131072, 3)
    inputs = _inputs(T)
    _verify(inputs)
    figures: list[Figure] = []
    given = torch.get_num_threads()
    for threads in sorted({1, given}):
        use_threads(threads)
        times = interleaved(
            {
                "forward": lambda: chunk_qdelta_rule(**inputs.arguments()),
                "check": lambda: guarantees.check(inputs),
            },
            repeats,
        )
        on = f"{T:,} tokens, {threads} thread" + "s" * (threads > 1)
        found = [
            timing(f"chunk_qdelta_rule, {on}", times.seconds["forward"]),
            timing(f"guarantees.check, {on}", times.seconds["check"]),
            Figure(f"guarantees.check / forward, {on}", times.ratio("check", "forward"), "x", at_most=4.0),
        ]
        figures += among_others(found, times.others, f"this, {on}")
    use_threads(given)
    return figures


def _memory(quick: bool) -> list[Figure]:
    extra, size = _fresh(_peak, 4096 if quick else 131072)
    return [
        Figure("memory that the inputs take", size / 2**20, "MiB"),
        Figure("peak memory that guarantees.check adds", extra / 2**20, "MiB"),
        Figure("peak memory that guarantees.check adds / inputs", extra / size, "x", at_most=3.0),
    ]


def _proofs(quick: bool) -> list[Figure]:
    times, others = calmest(lambda: _fresh(_prove), 1, 0 if quick else 2)
    seconds, count = times[0]
    found = [Figure(f"all {count} proofs, in a process that has proved nothing yet", seconds, "s", at_most=60.0)]
    return among_others(found, others, "the proofs")


def _spectrum(quick: bool) -> list[Figure]:
    T = 512 if quick else 4096
    inputs = generators.isotropic(T=T, K=64, V=1, H=H, beta=0.8, lam=0.8, alpha=0.99)
    error = _spectrum_error(inputs)
    assert error <= 1e-6, f"the Lyapunov exponents differ by {error:.1e} from a dense QR's, more than 1e-6"
    times, others = calmest(lambda: once(lambda: products.lyapunov_spectrum(inputs)), 3, 6)
    found = [
        spread(f"Lyapunov spectrum, {H} heads, T = {T}, K = 64", times, "s", at_most=10.0),
        Figure("its exponents against a dense float64 QR's, largest difference", error, "nats/token", at_most=1e-6),
    ]
    return among_others(found, others, "the Lyapunov spectra")


def _inputs(T: int) -> QDeltaInputs:
    """Unit q and k and gates as a trained layer has them, made in place: the process never holds more than these."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, T, H, D, generator=draw) for _ in range(3))
    for x in (q, k):
        normalize(x, dim=-1, out=x)
    decay, write, feedback = torch.randn(3, 1, T, H, generator=draw).unbind()
    return QDeltaInputs(q, k, v, logsigmoid(decay + 3), write.sigmoid(), (feedback - 0.9).sigmoid())


def _verify(inputs: QDeltaInputs) -> None:
    """Raise AssertionError unless the report agrees with dense algebra and the token loop and finds what is planted."""
    report = guarantees.check(inputs)
    wrong = {name: verdict for name, verdict in report.verdicts.items() if verdict != "holds"}
    assert set(wrong) <= {"G9", "G11"}, f"these should hold: {wrong}"  # the decay of G9 and the many tokens of G11
    assert "violated" not in wrong.values(), f"violated: {wrong}"
    head = report["G3"].head
    few = inputs.heads(head).tokens(0, 512).to(torch.float64)
    dense = torch.linalg.matrix_norm(few.transition().matrix(), ord=2)[0, :, 0]
    off = float((dense - few.transition().alpha[0, :, 0] * report.facts.geometry.norm[0, :512, head]).abs().max())
    assert off < 1e-6, f"the operator norms differ by {off:.1e} from LAPACK's"
    _, state = recurrent_qdelta_rule(**inputs.heads(head).to(torch.float64).arguments(), output_final_state=True)
    assert state is not None
    exact, found = float(state.norm()), float(report.facts.trace.state_norm[0, -1, head])
    assert abs(found - exact) < 1e-5 * exact, f"the last ||S|| is {found}, by the token loop {exact}"
    token, k = 3 * inputs.T // 4, inputs.k.clone()
    k[0, token, 5] *= 1.1
    (condition,) = guarantees.GUARANTEES["G6"].check(replace(inputs, k=k)).unmet
    where = (condition.met.index(False), int(condition.excess.token[5]))
    assert where == (5, token), f"a key of length 1.1 at token {token}, head 5 is reported at {where}"


def _peak(T: int) -> tuple[int, int]:
    """Return by how many bytes a first check raises this process's memory, and how many the inputs have."""
    inputs = _inputs(T)
    before = _resident()
    report = guarantees.check(inputs)
    assert "violated" not in report.verdicts.values()
    tensors = [x for x in inputs.arguments().values() if x is not None]
    return _largest_resident() - before, sum(x.numel() * x.element_size() for x in tensors)


def _resident() -> int:
    """Return the bytes that this process holds in memory; where there is no /proc, the most it ever held."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else _largest_resident()


def _largest_resident() -> int:
    """Return the most bytes that this process ever held in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _prove() -> tuple[float, int]:
    """Return the seconds that all proofs take, and how many there are; a false step must be refused."""
    assert _refused(sp.Le(sp.sqrt(1 + sp.Symbol("x", nonnegative=True)), 1)), "a false step is accepted"
    proofs: list[Any] = []
    beside = (symbolic.joint_spectral_radius_of_a_box, symbolic.released_difference)
    seconds = once(lambda: proofs.extend([*symbolic.prove_all().values(), *(prove() for prove in beside)]))
    assert all(proof.steps for proof in proofs)
    assert {f"G{i}" for i in range(1, 15)} < {proof.claim for proof in proofs}
    return seconds, len(proofs)


def _refused(statement: sp.Basic) -> bool:
    """Whether a statement is refused, with a point where it is false."""
    try:
        symbolic.check(statement, "a false one")
    except symbolic.ProofError as error:
        return error.witness is not None
    return False


def _spectrum_error(inputs: QDeltaInputs) -> float:
    """Return the largest difference of the exponents from those of QR with dense transitions in float64."""
    found = products.lyapunov_spectrum(inputs)
    t = inputs.to(torch.float64).transition()
    make = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(inputs.K, inputs.K, dtype=torch.float64, generator=make))[0]
    Q, total = rows.expand(inputs.B, inputs.H, -1, -1), torch.zeros(inputs.B, inputs.H, inputs.K, dtype=torch.float64)
    eye = torch.eye(inputs.K, dtype=torch.float64)
    for i in range(inputs.T):
        A = t.alpha[:, i, :, None, None] * (eye - (t.beta[:, i, :, None] * t.x[:, i])[..., None] * t.k[:, i, :, None])
        Q, R = torch.linalg.qr(A.mT @ Q)
        if i >= found.transient_tokens:
            total += R.diagonal(dim1=-2, dim2=-1).abs().log()
    exact = (total / (inputs.T - found.transient_tokens)).sort(-1, descending=True).values
    error = float((exact - torch.as_tensor(found.lyapunov_exponent.values)).abs().max())
    return error if math.isfinite(error) else math.inf


def _fresh(function: Callable[..., Found], *arguments: Any) -> Found:
    """Call a function of this module in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
