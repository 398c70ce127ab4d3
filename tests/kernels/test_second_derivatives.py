"""Gradients that are differentiated themselves: those of the token-by-token form, or a refusal, never zeros."""

import pytest
import torch

from qdelta_analysis.learning import LayerConfig
from qdelta_analysis.learning.layer import QDeltaLayer
from qdelta_kernels import chunk_qdelta_rule, qdelta_rule, recurrent_qdelta_rule
from tests.helpers import Tokens, relative_error, tokens


def size(found):
    return sum(y.square().sum() for y in found)


def curvature(x: Tokens, function, i: int, **options):
    """The Hessian over the i-th input of a function of outputs and final state that is not linear in them."""
    of = lambda y: size(Tokens(*x[:i], y, *x[i + 1 :]).call(function, **options))
    return torch.autograd.functional.hessian(of, x[i])


def test_two_tokens_by_hand():
    """o_2 = S_0 (1 - (1 + lam_1) / 2) (1 - (1 + lam_2) / 2) + ..., so d^2 o_2 / d lam_1 d lam_2 = S_0 / 4."""
    ones, half = torch.ones(1, 2, 1, 1).double(), torch.full((1, 2, 1), 0.5).double()
    state = torch.full((1, 1, 1, 1), 0.5).double()
    of = lambda lam: qdelta_rule(ones, ones, ones, None, half, lam, scale=1.0, initial_state=state)[0].sum()
    found = torch.autograd.functional.hessian(of, torch.zeros(1, 2, 1).double())
    assert found.view(2, 2).tolist() == [[0.0, 0.125], [0.125, 0.0]]


@pytest.mark.parametrize("i", range(7), ids=Tokens._fields)
@pytest.mark.parametrize("options", [{}, {"cu_seqlens": torch.tensor([0, 2, 2, 7])}, {"l2norm_qk": True}], ids=str)
def test_every_input(i, options):
    x = tokens(T=7, H=1, HV=2, K=3, V=2, N=3 if "cu_seqlens" in options else 1)
    found = curvature(x, chunk_qdelta_rule, i, chunk_size=3, **options)
    expected = curvature(x, recurrent_qdelta_rule, i, **options)
    assert expected.abs().max() > 0.01
    assert relative_error(found, expected) <= 1e-12


def test_of_all_inputs_together():
    x = tokens(T=4, H=1, K=2, V=1).requiring_grad()
    assert torch.autograd.gradgradcheck(lambda *x: Tokens(*x).call(chunk_qdelta_rule, chunk_size=3), tuple(x))


@pytest.mark.skipif(torch.cuda.is_available(), reason="in Triton's interpreter")
@pytest.mark.parametrize("i", [0, 3, 5])
def test_in_the_kernels(i):
    pytest.importorskip("triton")
    x = tokens(T=5, H=1, HV=2, K=3, V=2)
    found = curvature(x.to(torch.float32), qdelta_rule, i, backend="triton", l2norm_qk=True)
    assert relative_error(found, curvature(x, recurrent_qdelta_rule, i, l2norm_qk=True)) <= 1e-5


def test_the_released_form_refuses():
    x = tokens(T=5, H=1, K=3, V=2).requiring_grad()
    with pytest.raises(RuntimeError, match="intra is 'released'; expected 'recurrence' for second derivatives"):
        torch.autograd.grad(size(x.call(chunk_qdelta_rule, intra="released")), x, create_graph=True)


def test_a_compiled_operation_is_right_or_refuses(as_users_call):
    x = tokens(T=5, H=1, K=3, V=2)
    torch._dynamo.reset()
    found = curvature(x, torch.compile(qdelta_rule, backend="eager"), 5)
    assert relative_error(found, curvature(x, recurrent_qdelta_rule, 5)) <= 1e-12
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match=r"does not currently support double backward|requires create_graph=False"):
        curvature(x, torch.compile(qdelta_rule, backend="aot_eager"), 5)


