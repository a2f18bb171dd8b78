"""Is the tokenizer that transformers builds from a folder the one that the folder holds?"""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ptw.errors import PtwError

# digits, spaces, line ends, scripts, emoji, control characters, code, what looks like special tokens
PROBES = (
    "The quick brown fox's 3 tails don't fit in 12345 or 3.14159 boxes, do they?",
    " leading,  double   triple    spaces and trailing ",
    "tab\tline\nblank\n\nreturn\r\nend\n",
    "naïve café Ångström ﬁne \u0301combining",
    "你好,世界。こんにちは 안녕하세요 Привет שלום مرحبا नमस्ते",
    "🙂👩‍👩‍👧‍👦🇩🇪 \u200b\u00a0\ufeff",
    "def f(x):\n    return {'a': [x**2, 0x1F]}  # TODO",
    "<|user|>\nHi<|end|> <|im_start|>system\nBe.<|im_end|> </s> <s>ok <unk> [INST] <think>\n\n</think>",
)


def build(folder: Path, name: str) -> tuple[Any, tuple[str, ...]]:
    """HF's tokenizer of the folder, and what had to be put right: a tokenizer.json in it always wins."""
    if not folder.is_dir():
        raise PtwError(f"tokenizer {name}: {folder} is not a folder; name one that holds a tokenizer")
    auto = _load(AutoTokenizer, folder, name)
    if not (folder / "tokenizer.json").is_file():
        if not auto.is_fast:
            raise PtwError(f"tokenizer {name}: {folder} has no fast tokenizer; save it with a tokenizer.json")
        return auto, ()
    own = _load(PreTrainedTokenizerFast, folder, name)
    difference = _difference(auto, own)
    if difference is None:
        return auto, ()
    if own.chat_template is None:
        own.chat_template = auto.chat_template
    note = f"tokenizer {name}: AutoTokenizer ignores tokenizer.json ({difference}); its own pipeline is used"
    return own, (note,)


def _load(loader: Any, folder: Path, name: str) -> Any:
    try:
        return loader.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise of every kind here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PtwError(
            f"tokenizer {name}: {folder} can't be loaded ({reason}); fetch its tokenizer files again"
        ) from error


def _difference(auto: Any, own: Any) -> str | None:
    """In which probe or part the two differ. Special tokens that only the config adds are no difference."""
    if not auto.is_fast:
        return "it builds a slow tokenizer"
    for probe in PROBES:
        if _ids(auto, probe) != _ids(own, probe):
            return f"other ids for {probe!r}"
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if repr(getattr(auto.backend_tokenizer, part)) != repr(getattr(own.backend_tokenizer, part)):
            return f"another {part}"
    return None if auto.get_vocab() == own.get_vocab() else "another vocabulary"


def _ids(hf: Any, text: str) -> list[int] | None:
    try:
        return list(hf.encode(text, add_special_tokens=False))
    except Exception:  # of the Rust side: words that an item tokenizer doesn't have
        return None
