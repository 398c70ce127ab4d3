"""What a trace says of norms, when a large memory is erased and when squares leave the range of the dtype."""

import pytest
import torch

from qdelta_kernels import chunk_qdelta_diagnostics, recurrent_qdelta_rule
from tests.helpers import Tokens, tokens

NORMS = ("error_before", "error_after", "key_retrieval", "query_prediction", "state_norm")
SCALES = [1e-30, 1e-10, 1.0, 1e4, 1e8, 1e19, 1e25, 1e37]


def erased(scale: float, dtype, T=24) -> Tokens:
    """A memory of this size that the first four tokens erase; what they and the others write is of size 1."""
    x = tokens(B=2, T=T, H=1, HV=2, K=4, V=3)
    k, beta = x.k.clone(), x.beta.clone()
    k[:, :4, 0], beta[:, :4] = torch.eye(4, dtype=torch.float64), 1.0
    return x._replace(k=k, beta=beta, lam=0 * x.lam, state=scale * x.state).to(dtype)


def followed(x: Tokens, **options):
    return chunk_qdelta_diagnostics(*x[:6], initial_state=x.state, **options)


def length(x):
    """In float64, in units of the largest entry."""
    x = x.double()
    most = x.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    return (x / most).square().sum(-1).sqrt() * most[..., 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [*SCALES, 1e100, 1e200, 1e300])
def test_the_norm_is_that_of_the_state(scale, dtype):
    if scale > 1e38 and dtype == torch.float32:
        pytest.skip("no float32")
    x = erased(scale, dtype)
    found = followed(x, at=range(24))
    assert relative(found.state_norm, length(found.states.flatten(-2))) <= 20 * torch.finfo(dtype).eps
    for name in NORMS:
        assert torch.isfinite(getattr(found, name)).all(), name
    assert (found.cosine.abs() <= 1).all()


def relative(found, expected) -> float:
    return ((found.double() - expected) / expected.clamp(min=1e-300)).abs().max().item()


def test_a_memory_of_ten_thousand_is_erased_by_its_first_token():
    x = tokens(T=4, H=1, K=1, V=1).to(torch.float32)
    ones = torch.ones_like(x.g)
    x = x._replace(k=torch.ones_like(x.k), q=0 * x.q, g=0 * ones, beta=ones, lam=0 * ones)
    found = followed(x._replace(state=torch.full_like(x.state, 1e4)), at=range(4))
    assert relative(found.state_norm, found.states.double().abs()[..., 0, 0]) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e25, 1e-120, 1e180])
def test_everything_scales_with_the_values(scale, dtype):
    if not 1e-38 < scale < 1e38 and dtype == torch.float32:
        pytest.skip("no float32")
    x = tokens(T=30, H=1, HV=2, K=4, V=3).to(dtype)
    once, scaled = followed(x), followed(x._replace(v=scale * x.v, state=scale * x.state))
    for name in NORMS:
        assert relative(getattr(scaled, name), scale * getattr(once, name).double()) <= 1e3 * torch.finfo(dtype).eps
    assert (scaled.cosine - once.cosine).abs().max() <= 1e3 * torch.finfo(dtype).eps


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="in Triton's interpreter")
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e25])
def test_the_kernels_follow_a_fallen_norm_token_by_token(scale):
    """As the recurrence does in the same float32: what is erased exactly leaves nothing behind."""
    pytest.importorskip("triton")
    x = erased(scale, torch.float32)
    state, states = x.state, []
    for t in range(24):
        _, state = Tokens(*(y[:, t : t + 1] for y in x[:6]), state).call(recurrent_qdelta_rule)
        states.append(state)
    assert relative(followed(x, backend="triton").state_norm, length(torch.stack(states, 1).flatten(-2))) <= 1e-5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="in Triton's interpreter")
@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_everything_the_kernels_say_scales_with_the_values(scale):
    pytest.importorskip("triton")
    x = tokens(T=20, H=1, K=16, V=20).to(torch.float32)
    options = {"backend": "triton"}
    once, scaled = followed(x, **options), followed(x._replace(v=scale * x.v, state=scale * x.state), **options)
    for name in NORMS:
        assert relative(getattr(scaled, name), scale * getattr(once, name).double()) <= 1e-5, name
    assert (scaled.cosine - once.cosine).abs().max() <= 1e-5
