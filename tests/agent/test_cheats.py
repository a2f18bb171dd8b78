"""An LLM that cheats, through the endpoint, against the real gate: none of its ports gets in.

One attack of each kind; with PTW_ATTACKS=all in the environment all of them, which takes half an hour.
"""

import os
from pathlib import Path

import pytest

from ptw.agent import judging, prompt
from ptw.agent.conversation import Conversation
from ptw.agent.desk import TOOLS, Desk
from ptw.agent.judging import Verdict
from ptw.agent.llm import Llm, Price
from ptw.agent.loop import Limits, Loop, Stopped, keep_draft
from tests.agent.conftest import Endpoint, reply
from tests.verify import test_attacks as attacks

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("REFERENCE", "FILES", "BY_C", "HIDDEN", "SPECIAL", "SPOILT", "STATIC_ONLY")
ONE_OF_EACH = [next(iter(getattr(attacks, group))) for group in GROUPS]
EVERY = [name for name in attacks.ATTACKS if name not in attacks.HARMLESS]
PLAYED = EVERY if os.environ.get("PTW_ATTACKS") == "all" else ONE_OF_EACH


def hostile(names: list[str]) -> list[str]:
    port = (ROOT / "models" / "llama.py").read_text()
    return [attacks.ATTACKS[name].text(port) for name in names]


@pytest.mark.slow
@pytest.mark.timeout(600 * len(PLAYED))
def test_no_attack_gets_a_port_in(workspace: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    def accept(text: str) -> Verdict:
        return judging.accept(workspace, "llama", text, {})

    desk = Desk("llama", workspace, (), accept, len(PLAYED))
    talk = Conversation(tmp_path)
    first = prompt.messages(desk.name, "llama", "", ())
    desk.file.parent.mkdir()
    digests = prompt.digests(first, [tool.schema for tool in TOOLS])
    talk.append("prompt", messages=first, digests=digests, draft=keep_draft(talk, desk))
    texts = hostile(PLAYED)
    endpoint.says(
        [
            answer
            for text in texts
            for answer in (reply("", ("write", {"text": text})), reply("", ("submit", {})))
        ]
    )
    limits = Limits(100.0, 2 * len(texts), 10.0 * len(texts))
    llm = Llm("openai/by-hand", Price(0.0, 0.0, 0.0), endpoint.url)
    with pytest.raises(Stopped, match="max_steps"):
        Loop(talk, desk, llm, limits, lambda entry: None).run()
    submitted = [entry["stable"] for entry in talk.of("result") if entry["name"] == "submit"]
    assert len(submitted) == len(texts)
    for name, stable in zip(PLAYED, submitted, strict=True):
        assert stable.startswith(("not submitted: practice failed", "rejected")), name
