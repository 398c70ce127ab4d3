"""What the checks read: each quantity against its definition, with no seam between blocks."""

import dataclasses

import numpy as np
import torch
from torch.nn.functional import normalize

from qdelta_analysis import generators, guarantees
from qdelta_analysis.guarantees import facts as facts_module

from .claims import inputs


def test_claimed_inverse_is_the_product_of_the_steps():
    """T_ij = -beta_i alpha_i k_j^T A_{j+1} ... A_{i-1} x_i, by dense products."""
    x = inputs(T=12, H=1)
    t = x.transition()
    A, beta = t.matrix()[0, :, 0], t.beta[0, :, 0] * t.alpha[0, :, 0]
    k, mixed = t.k[0, :, 0], t.x[0, :, 0]
    largest = torch.zeros(12).double()
    for i in range(12):
        for j in range(i):
            product = torch.eye(x.K).double()
            for m in range(j + 1, i):
                product = product @ A[m]
            largest[i] = max(largest[i], abs(float(beta[i] * k[j] @ product @ mixed[i])))
    found = guarantees.Facts(x).stretches
    np.testing.assert_allclose(found.inverse_largest[0, :, 0], largest, atol=1e-13)


def test_blocks_leave_no_seam(monkeypatch):
    x = inputs(T=101, B=2, H=2, HV=4)
    whole, cut = guarantees.Facts(x), guarantees.Facts(x)
    for name in ("geometry", "value_length", "trace"):
        getattr(whole, name)
    monkeypatch.setattr(facts_module, "_BLOCK_ELEMENTS", 7 * 2 * 4 * 8)
    assert len(list(cut.blocks())) == 15
    t = x.transition()
    for facts in (whole, cut):
        np.testing.assert_allclose(facts.geometry.norm * facts.gates.alpha, t.operator_norm(), atol=1e-14)
        np.testing.assert_allclose(facts.geometry.xk, t.alignment, atol=1e-14)
        np.testing.assert_allclose(facts.value_length, x.v.norm(dim=-1), atol=1e-14)
    np.testing.assert_allclose(whole.trace.drift, cut.trace.drift, atol=1e-14)


def test_the_drift_is_that_of_the_states():
    x = inputs(T=9, H=1)
    t, S = x.transition(), x.initial_state[0, 0].mT
    after, drift = None, [0.0]
    for i in range(9):
        alpha, mixed, k, v = t.alpha[0, i, 0], t.x[0, i, 0], t.k[0, i, 0], x.v[0, i, 0]
        before = v - alpha * S @ mixed
        if after is not None:
            drift.append(float((before - after).norm()))
        S = alpha * S + t.beta[0, i, 0] * torch.outer(before, k)
        after = v - S @ mixed
    np.testing.assert_allclose(guarantees.Facts(x).trace.drift[0, :, 0], drift, atol=1e-13)


def test_statistics_know_dependence_and_preferred_directions():
    facts = guarantees.Facts(generators.isotropic(T=2048))
    assert facts.tokens.dependence.max() < 5
    assert facts.tokens.anisotropy.max() < 5
    make = torch.Generator().manual_seed(0)
    walk = normalize(torch.randn(1, 2048, 1, 8, generator=make).cumsum(1), dim=-1)
    x = generators.isotropic(T=2048, K=8)
    drifting = dataclasses.replace(x, k=walk)
    assert guarantees.Facts(drifting).tokens.dependence.min() > 6
    bent = normalize(x.k * torch.linspace(1, 1.5, 8), dim=-1)
    assert guarantees.Facts(dataclasses.replace(x, k=bent)).tokens.anisotropy.min() > 6


def test_only_the_pass_over_the_memory_takes_all_threads(monkeypatch):
    seen = {}

    def watched(name):
        function = getattr(facts_module, name)

        def call(*arguments, **options):
            seen[name] = torch.get_num_threads()
            return function(*arguments, **options)

        monkeypatch.setattr(facts_module, name, call)

    for name in ("chunk_qdelta_diagnostics", "follow_stretches", "draw_samples"):
        watched(name)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        guarantees.check(generators.isotropic(T=70))
        assert torch.get_num_threads() == 2
        assert seen == {"chunk_qdelta_diagnostics": 2, "follow_stretches": 1, "draw_samples": 1}
        guarantees.Facts(generators.isotropic(T=70)).stretches  # noqa: B018 (outside of any check)
        assert seen["chunk_qdelta_diagnostics"] == 2
    finally:
        torch.set_num_threads(before)
