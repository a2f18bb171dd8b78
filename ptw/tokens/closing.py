"""How does a tokenizer of transformers put around every text what stands around it in training?"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ptw.errors import PtwError
from ptw.tokens.pipeline import PROBES
from ptw.tokens.tokenizer import Tokenizer


def closing(tokenizer: Tokenizer) -> Tokenizer:
    """The same ids; and AutoTokenizer, once it is saved, gives of a text those of `text_ids`, and can pad.

    It is the tokenizer itself where that does so already. PtwError where transformers can't be brought to it.
    """
    if _closes(tokenizer.hf, tokenizer) and tokenizer.pad_id is not None:
        return tokenizer
    with TemporaryDirectory(prefix="ptw-") as aside:
        tokenizer.hf.save_pretrained(aside)
        # the class that reads tokenizer.json as it stands: others build what is around a text anew
        hf = PreTrainedTokenizerFast.from_pretrained(aside, local_files_only=True)
        hf.chat_template = tokenizer.hf.chat_template
    if not _closes(hf, tokenizer):
        hf.backend_tokenizer.post_processor = _around(hf, tokenizer)
    if hf.pad_token is None:
        hf.pad_token = hf.eos_token or hf.unk_token or hf.bos_token
    closed = tokenizer.having(hf)
    with TemporaryDirectory(prefix="ptw-") as aside:
        closed.save(Path(aside))
        again = AutoTokenizer.from_pretrained(aside, local_files_only=True)
    if closed.pad_id is None or closed.fingerprint != tokenizer.fingerprint or not _closes(again, tokenizer):
        raise PtwError(
            f"tokenizer {tokenizer.name}: transformers would not give a text the ids that it has in "
            "training, between those that begin and end one; name one with a tokenizer.json, and an eos_token"
        )
    return closed


def _closes(hf: Any, tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer of transformers gives texts the ids that they have in training."""
    return all(list(hf(probe)["input_ids"]) == tokenizer.text_ids(probe) for probe in PROBES)


def _around(hf: Any, tokenizer: Tokenizer) -> Any:
    """What the tokenizer does after its model, where that adds nothing, and then the ids around a text."""
    ends = {
        name: id_ for name, id_ in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id)) if id_ is not None
    }
    tokens = {name: hf.convert_ids_to_tokens(id_) for name, id_ in ends.items()}
    single = [*([tokens["bos"]] if "bos" in ends else []), "$A", *([tokens["eos"]] if "eos" in ends else [])]
    template = processors.TemplateProcessing(
        single=single,
        pair=[*single, *(part.replace("$A", "$B") + ":1" for part in single)],
        special_tokens=[(tokens[name], id_) for name, id_ in ends.items()],
    )
    before = hf.backend_tokenizer.post_processor
    adds = any(tokenizer.encode(probe) != tokenizer.encode(probe, special=True) for probe in PROBES)
    return template if before is None or adds else processors.Sequence([before, template])
