"""How does a model go on from a prompt?"""

import torch

from ptw.errors import PtwError
from ptw.nn.decode import generate
from ptw.runs.open import Opened, demand_words
from ptw.tokens.tokenizer import Tokenizer


def answer(opened: Opened, prompt: str, max_new_tokens: int, temperature: float, seed: int = 0) -> str:
    """The text that follows. A model taught on chats answers the prompt as a user's turn."""
    demand_words(opened)
    tokenizer = opened.tokenizer
    if tokenizer is None:
        raise PtwError(f"{opened.name}: no tokenizer is known for it; name a run, or add one to its folder")
    ids = prompt_ids(opened, tokenizer, prompt)
    with torch.inference_mode():
        new = generate(
            opened.loaded.module,
            [ids],
            max_new_tokens,
            stop_ids=tokenizer.stop_ids,
            temperature=temperature,
            seed=seed,
            allowed_ids=tokenizer.answer_ids,
        )[0]
    ended = bool(new) and new[-1] in tokenizer.stop_ids
    return tokenizer.items.named(tokenizer.decode(new[:-1] if ended else new))


def prompt_ids(opened: Opened, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt as the model's training had them; items in it by their names. PtwError: none."""
    prompt = tokenizer.items.spelt(prompt)
    if tokenizer.hf.chat_template if opened.chats is None else opened.chats:
        return tokenizer.chat([{"role": "user", "content": prompt}], prompt=True)
    try:
        ids = tokenizer.encode(prompt, special=True)
    except PtwError as error:
        hint = "`ptw recommend` asks it by items, or by --member"
        raise PtwError(f"{opened.name} has no words for a prompt: {error}; {hint}") from error
    if tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids = [tokenizer.bos_id, *ids]  # as every text and every sequence of events began in training
    if not ids:
        raise PtwError("the prompt is empty: nothing to go on from")
    return ids
