"""Under autocast every public function finds what it finds outside: it lowers layers, and no instrument."""

import numpy as np
import pytest
import torch

from qdelta_analysis import recall
from qdelta_analysis.learning.linear_attention import linear_attention
from qdelta_kernels import chunk_qdelta_rule, qdelta_rule, qdelta_rule_reference, recurrent_qdelta_rule
from tests.helpers import tokens

from .public_functions import FUNCTIONS, arrays, make


def lowered():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_instrument_measures_the_same(name, as_users_call):
    inputs = make(torch.float32, T=30, K=8, V=8)
    expected = arrays(FUNCTIONS[name](inputs))
    with lowered():
        found = arrays(FUNCTIONS[name](inputs))
    for variable, x in expected.items():
        np.testing.assert_array_equal(found[variable], x, err_msg=variable)


def test_recall_measures_the_same():
    expected = recall.measure(pairs=8, d=16, seeds=2)
    with lowered():
        found = recall.measure(pairs=8, d=16, seeds=2)
    np.testing.assert_array_equal(found.error, expected.error)


@pytest.mark.parametrize("rule", [qdelta_rule, chunk_qdelta_rule, recurrent_qdelta_rule, qdelta_rule_reference])
@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
def test_the_memory_of_tokens_in_half_precision_is_summed_in_float32(rule, backend, as_users_call):
    if backend != "auto" and rule is not qdelta_rule:
        pytest.skip("one backend")
    x = tokens(T=20, K=8, V=8).to(torch.bfloat16)
    options = {} if backend == "auto" else {"backend": backend}
    expected = x.call(rule, **options)
    with lowered():
        found = x.call(rule, **options)
    assert all(map(torch.equal, found, expected))


def test_so_are_its_gradients(as_users_call):
    x = tokens(T=20, K=8, V=8).to(torch.float32).requiring_grad()
    for rule in (chunk_qdelta_rule, recurrent_qdelta_rule):
        expected = torch.autograd.grad(x.call(rule)[0].square().sum(), x)
        with lowered():
            loss = x.call(rule)[0].square().sum()
        for y, z in zip(torch.autograd.grad(loss, x), expected, strict=True):
            assert torch.equal(y, z)
    with lowered():  # the backward pass too
        found = torch.autograd.grad(x.call(chunk_qdelta_rule)[0].square().sum(), x)
    assert all(map(torch.equal, found, torch.autograd.grad(x.call(chunk_qdelta_rule)[0].square().sum(), x)))


def test_linear_attention_sums_the_same(as_users_call):
    x = tokens(T=20, K=8, V=8).to(torch.float32)
    expected = linear_attention(x.q, x.k, x.v, x.g, output_final_state=True)
    with lowered():
        found = linear_attention(x.q, x.k, x.v, x.g, output_final_state=True)
    assert all(map(torch.equal, found, expected))
