"""What the layer computes under each rule: the gates' equations, and the recurrence against its definition."""

import math

import pytest
import torch
import torch.nn.functional as F

from qdelta_analysis import QDeltaInputs
from qdelta_analysis.learning import LayerConfig, QDeltaLayer
from qdelta_analysis.learning.layer import log_expansion, unit
from qdelta_analysis.learning.linear_attention import linear_attention
from qdelta_kernels import qdelta_rule_reference
from tests.helpers import relative_error, tokens

from .sizes import BASE, VARIANTS, noise


def looped(q, k, v, g, state, scale):
    """Linear attention as its definition says, token by token."""
    groups = v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(groups, dim=2) for x in (q, k))
    h, outputs = state, []
    for t in range(q.shape[1]):
        h = g[:, t].exp()[..., None, None] * h + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(scale * (q[:, t, :, None] @ h)[:, :, 0])
    return torch.stack(outputs, 1), h


@pytest.mark.parametrize(("T", "chunk_size"), [(1, 64), (63, 16), (100, 64), (100, 1)])
@pytest.mark.parametrize("HV", [2, 6])
def test_linear_attention_is_its_definition(T, chunk_size, HV):
    x = tokens(B=3, T=T, HV=HV)
    o, state = linear_attention(
        x.q, x.k, x.v, x.g, initial_state=x.state, output_final_state=True, chunk_size=chunk_size
    )
    expected, last = looped(x.q, x.k, x.v, x.g, x.state, 8**-0.5)
    assert relative_error(o, expected) < 1e-13
    assert relative_error(state, last) < 1e-13


def test_linear_attention_takes_packed_sequences_and_has_gradients():
    x = tokens(T=50, N=3)
    bounds = torch.tensor([0, 20, 20, 50])
    o, state = linear_attention(x.q, x.k, x.v, x.g, initial_state=x.state, output_final_state=True, cu_seqlens=bounds)
    for n, (start, end) in enumerate([(0, 20), (20, 20), (20, 50)]):
        parts = (y[:, start:end] for y in (x.q, x.k, x.v, x.g))
        if start == end:
            assert torch.equal(state[n], x.state[n])
            continue
        expected, last = looped(*parts, x.state[n : n + 1], 8**-0.5)
        assert relative_error(o[:, start:end], expected) < 1e-13
        assert relative_error(state[n : n + 1], last) < 1e-13
    small = tokens(T=5, H=1, K=3, V=2)
    leaves = [y.requires_grad_() for y in (small.q, small.k, small.v, small.g, small.state)]
    run = lambda q, k, v, g, h: linear_attention(q, k, v, g, initial_state=h, output_final_state=True, chunk_size=2)
    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_layer_runs_its_rule_on_its_inputs(config):
    layer, x = QDeltaLayer(config).double(), noise(2, 70, 24).double()
    q, k, v, g, beta, lam = layer.rule_inputs(x)
    no_decay = v.new_zeros(v.shape[:3])
    if beta is None:
        o, _ = looped(q, k, v, no_decay if g is None else g, v.new_zeros(2, 2, 8, 12), 8**-0.5)
    else:
        o, _ = qdelta_rule_reference(q, k, v, g, beta, lam)
    gate = layer.g_proj(x).unflatten(-1, (config.memories, -1))
    expected = layer.o_proj((F.rms_norm(o, (12,), layer.o_norm.weight, 1e-5) * F.silu(gate)).flatten(-2))
    assert relative_error(layer(x), expected) < 1e-11


@pytest.mark.parametrize("name", ["q-delta, lam = 0.2", "q-delta, lam = 1"])
def test_a_fixed_lam_is_that_number(name):
    lam = QDeltaLayer(VARIANTS[name]).rule_inputs(noise(1, 9, 24)).lam
    assert lam is not None
    assert torch.equal(lam, torch.full_like(lam, VARIANTS[name].lam))


def test_doubled_gates_are_twice_the_others():
    x = noise(1, 30, 24)
    plain, doubled = (QDeltaLayer(VARIANTS[name]).rule_inputs(x) for name in ("q-delta", "q-delta, doubled"))
    for name in ("beta", "lam"):
        assert torch.equal(getattr(doubled, name), 2 * getattr(plain, name))
    assert torch.equal(doubled.g, plain.g)


@pytest.mark.parametrize(
    "name", ["q-delta, norm-compensated", "q-delta, norm-compensated, no decay", "q-delta, grouped"]
)
def test_compensated_steps_have_the_decays_norm_exactly(name):
    config = VARIANTS[name]
    layer, x = QDeltaLayer(config).double(), noise(2, 40, 24).double()
    q, k, v, g, beta, lam = layer.rule_inputs(x)
    plain = torch.zeros_like(beta)
    if config.decays:
        plain = -layer.A_log.exp() * F.softplus(layer.a_proj(x) + layer.dt_bias)
    A = QDeltaInputs(q, k, v, g, beta, lam).transition().matrix()
    torch.testing.assert_close(torch.linalg.matrix_norm(A, 2), plain.exp(), rtol=1e-12, atol=0)
    assert (g < plain).any()
    uncompensated = QDeltaInputs(q, k, v, plain, beta, lam)
    torch.testing.assert_close(g, uncompensated.with_norm_compensation().g, rtol=1e-12, atol=1e-14)


