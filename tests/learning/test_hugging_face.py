"""The model in transformers: checkpoints, generation, padding, packing, training."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DataCollatorWithFlattening, DynamicCache, GenerationConfig

from qdelta_analysis.data import load_model
from qdelta_analysis.learning import (
    PAPER,
    LanguageModel,
    QDeltaCache,
    QDeltaConfig,
    QDeltaForCausalLM,
    byte_tokenizer,
)
from tests.helpers import relative_error

from .sizes import VARIANTS, model, tokens

CLOSE = 2e-5
SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "head_dim": 8,
    "expand_v": 1.5,
    "intermediate_size": 32,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}
LAYER = ["q_proj", "k_proj", "v_proj", "a_proj", "b_proj", "lamb_proj", "g_proj", "o_proj", "o_norm"]
CONVOLUTIONS = ["q_conv1d", "k_conv1d", "v_conv1d"]


def released_names(layers: int) -> set[str]:
    """The names in the authors' released checkpoints."""
    names = {"model.embeddings.weight", "model.norm.weight", "lm_head.weight"}
    for i in range(layers):
        block = f"model.layers.{i}."
        names |= {f"{block}attn.{name}.weight" for name in (*LAYER, *CONVOLUTIONS)}
        names |= {f"{block}attn.A_log", f"{block}attn.dt_bias"}
        names |= {f"{block}{name}.weight" for name in ("attn_norm", "mlp_norm")}
        names |= {f"{block}mlp.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}
    return names


def hub_model(**options) -> QDeltaForCausalLM:
    return QDeltaForCausalLM(QDeltaConfig(**(SIZES | options))).eval()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_model_is_saved_and_loaded_as_it_is(config, tmp_path):
    original = QDeltaForCausalLM.from_model(model(config, seed=5).eval())
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 10)
    original.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, QDeltaForCausalLM)
    assert not any(report.values()), report
    assert loaded.config.model_config() == original.model.config
    for (name, a), b in zip(original.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    ids = tokens(2, 30)
    assert torch.equal(loaded(ids).logits, original.model(ids))


def test_checkpoints_are_the_released_models_both_ways(tmp_path):
    mine = hub_model()
    mine.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == released_names(2)
    assert stored["model.layers.1.mlp.gate_proj.weight"].shape == (32, 24)
    # As the authors' code writes it: their config, with fields that are theirs alone, and their names.
    theirs = {name: torch.randn(value.shape, generator=torch.Generator().manual_seed(n)) for n, (name, value) in
              enumerate(stored.items())}  # fmt: skip
    save_file(theirs, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"attn_mode": "chunk", "conv_size": 4, "expand_v": 1.5, "fuse_cross_entropy": True, "head_dim": 8,
             "hidden_act": "swish", "hidden_ratio": 4, "hidden_size": 24, "initializer_range": 0.02,
             "intermediate_size": 32, "model_type": "qdelta", "norm_eps": 1e-06, "num_heads": 2, "use_gate": True,
             "num_hidden_layers": 2, "tie_word_embeddings": False, "use_short_conv": True, "lamb_bias": 0.9,
             "vocab_size": 50, "attn": None}
        )
    )  # fmt: skip
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    block = loaded.model.blocks[1]
    assert torch.equal(block.mixer.k_proj.weight, theirs["model.layers.1.attn.k_proj.weight"])
    assert torch.equal(block.mlp.gate_up.weight[32:], theirs["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(loaded.model.head.weight, theirs["lm_head.weight"])


def test_new_models_are_drawn_by_seed_and_name_and_missing_weights_too(tmp_path):
    drawn = hub_model(initializer_seed=3)
    plain = LanguageModel(drawn.config.model_config(), seed=3)
    for (name, a), b in zip(plain.state_dict().items(), drawn.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    drawn.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    missing = ["model.layers.0.attn.A_log", "model.layers.1.attn.lamb_proj.weight", "model.layers.1.mlp_norm.weight"]
    kept = {name: value + 1 for name, value in stored.items() if name not in missing}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = QDeltaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.blocks[0].mixer.A_log, plain.blocks[0].mixer.A_log)
    assert torch.equal(loaded.model.blocks[1].mixer.lamb_proj.weight, plain.blocks[1].mixer.lamb_proj.weight)
    assert torch.equal(loaded.model.blocks[1].mlp_norm.weight, torch.ones(24))
    assert torch.equal(loaded.model.head.weight, plain.head.weight + 1)


@pytest.mark.parametrize("size", PAPER)
def test_the_papers_sizes_are_the_same_in_both_configs(size):
    assert QDeltaConfig.of(PAPER[size]).model_config() == PAPER[size]
    released = {"hidden_size": PAPER[size].layer.hidden_size, "head_dim": PAPER[size].layer.key_dim}
    assert QDeltaConfig(**released).model_config() == PAPER[size]
    with torch.device("meta"):
        hub = QDeltaForCausalLM(QDeltaConfig(**released))
    assert hub.num_parameters() == {"340M": 380_017_148, "1.3B": 1_387_606_780}[size]


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_decoding_is_the_full_forward_pass(config):
    hub, ids = QDeltaForCausalLM.from_model(model(config).eval()), tokens(2, 24)
    full = hub(ids, use_cache=False).logits
    out = hub(ids[:, :17])
    assert isinstance(out.past_key_values, QDeltaCache)
    assert out.past_key_values.get_seq_length() == 17
    assert relative_error(out.logits, full[:, :17]) < CLOSE
    for t in range(17, 24):
        out = hub(ids[:, t : t + 1], past_key_values=out.past_key_values)
        assert relative_error(out.logits[:, 0], full[:, t]) < CLOSE
    assert hub(ids, use_cache=False).past_key_values is None


def test_generation_is_greedy_choice_by_full_passes():
    hub, ids = hub_model(), tokens(3, 9)
    full = ids
    for _ in range(8):
        full = torch.cat([full, hub(full).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(hub.generate(ids, max_new_tokens=8, do_sample=False), full)
    assert torch.equal(hub.generate(ids, max_new_tokens=8, do_sample=False, use_cache=False), full)
    in_chunks = GenerationConfig(max_new_tokens=8, pad_token_id=0, prefill_chunk_size=4)
    chunked = hub.generate(ids, generation_config=in_chunks, past_key_values=QDeltaCache(hub.config))
    assert torch.equal(chunked, full)
    cache = QDeltaCache(hub.config)
    some = hub.generate(ids, max_new_tokens=4, do_sample=False, past_key_values=cache)
    assert torch.equal(hub.generate(some, max_new_tokens=4, do_sample=False, past_key_values=cache), full)
    own = DynamicCache(config=hub.config)  # transformers' own cache serves too, outside generate
    assert torch.equal(hub(ids, past_key_values=own).logits, hub(ids).logits)
    out = hub(full[:, 9:], past_key_values=own)
    assert relative_error(out.logits, hub(full).logits[:, 9:]) < CLOSE
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(hub(ids, past_key_values=cache).logits, hub(ids).logits)


def test_half_precision_goes_on_from_its_cache(tmp_path):
    hub_model().save_pretrained(tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    ids = tokens(2, 20)
    out = half(ids[:, :15])
    assert out.past_key_values.get_recurrent_state(0).dtype == torch.float32
    rest = half(ids[:, 15:], past_key_values=out.past_key_values).logits
    assert relative_error(torch.cat([out.logits, rest], 1), hub_model()(ids).logits) < 0.03
    assert half.generate(ids, max_new_tokens=3, do_sample=False).shape == (2, 23)


def test_beams_take_their_states_along():
    hub, ids = hub_model(), tokens(2, 7)
    found = hub.generate(ids, max_new_tokens=5, num_beams=4, do_sample=False)
    assert torch.equal(found, hub.generate(ids, max_new_tokens=5, num_beams=4, do_sample=False, use_cache=False))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_generate_as_they_do_alone(side):
    hub, lengths = hub_model(), (11, 4, 8)
    prompts = [tokens(n, seed=n) for n in lengths]
    batch, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        at = slice(11 - len(prompt), 11) if side == "left" else slice(0, len(prompt))
        batch[row, at], mask[row, at] = prompt, 1
    alone = [hub(prompt[None]).logits[0] for prompt in prompts]
    out = hub(batch, attention_mask=mask)
    for row, expected in enumerate(alone):
        assert relative_error(out.logits[row, mask[row].bool()], expected) < CLOSE
    # From here on each row goes on from its own last token, on whichever side the padding was.
    after = tokens(3, 2, seed=7)
    more = hub(after, attention_mask=torch.cat([mask, torch.ones_like(after)], 1), past_key_values=out.past_key_values)
    for row, prompt in enumerate(prompts):
        whole = hub(torch.cat([prompt, after[row]])[None]).logits[0, -2:]
        assert relative_error(more.logits[row], whole) < CLOSE
    if side == "left":
        found = hub.generate(batch, attention_mask=mask, max_new_tokens=6, do_sample=False)
        for row, prompt in enumerate(prompts):
            assert torch.equal(
                found[row, 11:], hub.generate(prompt[None], max_new_tokens=6, do_sample=False)[0, len(prompt) :]
            )


@pytest.mark.parametrize("with_bounds", [False, True])
def test_packed_batches_of_the_collator_are_separate_sequences(with_bounds):
    hub = hub_model()
    sequences = [tokens(n, seed=n) for n in (6, 1, 13)]
    features = [{"input_ids": s.tolist(), "labels": s.tolist()} for s in sequences]
    collate = DataCollatorWithFlattening(
        return_flash_attn_kwargs=with_bounds, return_position_ids=not with_bounds, return_tensors="pt"
    )
    out = hub(**collate(features))
    assert relative_error(out.logits, torch.cat([hub(s[None]).logits for s in sequences], 1)) < CLOSE
    assert out.past_key_values is None
    losses = [hub(s[None], labels=s[None]).loss * (len(s) - 1) for s in sequences if len(s) > 1]
    assert out.loss.item() == pytest.approx(sum(loss.item() for loss in losses) / 17, rel=1e-5)


def test_training_with_checkpointing_gives_the_same_gradients():
    hub, ids = hub_model().train(), tokens(2, 40)

    def gradients():
        hub.zero_grad()
        out = hub(ids, labels=ids)
        assert out.past_key_values is None
        out.loss.backward()
        return [p.grad.clone() for p in hub.parameters()]

    plain = gradients()
    hub.activation_checkpointing_enable()
    assert hub.model.gradient_checkpointing
    for found, expected in zip(gradients(), plain, strict=True):
        assert torch.equal(found, expected)
    hub.activation_checkpointing_disable()
    assert not hub.model.gradient_checkpointing


def test_outputs_are_as_in_other_models(tmp_path):
    hub, ids = hub_model(), tokens(2, 10)
    out = hub(ids, output_hidden_states=True, labels=ids)
    assert [h.shape for h in out.hidden_states] == [(2, 10, 24)] * 3
    assert torch.equal(out.hidden_states[0], hub.get_input_embeddings()(ids))
    assert torch.equal(hub.get_output_embeddings()(out.hidden_states[-1]), out.logits)
    embedded = out.hidden_states[0]
    assert torch.equal(hub(inputs_embeds=embedded).logits, out.logits)
    going_on = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(hub.generate(inputs_embeds=embedded, **going_on), hub.generate(ids, **going_on)[:, 10:])
    assert torch.equal(hub(ids, logits_to_keep=3).logits, out.logits[:, -3:])
    assert torch.equal(hub(ids, return_dict=False)[0], out.logits)
    expected = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    hub.resize_token_embeddings(60)
    assert hub(ids + 10).logits.shape == (2, 10, 60)
    hub.save_pretrained(tmp_path)
    assert torch.equal(QDeltaForCausalLM.from_pretrained(tmp_path)(ids).logits, hub(ids).logits)


def test_the_shipped_model_writes_text_through_its_byte_tokenizer(tmp_path):
    plain, tokenizer = load_model(), byte_tokenizer()
    text = "Grüße, €5 😀\n\tand \x00 bytes"
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == len(tokenizer) == 256
    hub = QDeltaForCausalLM.from_model(plain, pad_token_id=tokenizer.pad_token_id)
    assert hub.model is plain
    hub.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    hub = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompts = tokenizer(["The statement", "If the expression is"], padding=True, return_tensors="pt")
    assert prompts["attention_mask"][0].tolist() == [0] * 7 + [1] * 13
    written = tokenizer.batch_decode(hub.generate(**prompts, max_new_tokens=20, do_sample=False)[:, 20:])
    alone = hub.generate(
        tokenizer("The statement", return_tensors="pt")["input_ids"], max_new_tokens=20, do_sample=False
    )
    assert written[0] == tokenizer.decode(alone[0, 13:])
    assert written[0].isprintable()


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rule": "mamba"}, "rule is 'mamba'; expected one of"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True; expected False"),
        ({"use_gate": False}, "use_gate is False; expected True"),
        ({"attn": {"layers": [0]}}, "attn is .*; expected None"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; expected 'swish'"),
        ({"head_dim": 7}, r"expand_v is 1\.5; expected one by which head_dim = 7 is whole"),
        ({"lam": 3.0}, r"lam is 3\.0; expected a number from 0 to 2"),
    ],
)
def test_configs_that_the_model_is_not_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        QDeltaConfig(**(SIZES | settings))


@pytest.mark.usefixtures("as_users_call")
def test_inputs_that_do_not_fit_are_refused():
    hub, ids = hub_model(), tokens(1, 6)
    with pytest.raises(ValueError, match="input_ids and inputs_embeds are both given or both missing"):
        hub()
    packed = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(ValueError, match="packed sequences came where a cache is asked for"):
        hub(ids, position_ids=packed, use_cache=True)
    with pytest.raises(ValueError, match="state is of 1 sequences; expected one for each of the 2"):
        hub(tokens(2, 3), past_key_values=hub(ids).past_key_values)


def test_the_auto_classes_know_the_model():
    assert isinstance(AutoConfig.for_model("qdelta", hidden_size=24), QDeltaConfig)
    assert isinstance(AutoModelForCausalLM.from_config(QDeltaConfig(**SIZES)), QDeltaForCausalLM)
