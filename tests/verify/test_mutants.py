"""The bank of mutants is large, stable and wrong, and a gate that is loosened is caught by it."""

import ast
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ptw.cli import run
from ptw.errors import PtwError
from ptw.verify import cases
from ptw.verify.cases import Reference
from ptw.verify.judge import Verifier, read_verifiers
from ptw.verify.mutants import mutate, runs
from ptw.verify.mutants.mutate import made
from ptw.verify.mutants.mutation import Mutant, families, mutants_of
from ptw.verify.mutants.report import Fate, Kill, MutantReport
from ptw.verify.mutants.runs import Runner
from ptw.workspace import rooms

ROOT = Path(__file__).resolve().parents[2]
PORTS = rooms.python_files(rooms.stock("models"))
WANTED = 400


@pytest.fixture(scope="module")
def bank() -> dict[str, list[Mutant]]:
    return {port: made(port, file.read_text()) for port, file in PORTS.items()}


@pytest.mark.slow  # the mutants of all seven ports
def test_there_are_enough_and_none_twice(bank: dict[str, list[Mutant]]) -> None:
    mutants = [mutant for found in bank.values() for mutant in found]
    assert len(mutants) >= WANTED
    assert (
        len({mutant.name for mutant in mutants}) == len({mutant.text for mutant in mutants}) == len(mutants)
    )


@pytest.mark.slow
def test_each_parses_and_is_not_the_port(bank: dict[str, list[Mutant]]) -> None:
    for port, found in bank.items():
        own = ast.dump(ast.parse(PORTS[port].read_text()))
        assert all(ast.dump(ast.parse(mutant.text)) != own for mutant in found)


@pytest.mark.slow
def test_every_family_is_drawn_from(bank: dict[str, list[Mutant]]) -> None:
    drawn = Counter(mutant.kind for found in bank.values() for mutant in found)
    assert set(drawn) == set(families())


def test_a_mutant_keeps_its_name_when_the_port_grows_elsewhere(of_llama: list[Mutant]) -> None:
    text = PORTS["llama"].read_text()
    grown = text.replace("class MLP(nn.Module):\n", "WIDTH = 7\n\n\nclass MLP(nn.Module):\n")
    assert {mutant.name for mutant in of_llama} <= {mutant.name for mutant in mutants_of("llama", grown)}


# what each family must be able to make of a line, written out
MADE = {
    "swap": ("attend(query_BTNH, key_BTKH,", "attend(key_BTKH, query_BTNH,"),
    "drop": ("hidden_BTD + self.self_attn", "hidden_BTD = self.self_attn("),
    "shift": ("attended.flatten(2)", "attended.flatten((3))"),
    "scale": ("self.head_dim**-0.5", "1.01 * (self.head_dim**-0.5)"),
    "sign": ("hidden_BTD + self.mlp", ") - (self.mlp"),
    "dtype": ("self.norm(hidden_BTD)", "(self.norm(hidden_BTD)).bfloat16()"),
    "axis": ("attended.flatten(2)", "attended.flatten(1)"),
    "field": ("RMSNorm(config.hidden_size,", "RMSNorm(config.vocab_size,"),
    "condition": ("if config.tie_word_embeddings:", "if (not config.tie_word_embeddings):"),
    "constant": ("ACTIVATIONS[config.hidden_act]", 'ACTIVATIONS["silu"]'),
    "gradient": ("self.down_proj(", ".detach()"),
    "default": ('hidden_act: str = "silu"', 'hidden_act: str = "relu"'),
    "weightmap": ("Tied(head, embedding) if config", "PadVocabulary(head, config.vocab_size) if config"),
    "order": (
        "self.mlp(self.post_attention_layernorm(",
        "self.post_attention_layernorm(self.mlp(hidden_BTD))",
    ),
    "function": ("RMSNorm(config.hidden_size, config.rms_norm_eps)", "CentredRMSNorm(config.hidden_size"),
    "layout": ("return self.model(ids_BT, layout, cache)", "positions_BT=layout.positions_BT + 1"),
    "head": ("Head(self.lm_head.weight, self.config.vocab_size)", "self.lm_head.weight * 1.01"),
    "structural": ("class Config:", "class RopeConfig(RopeConfig):"),
}


@pytest.fixture(scope="module")
def of_llama() -> list[Mutant]:
    return mutants_of("llama", PORTS["llama"].read_text())


@pytest.mark.parametrize("kind", MADE)
def test_a_family_makes_its_mistake(kind: str, of_llama: list[Mutant]) -> None:
    before, after = MADE[kind]
    text = PORTS["llama"].read_text()
    found = [mutant.text for mutant in of_llama if mutant.kind == kind]
    assert before in text
    assert after not in text
    assert any(after in other for other in found)


def test_routers_are_mistaken_where_there_is_one(bank: dict[str, list[Mutant]]) -> None:
    routed = {port for port, found in bank.items() if any(mutant.kind == "router" for mutant in found)}
    assert routed == {port for port, file in PORTS.items() if ".topk(" in file.read_text()}


MUTANT = Mutant("llama", "llama-x", "swap", "swap", 1, "a", "b", "text")


def report(*fates: Fate) -> MutantReport:
    return MutantReport(tuple((MUTANT, fate) for fate in fates), ("logits",), (), (), False, 1.0)


