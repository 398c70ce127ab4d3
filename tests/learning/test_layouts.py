"""However sequences are laid out in rows and calls, each gets what it gets alone, in float64."""

import random
from dataclasses import replace

import pytest
import torch

from tests.helpers import cases, relative_error

from .layouts import LAYOUTS, alone, sequences
from .sizes import VARIANTS, model

NAMES = ["q-delta", "deltanet", "linear-attention, decay", "q-delta, grouped", "q-delta, no convolution"]
VOCABULARY = 20


def together(logits):
    """A number of all logits, in which no two have the same weight."""
    whole = torch.cat(logits).flatten()
    return (whole * torch.arange(1, len(whole) + 1).to(whole).cos()).sum()


@pytest.mark.cases
@pytest.mark.parametrize("name", NAMES)
def test_every_layout_gives_what_each_sequence_gives_alone(name):
    net = model(replace(VARIANTS[name], chunk_size=4), vocabulary=VOCABULARY).double()
    for case in range(cases(24)):
        rng = random.Random(case)
        given = sequences(rng, VOCABULARY)
        layout = LAYOUTS[case % len(LAYOUTS)]
        differentiated = case % 4 == 0 and any(map(len, given))
        with torch.set_grad_enabled(differentiated):
            expected, found = alone(net, given), layout(net, rng, given)
        for ours, reference in zip(found, expected, strict=True):
            assert relative_error(ours, reference) < 1e-10, (case, layout.__name__)
        if differentiated:
            slopes = (torch.autograd.grad(together(y), list(net.parameters())) for y in (found, expected))
            for ours, reference in zip(*slopes, strict=True):
                assert relative_error(ours, reference) < 1e-9, (case, layout.__name__)
