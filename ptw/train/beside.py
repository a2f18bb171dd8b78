"""What stands beside a model's weights, so that others give it the ids that it learnt from?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ptw.errors import PtwError
from ptw.ports.scores import scores_in
from ptw.tokens.closing import closing
from ptw.tokens.tokenizer import Tokenizer
from ptw.train import sentence

if TYPE_CHECKING:
    from ptw.train.weights import Holder


def write(run: Holder, folder: Path) -> str | None:
    """The tokenizer, and of words the ids that end an answer, of vectors their pooling.

    What comes back is worth a word.
    """
    module, tokenizer = run.loaded.module, run.tokenizer
    if run.pooling is not None:
        closing(tokenizer).save(folder)
        width = module.head().weight_VD.shape[1]  # type: ignore[operator]
        sentence.write(folder, run.pooling, width, run.settings.window, sentence.prompts_of(run.plan))
    elif scores_in(module) is not None:
        return _write_closing(tokenizer, folder)
    else:
        tokenizer.save(folder)
        _write_generation_config(tokenizer, folder)
    return None


def _write_closing(tokenizer: Tokenizer, folder: Path) -> str | None:
    """One that puts around a text what stood there in training; of chats the template does all of it."""
    try:
        closing(tokenizer).save(folder)
    except PtwError as error:
        tokenizer.save(folder)
        return f"{error}; chats are as they were in training"
    return None


def _write_generation_config(tokenizer: Tokenizer, folder: Path) -> None:
    """Where transformers and vLLM look for the ids that end an answer: a turn ends before the text does."""
    ids = {"bos": tokenizer.bos_id, "pad": tokenizer.pad_id, "eos": sorted(tokenizer.stop_ids) or None}
    values = {f"{name}_token_id": value for name, value in ids.items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