@pytest.mark.parametrize("backend", ["torch", "triton", "reference"])
def test_forward_derivatives(backend):
    """torch takes a function with a backward of its own for a constant there, without a word."""
    if backend == "triton":
        pytest.importorskip("triton")
    ones, half = torch.ones(1, 20, 1, 1), torch.full((1, 20, 1), 0.5)
    if backend == "triton" and torch.cuda.is_available():
        ones, half = ones.cuda(), half.cuda()
    of = lambda lam: qdelta_rule(ones, ones, ones, None, half, lam, scale=1.0, backend=backend)[0].sum()
    lam = half.clone().requires_grad_()
    of(lam).backward()
    expected = pytest.approx(lam.grad.sum().item(), rel=1e-5)
    assert torch.func.jvp(of, (half,), (torch.ones_like(half),))[1].item() == expected
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        found = of(torch.autograd.forward_ad.make_dual(half, torch.ones_like(half)))
        assert torch.autograd.forward_ad.unpack_dual(found).tangent.item() == expected


def test_forward_derivatives_of_the_chunk_form():
    ones, half = torch.ones(1, 5, 1, 1).double(), torch.full((1, 5, 1), 0.5).double()
    for intra in ("recurrence", "released"):
        of = lambda lam, intra=intra: chunk_qdelta_rule(ones, ones, ones, None, half, lam, scale=1.0, intra=intra)[0]
        if intra == "released":
            with pytest.raises(RuntimeError, match="intra is 'released'; expected 'recurrence'"):
                torch.func.jvp(of, (half,), (half,))
        else:
            jacobian = torch.autograd.functional.jacobian(of, half)
            expected = torch.einsum("btvhijk,ijk->btvh", jacobian, half)
            torch.testing.assert_close(torch.func.jvp(of, (half,), (half,))[1], expected)


def entangled(function, x: torch.Tensor, **options) -> torch.Tensor:
    """A function of one tensor that q, k, v and the gates are all made from."""
    k, gate = x.tanh(), x.mean(-1)
    o, state = function(
        x, k, k.sin(), -gate.square(), gate.sigmoid(), (x * k).sum(-1).sigmoid(), output_final_state=True, **options
    )
    return size((o, state)).sin()


def test_inputs_that_are_made_from_each_other():
    """Nothing is gone through twice: q is k in the first, where o_2 has slopes 1.25 and 0.75 by hand."""
    x, ones = torch.ones(1, 2, 1, 1, requires_grad=True), torch.ones(1, 2, 1, 1)
    o, _ = qdelta_rule(x, x, ones, None, torch.full((1, 2, 1), 0.5), None, scale=1.0)
    assert torch.autograd.grad(o.sum(), x, create_graph=True)[0].flatten().tolist() == [1.25, 0.75]
    x = tokens(T=6, H=1, K=3).q.requires_grad_()
    hessian = lambda function: torch.autograd.functional.hessian(lambda y: entangled(function, y), x)
    expected = hessian(recurrent_qdelta_rule)
    assert relative_error(hessian(qdelta_rule), expected) <= 1e-12
    for cut in ({}, {"cu_seqlens": torch.tensor([0, 2, 6])}):
        slopes = [
            torch.autograd.grad(entangled(qdelta_rule, x, **cut), x, create_graph=again)[0] for again in (False, True)
        ]
        assert relative_error(*slopes) <= 1e-12


@pytest.mark.skipif(torch.cuda.is_available(), reason="in Triton's interpreter")
def test_nor_is_it_in_the_kernels():
    x = tokens(T=6, H=1, K=3).q.float().requires_grad_()
    found = [
        torch.autograd.grad(entangled(qdelta_rule, x, backend="triton"), x, create_graph=again)[0]
        for again in (False, True)
    ]
    assert relative_error(*found) <= 1e-5


def test_a_layer_whose_decay_is_made_from_its_other_inputs():
    torch.manual_seed(0)
    layer = QDeltaLayer(LayerConfig(8, 2, 4, 4, norm_compensation=True)).double()
    x, weights = torch.randn(2, 9, 8).double(), list(layer.parameters())
    slopes = [torch.autograd.grad(layer(x).sin().sum(), weights, create_graph=again) for again in (False, True)]
    for once, again in zip(*slopes, strict=True):
        assert relative_error(again, once) <= 1e-12


def test_no_tokens_pass_the_state_on():
    x = tokens(T=0).requiring_grad()
    (found,) = torch.autograd.grad(x.call(qdelta_rule)[1].sum(), x.state, create_graph=True)
    assert (found == 1).all()
