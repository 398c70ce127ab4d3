"""The configs: the paper's ablation, its two models, and settings that there are not."""

import json
from dataclasses import asdict

import pytest
import torch

from qdelta_analysis.learning import PAPER, LanguageModel, LayerConfig, ModelConfig, QDeltaLayer, ablation

from .sizes import BASE, VARIANTS

# The parameters of the authors' released layer, its norm's and convolutions' weights by their own names.
RELEASED = {
    "q_proj.weight", "k_proj.weight", "v_proj.weight", "a_proj.weight", "b_proj.weight", "lamb_proj.weight",
    "A_log", "dt_bias", "q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight", "g_proj.weight", "o_norm.weight",
    "o_proj.weight",
}  # fmt: skip
DECAY = {"a_proj.weight", "A_log", "dt_bias"}
ABSENT = {
    "linear-attention": DECAY | {"b_proj.weight", "lamb_proj.weight"},
    "deltanet": DECAY | {"lamb_proj.weight"},
    "gated-deltanet": {"lamb_proj.weight"},
    "q-delta": set(),
    "q-delta, lam = 0.2": {"lamb_proj.weight"},
    "q-delta, lam = 0.5": {"lamb_proj.weight"},
    "q-delta, lam = 0.8": {"lamb_proj.weight"},
    "q-delta, lam = 1": {"lamb_proj.weight"},
    "q-delta, no decay": DECAY,
    "q-delta, norm-compensated": set(),
}


def layer_parameters(D: int, H: int, K: int, V: int, width: int) -> int:
    """Count the released layer's parameters, matrix by matrix."""
    projections = 2 * D * H * K + 3 * D * H * V  # q, k; v, g, o
    gates = 3 * D * H + 2 * H  # a, b, lamb; A_log, dt_bias
    return projections + gates + width * (2 * H * K + H * V) + V


def test_the_ablation_has_the_papers_rows_and_the_released_parameters():
    configs = ablation(BASE)
    assert set(configs) == set(ABSENT)
    for name, config in configs.items():
        found = {name for name, _ in QDeltaLayer(config).named_parameters()}
        assert found == RELEASED - ABSENT[name], name
    assert [configs[f"q-delta, lam = {lam}"].lam for lam in ("0.2", "0.5", "0.8", "1")] == [0.2, 0.5, 0.8, 1.0]


def test_rules_that_share_a_parameter_start_from_the_same_value():
    whole = dict(QDeltaLayer(BASE, seed=4).named_parameters())
    for config in ablation(BASE).values():
        for name, value in QDeltaLayer(config, seed=4).named_parameters():
            assert torch.equal(value, whole[name]), name


@pytest.mark.parametrize(
    ("name", "D", "K", "mlp", "total"),
    [("340M", 1024, 128, 2816, 380_017_148), ("1.3B", 2048, 256, 5632, 1_387_606_780)],
)
def test_the_papers_models_have_their_parameters(name, D, K, mlp, total):
    with torch.device("meta"):
        model = LanguageModel(PAPER[name])
    layer = layer_parameters(D, 6, K, 2 * K, 4)
    assert sum(p.numel() for p in model.mixer_blocks()[0].mixer.parameters()) == layer
    block = layer + 3 * D * mlp + 2 * D
    assert sum(p.numel() for p in model.parameters()) == 21 * block + 2 * 32000 * D + D == total
    assert next(model.parameters()).is_meta
    mixer = layer / D**2
    assert 6 <= mixer < 6.1  # "about 6 hidden_size^2", as the authors' layer says of itself


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_configs_survive_json(config):
    whole = ModelConfig(config, layers=2, mlp_size=8, vocabulary=10)
    stored = json.loads(json.dumps(asdict(whole)))
    assert ModelConfig(**{**stored, "layer": LayerConfig(**stored["layer"])}) == whole


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rule": "mamba"}, "rule is 'mamba'; expected one of 'q-delta', .*'linear-attention'"),
        ({"key_dim": 0}, "key_dim is 0; expected a whole number of at least 1"),
        ({"heads": 2.0}, r"heads is 2\.0; expected a whole number"),
        ({"lam": 2.5}, r"lam is 2\.5; expected a number from 0 to 2"),
        ({"lam": "learned"}, "lam is 'learned'; expected a number"),
        ({"rule": "deltanet", "lam": 0.5}, r"lam is 0\.5; expected none with rule 'deltanet', only 'q-delta'"),
        ({"rule": "gated-deltanet", "norm_compensation": True}, "norm_compensation is True; expected none"),
        ({"rule": "gated-deltanet", "decay": False}, "decay is False .*; expected rule 'deltanet' for that"),
        ({"rule": "deltanet", "decay": True}, "decay is True .*; expected rule 'gated-deltanet' for that"),
        ({"rule": "linear-attention", "allow_neg_eigval": True}, "allow_neg_eigval is True; expected False"),
        ({"norm_compensation": True, "key_dim": 1}, "key_dim is 1; expected at least 2 with norm_compensation"),
        ({"value_heads": 6}, "value_heads is 6; expected a multiple of heads = 4"),
    ],
)
def test_settings_that_there_are_not_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        LayerConfig(**settings)


@pytest.mark.usefixtures("as_users_call")
def test_a_model_of_no_layers_is_refused():
    with pytest.raises(ValueError, match="layers is 0; expected a whole number of at least 1"):
        ModelConfig(layers=0)