def test_a_mutant_that_only_a_further_draw_sees_costs_the_score() -> None:
    killed = Fate("killed", "practice", (Kill("logits", "relative", "00-plain"),))
    missed = Fate("missed", "acceptance 2", (Kill("decode", "relative", "03-windows"),))
    assert report(killed, Fate("survived"), Fate("broken")).passed
    assert report(killed, missed).score == 0.5
    assert not report(killed, missed).passed
    assert not report(Fate("survived")).passed, "no mutant that differs is no score"


def test_the_table_says_who_kills_alone() -> None:
    both = Fate("killed", "practice", (Kill("logits", "relative", "a"), Kill("decode", "relative", "b")))
    one = Fate("killed", "practice", (Kill("logits", "relative", "a"),))
    assert report(both, one).table() == {"decode": {"swap": (1, 0)}, "logits": {"swap": (2, 1)}}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Llama on one cheap case."""
    folder, cache = tmp_path_factory.mktemp("mutants"), cases.cache_folder(ROOT)
    reference = Reference()
    (family,) = cases.draw(["llama"], "practice", 0, folder / "cases", cache, reference)
    keep_one(family.given)
    verifiers = [
        verifier for verifier in read_verifiers(rooms.files(None, "verifiers")) if verifier.name == "logits"
    ]
    found = Runner(folder, [replace(family)], {"llama": PORTS["llama"]}, verifiers)
    found.ask_reference(reference, cache, keeps=False)
    reference.close()
    return found


def keep_one(given: Path) -> None:
    for case in given.iterdir():
        if case.name.partition("-")[2] != "plain":
            shutil.rmtree(case)


def held(runner: Runner, *texts: str) -> list[tuple[Kill, ...]]:
    (case,) = runner.families["llama"].names
    mutants = [
        replace(MUTANT, name=f"m{at}-{len(runner.costs)}-{hash(text)}", text=text)
        for at, text in enumerate(texts)
    ]
    found = {
        mutant.name: verdict for mutant, verdict in runner.hold([(m, [(case, ["logits"])]) for m in mutants])
    }
    return [found[mutant.name].kills for mutant in mutants]


def test_a_mutant_is_killed_and_the_port_is_not(runner: Runner) -> None:
    text = PORTS["llama"].read_text()
    wrong = text.replace("config.rms_norm_eps)", "1.01 * config.rms_norm_eps)")
    crash = text.replace("return self.norm(hidden_BTD)", "return self.norm(hidden_BTD, 1)")
    none, numeric, failed = held(runner, text, wrong, crash)
    assert none == ()
    assert [(kill.verifier, kill.metric) for kill in numeric] == [("logits", "relative")]
    assert [(kill.verifier, kill.metric) for kill in failed] == [("logits", "error")]


@pytest.mark.slow
def test_one_that_works_for_ever_is_ended_and_one_that_waits_for_others_is_not(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own work: on a busy machine a right answer would count as a kill."""
    monkeypatch.setattr(runs, "SECONDS", 3)
    text, answer = PORTS["llama"].read_text(), "        return self.model(ids_BT,"
    endless = text.replace(answer, f"        while True: pass\n{answer}")
    slow = text.replace(answer, f"        __import__('time').sleep(5)\n{answer}")
    by_work, waited = held(runner, endless, slow)
    assert [(kill.verifier, kill.metric) for kill in by_work] == [("process", "ended")]
    assert waited == ()


def test_a_run_goes_on_with_the_draws_that_are_left(tmp_path: Path) -> None:
    def fates() -> mutate._Fates:
        return mutate._Fates(tmp_path, [], {"llama": PORTS["llama"]}, full=False)

    practice, acceptance, *_, last = mutate.DRAWS
    early = fates()
    early.learn(MUTANT, practice, runs.Verdict((), differs=0.25))
    assert not early.past(MUTANT, practice)
    early.survive(MUTANT, practice)
    later = fates()
    assert not later.knows(MUTANT)
    assert later.past(MUTANT, practice)
    assert not later.past(MUTANT, acceptance)
    later.survive(MUTANT, last)
    decided = fates()
    assert decided.knows(MUTANT)
    fate = decided.of(MUTANT)
    assert (fate.ending, fate.draw, fate.differs) == ("survived", last.name, 0.25)
    later.learn(MUTANT, last, runs.Verdict((Kill("logits", "relative", "plain"),)))
    told = fates()
    assert told.knows(MUTANT)
    assert told.of(MUTANT).ending == "missed"


def test_a_loosened_limit_lets_a_mutant_pass(runner: Runner) -> None:
    text = PORTS["llama"].read_text().replace("config.rms_norm_eps)", "1.01 * config.rms_norm_eps)")
    (verifier,) = runner.verifiers
    loose: Verifier = replace(verifier, limits={"relative": 1e-2})
    runner.verifiers = [loose]
    try:
        assert held(runner, text + "\n") == [()]
    finally:
        runner.verifiers = [verifier]


def test_a_port_that_the_gate_rejects_has_no_mutants(runner: Runner, tmp_path: Path) -> None:
    wrong = tmp_path / "llama.py"
    wrong.write_text(PORTS["llama"].read_text().replace("config.rms_norm_eps)", "0.5)"))
    other = Runner(tmp_path / "work", list(runner.families.values()), {"llama": wrong}, runner.verifiers)
    with pytest.raises(PtwError, match="rejects the port itself"):
        other.ask_reference(Reference(), cases.cache_folder(ROOT), keeps=False)


@pytest.mark.parametrize(
    "more", [["--full-table"], ["--mutants", "--seed", "1"], ["--mutants", "--junit", "x"]]
)
def test_options_that_say_nothing_together_are_a_usage_error(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", *more]) == 2
    assert "--mutants takes ports" in capsys.readouterr().err
