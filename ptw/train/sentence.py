"""What stands beside a model, so that sentence-transformers and its like give the vectors of the run?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptw.runs.open import SENTENCE_MODULES
from ptw.train.plan import Plan

# the names by which all of its versions know them, and vLLM
MODULES = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "last",
}
SIDES = {"query": "query_prompt", "document": "document_prompt"}  # its encode_query and encode_document


def write(folder: Path, pooling: str, width: int, longest: int, prompts: Mapping[str, str]) -> None:
    """Its files, into a folder that holds a model and its tokenizer. longest: tokens of a text."""
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (path, name) in enumerate(MODULES.items())
    ]
    how = {
        "word_embedding_dimension": width,
        **{key: mode == pooling for key, mode in POOLING.items()},
        "include_prompt": True,
    }
    about = {"prompts": dict(prompts), "default_prompt_name": None, "similarity_fn_name": "cosine"}
    _write(folder / SENTENCE_MODULES, modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", about)
    _write(folder / "1_Pooling" / "config.json", how)
    _write(folder / "2_Normalize" / "config.json", {})


def prompts_of(plan: Plan) -> dict[str, str]:
    """What stands before queries and documents; where the parts of a mix differ, by their names as well."""
    parts = [share.dataset for share in plan.datasets[plan.dataset].parts]
    found = {}
    for side, key in SIDES.items():
        prompts = {part.name: str(getattr(part, key)) for part in parts}
        if len(set(prompts.values())) == 1:
            found[side] = getattr(parts[0], key)
        else:
            found |= {f"{side}-{name}": prompt for name, prompt in prompts.items()}
    return found


def _write(file: Path, values: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