def test_the_compensation_has_finite_slopes_everywhere():
    x = tokens(B=1, T=6, H=2, HV=4, K=3)
    leaves = [y.requires_grad_() for y in (x.q, x.k, x.beta, x.lam)]
    assert torch.autograd.gradcheck(log_expansion, leaves)
    zero, unit = torch.zeros(1, 3, 1, 4), F.one_hot(torch.zeros(1, 3, 1, dtype=torch.long), 4).float()
    for q, k in ((zero, zero), (unit, unit), (-unit, unit), (zero, unit)):
        for beta, lam in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)):
            gates = torch.full((1, 3, 1), beta), torch.full((1, 3, 1), lam)
            leaves = [y.clone().requires_grad_() for y in (q, k, *gates)]
            slopes = torch.autograd.grad(log_expansion(*leaves).sum(), leaves)
            assert all(slope.isfinite().all() for slope in slopes)


def test_no_vector_is_normalised_steeply():
    for length in (0.0, 1e-30, 1e-12, 1e-8, 1e-4, 1e-3, 1.0, 1e4):
        x = (length * F.normalize(noise(1, 1, 2, 8), dim=-1)).requires_grad_()
        slope = torch.autograd.functional.jacobian(unit, x).reshape(16, 16)
        assert torch.linalg.matrix_norm(slope, 2) < 1001
    x = noise(5, 7, 2, 8, seed=1)
    torch.testing.assert_close(unit(x), F.normalize(x, dim=-1), rtol=0, atol=0)
    assert torch.equal(unit(torch.zeros(1, 1, 2, 8)), torch.zeros(1, 1, 2, 8))
    assert torch.equal(torch.autograd.functional.hessian(lambda y: unit(y)[0], torch.zeros(2)), torch.zeros(2, 2))
    assert torch.autograd.gradgradcheck(unit, (x[0, 0].double().requires_grad_(),))


def test_a_rate_beyond_all_numbers_forgets_everything_and_has_no_slope():
    config = LayerConfig(hidden_size=8, heads=1, key_dim=4, value_dim=4)
    for rate in (60.0, 80.0, 88.0, 90.0, 1e30, math.inf):
        layer = QDeltaLayer(config)
        torch.nn.init.constant_(layer.A_log, rate)
        y = layer(torch.ones(1, 3, 8))
        y.sum().backward()
        assert torch.isfinite(y).all()
        for name, parameter in layer.named_parameters():
            assert torch.isfinite(parameter.grad).all(), (rate, name)
        assert layer.A_log.grad.item() == 0


@pytest.mark.parametrize("name", ["q-delta", "q-delta, norm-compensated", "deltanet", "linear-attention, decay"])
def test_tokens_that_vanish_have_the_gradients_of_zero(name):
    def slopes(length):
        """Gradients of a layer and its input, of which five tokens are this short."""
        layer, x = QDeltaLayer(VARIANTS[name]), noise(1, 20, 24)
        x[:, 8:13] *= length
        x.requires_grad_()
        layer(x).square().sum().backward()
        return torch.cat([y.grad.flatten() for y in (x, *layer.parameters())])

    zero = slopes(0.0)
    for length in (1e-30, 1e-12, 1e-8):
        assert relative_error(slopes(length), zero) < 1e-3
    assert zero.norm() < 3 * slopes(1.0).norm()


def test_every_parameter_of_every_variant_learns():
    for name, config in VARIANTS.items():
        layer = QDeltaLayer(config)
        layer(noise(2, 20, 24)).square().sum().backward()
        for parameter, value in layer.named_parameters():
            assert value.grad is not None, (name, parameter)
            assert value.grad.isfinite().all(), (name, parameter)
            assert value.grad.any(), (name, parameter)


@pytest.mark.parametrize("name", ["q-delta", "q-delta, norm-compensated", "linear-attention, decay"])
def test_bfloat16_autocast_and_weights_stay_close_to_float32(name):
    layer, x = QDeltaLayer(VARIANTS[name]), noise(2, 60, 24)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        under = layer(x)
        gates = layer.rule_inputs(x)
    assert relative_error(under, exact) < 0.03
    assert all(y is None or y.dtype == torch.float32 for y in (gates.g, gates.beta, gates.lam))
    under.float().sum().backward()
    assert relative_error(layer.bfloat16()(x.bfloat16()), exact) < 0.03


def test_the_convolution_needs_no_neighbours_at_width_one():
    layer, x = QDeltaLayer(VARIANTS["q-delta, no convolution"]), noise(1, 30, 24)
    whole, some = layer.rule_inputs(x), layer.rule_inputs(x[:, 10:20])
    assert torch.allclose(whole.v[:, 10:20], some.v, atol=1e-6)
    assert BASE.conv_width == 4
