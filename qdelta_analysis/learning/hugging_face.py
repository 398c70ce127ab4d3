"""The language model as transformers knows it: config, generation, checkpoints that AutoModelForCausalLM opens.

Checkpoints hold the names of the authors' released model, so those can be read, and what is written here can be read
there. Importing this module registers the classes; it needs the extra `models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..extras import from_extra
from .configs import LayerConfig, ModelConfig, Rule
from .initial import initial_value
from .layer import LayerState
from .model import LanguageModel, ModelState
from .packing import real_tokens, sequence_starts

with from_extra("models"):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        Cache,
        GenerationMixin,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerFast,
    )
    from transformers import initialization as init
    from transformers.cache_utils import LinearAttentionLayer
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import Concatenate, WeightConverter, WeightRenaming
    from transformers.modeling_outputs import CausalLMOutputWithPast
    from transformers.utils.generic import can_return_tuple

# What the authors' config may say, and the one value of it that this model is.
_ONLY = {"attn": None, "use_gate": True, "use_short_conv": True, "conv_bias": False, "tie_word_embeddings": False}


@no_type_check  # a config takes fields that it does not know
class QDeltaConfig(PreTrainedConfig):
    """The sizes and options of a `QDeltaForCausalLM`, under the names of the authors' released config.

    rule, lam, decay, norm_compensation, chunk_size: as in `LayerConfig`. num_v_heads: value heads, None for
    num_heads. intermediate_size: of the channel mixer; None is 2/3 hidden_ratio hidden_size, rounded up to a multiple
    of 256. initializer_seed: draws the weights of a new model, together with their names.

    Raises ValueError for a size or option that the model does not have.
    """

    model_type = "qdelta"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 32000
    hidden_size: int = 2048
    num_hidden_layers: int = 21
    num_heads: int = 6
    num_v_heads: int | None = None
    head_dim: int = 256
    expand_v: float = 2.0
    conv_size: int = 4
    hidden_ratio: int | None = 4
    intermediate_size: int | None = None
    hidden_act: str = "swish"
    norm_eps: float = 1e-6
    lamb_bias: float = 0.9
    allow_neg_eigval: bool = False
    rule: str = "q-delta"
    lam: float | None = None
    decay: bool | None = None
    norm_compensation: bool = False
    chunk_size: int = 64
    initializer_seed: int = 0
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name, value in _ONLY.items():
            if getattr(self, name, value) != value:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {value!r}, which this model has.")
        if self.hidden_act not in ("swish", "silu"):
            raise ValueError(f"hidden_act is {self.hidden_act!r}; expected 'swish', or 'silu' for the same.")
        self.model_config()

    @property
    def layer_types(self) -> list[str]:
        """What kind of state each layer has in a cache."""
        return ["linear_attention"] * self.num_hidden_layers

    def model_config(self) -> ModelConfig:
        """Return the same as the `ModelConfig` of a `LanguageModel`."""
        value_dim = self.head_dim * self.expand_v
        if value_dim != int(value_dim):
            raise ValueError(f"expand_v is {self.expand_v}; expected one by which head_dim = {self.head_dim} is whole.")
        rule: Any = self.rule  # checked by LayerConfig
        layer = LayerConfig(
            hidden_size=self.hidden_size,
            heads=self.num_heads,
            key_dim=self.head_dim,
            value_dim=int(value_dim),
            conv_width=self.conv_size,
            lam_offset=self.lamb_bias,
            norm_eps=self.norm_eps,
            chunk_size=self.chunk_size,
            rule=rule,
            lam=self.lam,
            decay=self.decay,
            norm_compensation=self.norm_compensation,
            allow_neg_eigval=self.allow_neg_eigval,
            value_heads=self.num_v_heads,
        )
        mlp_size = self.intermediate_size
        if mlp_size is None:
            mlp_size = -(int(self.hidden_size * (self.hidden_ratio or 4) * 2 / 3) // -256) * 256
        return ModelConfig(layer, self.num_hidden_layers, mlp_size, self.vocab_size)

    @classmethod
    def of(cls, config: ModelConfig, **options: Any) -> QDeltaConfig:
        """Return a `ModelConfig` in these terms; options are further fields, such as pad_token_id."""
        layer = config.layer
        rule: Rule = layer.rule
        return cls(
            vocab_size=config.vocabulary,
            hidden_size=layer.hidden_size,
            num_hidden_layers=config.layers,
            num_heads=layer.heads,
            num_v_heads=layer.value_heads,
            head_dim=layer.key_dim,
            expand_v=layer.value_dim / layer.key_dim,
            conv_size=layer.conv_width,
            intermediate_size=config.mlp_size,
            norm_eps=layer.norm_eps,
            lamb_bias=layer.lam_offset,
            allow_neg_eigval=layer.allow_neg_eigval,
            rule=rule,
            lam=layer.lam,
            decay=layer.decay,
            norm_compensation=layer.norm_compensation,
            chunk_size=layer.chunk_size,
            **options,
        )


class QDeltaCache(Cache):
    """What `generate` keeps from token to token: each layer's memory and the tail of its short convolutions.

    Its size does not depend on how many tokens were read.
    """

    def __init__(self, config: QDeltaConfig):
        super().__init__(layers=[LinearAttentionLayer() for _ in range(config.num_hidden_layers)])
        self.seen = 0

    @property
    def is_compileable(self) -> bool:
        """False: its length is a number of Python's."""
        return False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens were read, padding included."""
        return self.seen

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.seen = 0


class QDeltaForCausalLM(PreTrainedModel, GenerationMixin):
    """`LanguageModel` for transformers: save_pretrained, from_pretrained, generate, Trainer.

    `model` is the `LanguageModel` itself; `from_model` wraps one that there is already.
    """

    config: QDeltaConfig
    config_class = QDeltaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 (transformers looks for a list)
    _keep_in_fp32_modules_strict = ["A_log", "dt_bias"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _is_stateful = True  # no part of what was read can be taken back

    def __init__(self, config: QDeltaConfig):
        super().__init__(config)
        self.model = LanguageModel(config.model_config(), seed=None)
        self._module_names = {id(module): name for name, module in self.model.named_modules()}
        self.post_init()

    @classmethod
    def from_model(cls, model: LanguageModel, **options: Any) -> QDeltaForCausalLM:
        """Wrap a model, sharing its weights; options are further fields of the config, such as pad_token_id."""
        with torch.device("meta"):
            wrapped = cls(QDeltaConfig.of(model.config, **{"bos_token_id": None, "eos_token_id": None, **options}))
        wrapped.model = model
        return wrapped.train(model.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        name = self._module_names.get(id(module))
        if name is None:  # made by transformers, for a larger vocabulary
            super()._init_weights(module)
            return
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.is_meta:
                seed, depth = self.config.initializer_seed, self.config.num_hidden_layers
                init.copy_(parameter, initial_value(f"{name}.{leaf}", parameter, seed, depth))

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of tokens."""
        return self.model.embedding

    def set_input_embeddings(self, value: Any) -> None:
        """Put another embedding in its place."""
        self.model.embedding = value

    def get_output_embeddings(self) -> nn.Module:
        """Return the layer that gives the logits."""
        return self.model.head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Put another layer in its place."""
        self.model.head = new_embeddings

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # transformers' own asks for an attention layer that knows the length: forward makes a QDeltaCache

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | Mapping[str, Tensor | None] | None = None,
        position_ids: Int[Tensor, "_ T"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits [B, T, vocab_size], the loss for labels, and the cache, which goes on where this call ended.

        Sequences may be padded anywhere (attention_mask, 0 at padding) or packed, as by transformers'
        DataCollatorWithFlattening: they begin where position_ids is not the one before plus 1, or at cu_seq_lens_q.

        Raises ValueError for no input or two, packed sequences where a cache is asked for, and as `LanguageModel`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids and inputs_embeds are both given or both missing; expected one of them.")
        x = inputs_embeds if input_ids is None else self.model.embed(input_ids)
        assert x is not None
        mask = attention_mask["linear_attention"] if isinstance(attention_mask, Mapping) else attention_mask
        packed = _packed(x, mask, position_ids, kwargs.pop("cu_seq_lens_q", None))
        if packed is not None and (use_cache or past_key_values is not None):
            raise ValueError("packed sequences came where a cache is asked for; expected one sequence in each row.")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and packed is None
        if use_cache and past_key_values is None:
            past_key_values = QDeltaCache(self.config)
        watched: list[Tensor] = []
        watch = watched.append if self._hidden_states_wanted(output_hidden_states) else None
        state = None if past_key_values is None else self._read(past_key_values, x)
        x, state = self.model.hidden(x, mask, packed, state, watch)
        if past_key_values is not None and state is not None:
            _write(past_key_values, state, x.shape[1])
        x = self.model.norm(x)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.head(x[:, kept])
        loss = None if labels is None else self._loss(logits, labels, **kwargs)
        hidden_states: Any = (*watched, x) if watch is not None else None
        return CausalLMOutputWithPast(loss, logits, past_key_values, hidden_states)

    def _loss(
        self, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None, **options: Any
    ) -> Tensor:
        """Return the mean loss of the tokens that are asked for; where none is, 0 with gradients of 0, not 0 / 0."""
        asked = labels[..., 1:] if options.get("shift_labels") is None else options["shift_labels"]
        count = (asked != options.get("ignore_index", -100)).sum() if num_items_in_batch is None else num_items_in_batch
        options["num_items_in_batch"] = torch.as_tensor(count).clamp(min=1)
        return self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **options)

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Go on from a prompt, as transformers does; raises ValueError for a prompt without a token to go on from."""
        embedded = kwargs.get("inputs_embeds")
        prompt = embedded if embedded is not None else kwargs.get("input_ids") if inputs is None else inputs
        if prompt is not None and not prompt.shape[1]:
            raise ValueError(f"the prompt has shape {list(prompt.shape)}; expected at least one token in each row.")
        return super().generate(inputs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] (of the mixin)

    def prepare_inputs_for_generation(
        self, *args: Any, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Return what `forward` takes next; raises ValueError where rows are all padding, given or found so."""
        first = kwargs.get("is_first_iteration")
        if first and attention_mask is not None and not attention_mask.bool().any(-1).all():
            raise ValueError("the prompt has a row that is all padding; expected at least one token in each row.")
        return super().prepare_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue] (of the mixin)
            *args, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )

    def _hidden_states_wanted(self, asked: bool | None) -> bool:
        return bool(self.config.output_hidden_states if asked is None else asked)

    def _read(self, cache: Cache, x: Tensor) -> ModelState:
        """Return the state in the cache, or the one before the first token."""
        if not cache.has_previous_state():
            return self.model.fresh_state(len(x), x)
        found = []
        for number in range(self.config.num_hidden_layers):
            conv, memory = cache.get_conv_state(number), cache.get_recurrent_state(number)
            assert conv is not None
            assert memory is not None
            found.append(LayerState(conv.mT, memory))
        return tuple(found)


def _write(cache: Cache, state: ModelState, tokens: int) -> None:
    for number, layer in enumerate(state):
        cache.update_conv_state(layer.conv.mT, number)
        cache.update_recurrent_state(layer.memory, number)
    if isinstance(cache, QDeltaCache):
        cache.seen += tokens


def _packed(x: Tensor, mask: Tensor | None, positions: Tensor | None, bounds: Tensor | None) -> Tensor | None:
    """Return the bounds of packed sequences, None where every row is one."""
    B, T, _ = x.shape
    if bounds is not None or positions is None or T == 1:
        return bounds
    return sequence_starts(positions.expand(B, T), None if mask is None else real_tokens(mask, B, T))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the byte models: token b is the byte b, of a text in UTF-8; byte 0 is padding."""
    letters = {letter: byte for byte, letter in enumerate(_letters())}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_letters()[0],
        padding_side="left",
        split_special_tokens=True,  # or the letter of byte 0, "Ā", would be padding wherever a text has it
    )


def _letters() -> list[str]:
    """The letters that byte-level tokenizers write for the bytes 0 to 255: printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


AutoConfig.register("qdelta", QDeltaConfig, exist_ok=True)
AutoModelForCausalLM.register(QDeltaConfig, QDeltaForCausalLM, exist_ok=True)
register_checkpoint_conversion_mapping(
    "qdelta",
    [
        WeightRenaming("model.embeddings", "model.embedding"),
        WeightRenaming("model.layers", "model.blocks"),
        WeightRenaming("attn_norm", "mixer_norm"),
        WeightRenaming("attn", "mixer"),
        WeightRenaming("mlp.down_proj", "mlp.down"),
        WeightRenaming("lm_head", "model.head"),
        WeightConverter(["mlp.gate_proj.weight", "mlp.up_proj.weight"], "mlp.gate_up.weight", [Concatenate(dim=0)]),
    ],
    overwrite=True,
)
