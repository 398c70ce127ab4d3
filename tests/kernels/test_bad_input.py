"""Bad input gets one sentence that names the argument, what came and what was expected."""

import pytest
import torch

from qdelta_kernels import chunk_qdelta_rule, qdelta_rule, qdelta_rule_reference, recurrent_qdelta_rule
from tests.helpers import tokens

X = tokens(T=12, H=2, HV=4, K=8, V=6)
NAN = X.g.clone()
NAN[0, 3, 1] = float("nan")
INFINITE = X.v.clone()
INFINITE[0, 0, 0, 0] = float("inf")

CASES = {
    "no tensor": ({"q": [1.0]}, TypeError, r"q is a list; expected a torch.Tensor"),
    "integers": ({"v": X.v.long()}, TypeError, r"v has dtype torch.int64; expected float16, bfloat16"),
    "two dtypes": ({"k": X.k.float()}, ValueError, r"k has dtype torch.float32; expected torch.float64"),
    "device": ({"beta": X.beta.to("meta")}, ValueError, r"beta is on device meta; expected cpu, where q is"),
    "three axes": ({"q": X.q[0]}, ValueError, r"q has shape \[12, 2, 8\]; expected four axes \[B, T, H, K\]"),
    "k unlike q": (
        {"k": X.k[:, :5]},
        ValueError,
        r"k has shape \[1, 5, 2, 8\]; expected \[1, 12, 2, 8\], the shape of q",
    ),
    "v shorter": (
        {"v": X.v[:, :5]},
        ValueError,
        r"v has shape \[1, 5, 4, 6\]; expected \[B, T, HV, V\] with B",
    ),
    "no heads": ({"q": X.q[:, :, :0], "k": X.k[:, :, :0]}, ValueError, r"expected every axis but T to be at least 1"),
    "heads": ({"v": X.v[:, :, :3]}, ValueError, r"v has 3 heads; expected a multiple of the 2 heads of q and k"),
    "gate heads": ({"g": X.g[:, :, :2]}, ValueError, r"g has shape \[1, 12, 2\]; expected \[B, T, HV\] = \[1, 12, 4\]"),
    "gate missing": ({"beta": None}, TypeError, r"beta is a NoneType; expected a torch.Tensor"),
    "NaN": ({"g": NAN}, ValueError, r"g holds nan at index \[0, 3, 1\]; expected finite values only"),
    "infinite": ({"v": INFINITE}, ValueError, r"v holds inf at index \[0, 0, 0, 0\]; expected finite"),
    "state": ({"initial_state": X.state[:, :, :5]}, ValueError, r"initial_state has shape \[1, 4, 5, 6\]; expected"),
    "scale": ({"scale": float("nan")}, ValueError, r"scale is nan; expected a finite number"),
    "bounds float": (
        {"cu_seqlens": torch.tensor([0.0, 12.0])},
        TypeError,
        r"cu_seqlens is torch.float32",
    ),
    "bounds fall": (
        {"cu_seqlens": torch.tensor([0, 9, 5, 12])},
        ValueError,
        r"\[0, 9, 5, 12\]; expected asc",
    ),
    "bounds end": ({"cu_seqlens": torch.tensor([0, 9])}, ValueError, r"cu_seqlens is \[0, 9\]; .* ends at T = 12"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("function", [qdelta_rule, chunk_qdelta_rule, recurrent_qdelta_rule, qdelta_rule_reference])
def test_one_sentence(case, function, as_users_call):
    changes, error, sentence = CASES[case]
    arguments = {**X._asdict(), **changes}
    arguments.setdefault("initial_state", arguments.pop("state"))
    arguments.pop("state", None)
    with pytest.raises(error, match=sentence) as caught:
        function(**arguments)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_packed_sequences_need_one_row(as_users_call):
    x = tokens(B=2, T=6)
    with pytest.raises(ValueError, match="q has B = 2; expected B = 1 with cu_seqlens"):
        qdelta_rule(*x[:6], cu_seqlens=torch.tensor([0, 6]))


@pytest.mark.parametrize("chunk_size", [0, -64, 64.0])
def test_chunk_size(chunk_size, as_users_call):
    with pytest.raises(ValueError, match=f"chunk_size is {chunk_size}; expected a whole number of at least 1"):
        qdelta_rule(*X[:6], chunk_size=chunk_size)


def test_backend(as_users_call):
    with pytest.raises(ValueError, match="backend is 'cuda'; expected one of 'auto', 'reference', 'torch', 'triton'"):
        qdelta_rule(*X[:6], backend="cuda")
    with pytest.raises(ValueError, match="backend is 'cuda'"):
        qdelta_rule(*X[:6], backend="cuda")


def test_a_sum_that_overflows_is_no_bad_value():
    x = tokens(T=12, dtype=torch.float32)
    assert torch.isfinite(qdelta_rule(x.q, x.k, x.v * 1e37, x.g, x.beta * 0, x.lam)[0]).all()
