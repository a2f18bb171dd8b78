"""How does a port read HF's config.json? What it does not implement is refused by name, never ignored."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from ptw.errors import PtwError

T = TypeVar("T")

# what HF's base class stores in every config.json and what no decoder's forward pass reads
INERT = frozenset(
    {
        "_attn_implementation_autoset",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "id2label",
        "initializer_range",
        "is_llama_config",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "use_bfloat16",
        "use_cache",
    }
)
# rates of dropout: ptw trains without, whatever a checkpoint says
DROPOUT = re.compile(r"(\w+_)?(dropout|pdrop|dropout_prob|dropout_rate)")
ABSENT: dict[str, Any] = {
    "is_decoder": False,
    "is_encoder_decoder": False,
    "rope_interleaved": False,
}


def read_config(
    config_class: type[T],
    values: Mapping[str, Any],
    *,
    derived: Mapping[str, Any],
    choices: Mapping[str, Collection[Any]],
    consumed: Collection[str] = (),
) -> T:
    """A port's frozen Config from a config.json's values.

    `derived` gives fields that are made of several keys, which `consumed` names. `choices` says which values
    of a key the port implements, also for keys that are no field or inert. Any other key must be a field,
    inert or a rate of dropout, which is never applied.
    PtwError names each key that is none of these. Whole numbers are sizes, from 1 on, unless the field is
    an id or 0 by default.
    """
    assert dataclasses.is_dataclass(config_class)
    names = {field.name for field in dataclasses.fields(config_class)}
    allowed = {**{key: (value,) for key, value in ABSENT.items()}, **choices}
    for key, value in values.items():
        if key in allowed and value not in allowed[key]:
            shown = ", ".join(map(repr, allowed[key]))
            raise PtwError(
                f"config.json: {key} = {value!r} is not implemented by this port; it takes {shown}"
            )
        if key not in names and key not in allowed and not _is_inert(key) and key not in consumed:
            raise PtwError(
                f"config.json: key {key!r} (= {value!r}) is not implemented by this port; "
                '`port = "hf"` in workspace.toml takes Hugging Face\'s own class instead'
            )
    taken = {key: _frozen(values[key]) for key in names & set(values) if key not in derived}
    fields = {**taken, **derived}
    for field in dataclasses.fields(config_class):
        least = 0 if field.name.endswith("_token_id") or field.default == 0 else 1
        if field.name in fields and (expected := _fault(fields[field.name], str(field.type), least)):
            raise PtwError(f"config.json: {field.name} = {fields[field.name]!r}: it must be {expected}")
    heads, keys = fields.get("num_attention_heads"), fields.get("num_key_value_heads")
    if heads and keys and heads % keys:
        raise PtwError(
            f"config.json: num_attention_heads = {heads} is no multiple of num_key_value_heads = {keys}"
        )
    return config_class(**fields)


def _is_inert(key: str) -> bool:
    return key in INERT or DROPOUT.fullmatch(key) is not None


def padding_id(pad_token_id: int | None, vocabulary: int) -> int | None:
    """The token whose embedding learns nothing, in families that have one; -1 is the last id."""
    return pad_token_id if pad_token_id is None or pad_token_id >= 0 else vocabulary + pad_token_id


def _fault(value: Any, annotation: str, least: int) -> str | None:
    """What a field of this annotation must be, where the value isn't."""
    kinds = annotation.split(" | ")
    if value is None and "None" in kinds:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kinds[0] == "int" and not (is_number and isinstance(value, int) and value >= least):
        return f"an integer from {least} on"
    if kinds[0] == "float" and not is_number:
        return "a number"
    if kinds[0] == "bool" and not isinstance(value, bool):
        return "true or false"
    return None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
