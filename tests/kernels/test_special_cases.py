"""What the recurrence reduces to, and what the released kernels compute instead."""

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from qdelta_kernels import chunk_qdelta_rule, qdelta_rule
from tests.helpers import Tokens, gradients, relative_error, tokens


@pytest.mark.parametrize("lam", [None, 0.0])
@pytest.mark.parametrize("peer", [torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule])
def test_without_query_feedback_it_is_gated_delta_net(lam, peer):
    x = tokens(T=100, K=16, V=8, dtype=torch.float32)
    x = x._replace(lam=None if lam is None else torch.zeros_like(x.lam))
    o, state = peer(*x[:5], initial_state=x.state, output_final_state=True)
    ours, our_state = x.call(qdelta_rule)
    assert relative_error(ours, o) <= 2e-6
    assert relative_error(our_state, state) <= 2e-6


def test_the_l2_norm_is_the_one_of_gated_delta_net():
    x = tokens(T=50, dtype=torch.float32)
    x = x._replace(q=3 * x.q, k=5 * x.k, lam=None)
    o, _ = torch_recurrent_gated_delta_rule(*x[:5], None, False, use_qk_l2norm_in_kernel=True)
    assert relative_error(qdelta_rule(*x[:6], l2norm_qk=True)[0], o) <= 2e-6


def test_no_decay_is_a_decay_of_one_and_scale_touches_the_readout_alone():
    x = tokens(T=70)
    o, state = x._replace(g=torch.zeros_like(x.g)).call(qdelta_rule)
    without, same = x._replace(g=None).call(qdelta_rule, scale=2.0)
    assert torch.equal(state, same)
    assert relative_error(without, o * 2.0 * 8**0.5) <= 1e-14


@pytest.mark.parametrize(("lam", "published"), [(0.1, 0.024), (0.289, 0.070), (0.5, 0.12), (1.0, 0.24)])
def test_the_released_form_departs_from_the_recurrence_by_the_published_amount(lam, published):
    """T = 512, K = 128, V = 64, C = 64, unit q and k, g = logsigmoid(N(4, 1)), beta = sigmoid(N(0, 1))."""
    make = torch.Generator().manual_seed(0)
    x = tokens(T=512, H=4, K=128, V=64)
    normal = lambda: torch.randn(x.g.shape, dtype=torch.float64, generator=make)
    x = x._replace(g=logsigmoid(normal() + 4), beta=normal().sigmoid(), lam=torch.full_like(x.g, lam))
    recurrence = qdelta_rule(*x[:6])[0]
    released = chunk_qdelta_rule(*x[:6], intra="released")[0]
    assert relative_error(released, recurrence) == pytest.approx(published, rel=0.06)


def test_the_released_form_agrees_only_without_feedback_or_at_chunks_of_one():
    x = tokens(T=64)
    recurrence = x.call(qdelta_rule)[0]
    released = lambda x, **options: x.call(chunk_qdelta_rule, intra="released", **options)[0]
    assert relative_error(released(x, chunk_size=1), recurrence) <= 1e-12
    without = x._replace(lam=torch.zeros_like(x.lam))
    assert relative_error(released(without), without.call(qdelta_rule)[0]) <= 1e-12
    errors = [relative_error(released(x, chunk_size=C), recurrence) for C in (2, 16, 64)]
    assert min(errors) > 1e-3
    assert len({round(e, 6) for e in errors}) == 3


def test_the_released_form_s_gradient_departs_too():
    x = tokens(T=64)
    ours, theirs = gradients(x, chunk_qdelta_rule), gradients(x, chunk_qdelta_rule, intra="released")
    assert all(relative_error(b, a) > 1e-3 for a, b in zip(ours[:6], theirs[:6], strict=True))


def test_released_is_for_the_chunk_form_only(as_users_call):
    x = tokens()
    with pytest.raises(ValueError, match="intra is 'other'; expected 'recurrence' or 'released'"):
        chunk_qdelta_rule(*x[:6], intra="other")
    with pytest.raises(TypeError):
        qdelta_rule(*x[:6], intra="released")
    assert isinstance(x, Tokens)
