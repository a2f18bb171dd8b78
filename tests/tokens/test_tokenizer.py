"""One tokenizer: the checkpoint's own, before and after it is saved, and never a silent unknown."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ptw.errors import PtwError
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.pipeline import PROBES
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import DatasetEntry, TokenizerEntry, Workspace

CHAT = [{"role": "user", "content": "Hi 12"}, {"role": "assistant", "content": "Yes."}]
REAL = (
    "tokenizers/qwen2.5",
    "tokenizers/gpt2",
    "tokenizers/phi-3-mini",
    "tokenizers/minimind",
    "stories260K/hf",
)


def workspace(root: Path, tokenizer: TokenizerEntry, *datasets: DatasetEntry) -> Workspace:
    return Workspace(
        root, "test", {}, {tokenizer.name: tokenizer}, {entry.name: entry for entry in datasets}, {}, {}
    )


def opened(root: Path, *datasets: DatasetEntry, **keys: Any) -> Tokenizer:
    return open_tokenizer(workspace(root, TokenizerEntry("t", **keys), *datasets), "t")


@pytest.fixture
def items(tmp_path: Path) -> Path:
    rows = [{"id": "b7", "text": "x"}, {"id": 12}, {"id": "ä-1"}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [
        {"text": f"The {at}th film is about {chr(97 + at % 26) * 3}{at % 7}ing {at**7:x}, née Çelik 🙂"}
        for at in range(600)
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


TEXTS = DatasetEntry("texts", ("texts.jsonl",), "text")


@pytest.mark.parametrize("name", REAL)
def test_a_saved_tokenizer_is_the_same_also_in_plain_transformers(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(real_data / name)
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.size, again.stop_ids, again.notes) == (tokenizer.size, tokenizer.stop_ids, ())
    plain = AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    for probe in PROBES:
        ids = tokenizer.encode(probe)
        assert plain.encode(probe, add_special_tokens=False) == ids
        assert max(ids) < tokenizer.size


def test_fingerprints_differ_by_tokenizer(real_data: Path) -> None:
    assert len({load_tokenizer(real_data / name).fingerprint for name in REAL}) == len(REAL)


def test_a_pipeline_that_transformers_rebuilds_is_found_and_put_right(real_data: Path) -> None:
    folder = real_data / "tokenizers" / "phi-3-mini"
    tokenizer = load_tokenizer(folder)
    text = "<|user|>\nHi<|end|>"
    assert AutoTokenizer.from_pretrained(str(folder)).encode(
        text, add_special_tokens=False
    ) != tokenizer.encode(text)
    assert tokenizer.encode(text) == [32010, 6324, 32007]
    assert "AutoTokenizer ignores tokenizer.json" in tokenizer.notes[0]
    assert tokenizer.stop_ids == {32000, 32007}


def test_ids_are_stable_across_fingerprints_of_a_change(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stories"
    shutil.copytree(real_data / "stories260K" / "hf", folder)
    before = load_tokenizer(folder).fingerprint
    config = folder / "tokenizer_config.json"
    config.chmod(0o644)
    config.write_text(config.read_text().replace("'Bot: '", "'Robot: '"))
    assert load_tokenizer(folder).fingerprint != before


def test_generation_config_adds_its_stops(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stories"
    shutil.copytree(real_data / "stories260K" / "hf", folder)
    folder.chmod(0o755)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert load_tokenizer(folder).stop_ids == {2, 7}
    (folder / "generation_config.json").write_text("[")
    with pytest.raises(PtwError, match=r"generation_config\.json: not a JSON object"):
        load_tokenizer(folder)


def test_items_have_one_id_each_also_in_plain_transformers(items: Path, tmp_path: Path) -> None:
    tokenizer = opened(items, items="items.jsonl")
    assert tokenizer.item_ids(["b7", "12", "ä-1"]) == [3, 4, 5]
    assert tokenizer.encode("12 b7  ä-1") == [4, 3, 5]
    assert tokenizer.encode("12 b7", special=True) == [tokenizer.bos_id, 4, 3]
    assert tokenizer.decode([4, 3]) == "12 b7"
    assert (tokenizer.size, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (6, 0, 1, 2)
    tokenizer.save(tmp_path / "saved")
    plain = AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    assert plain.encode("12 b7 ä-1") == [1, 4, 3, 5]


def test_an_unknown_item_is_never_an_id(items: Path) -> None:
    tokenizer = opened(items, items="items.jsonl")
    with pytest.raises(PtwError, match="item 'b8' is not in tokenizer t"):
        tokenizer.item_ids(["b7", "b8"])
    with pytest.raises(PtwError, match="can't encode 'b7 b8'"):
        tokenizer.encode("b7 b8")
    with pytest.raises(PtwError, match="item '</s>'"):
        tokenizer.item_ids(["</s>"])


def test_catalogues_of_other_items_have_other_fingerprints(items: Path) -> None:
    before = opened(items, items="items.jsonl")
    assert opened(items, items="items.jsonl").fingerprint == before.fingerprint
    (items / "items.jsonl").write_text('{"id": "b7"}\n{"id": "other"}\n{"id": "ä-1"}\n')
    assert opened(items, items="items.jsonl").fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"id": "a"}\n{"id": "a"}\n', r"items\.jsonl:2: id 'a' is an item twice"),
        ('{"id": "a b"}\n', r"items\.jsonl:1: id 'a b' is empty or holds spaces"),
        ('{"id": "<s>"}\n', r"items\.jsonl:1: id '<s>' is a special token"),
        ('{"name": "a"}\n', r"items\.jsonl:1: an item needs an `id`"),
        ('{"id": true}\n', r"items\.jsonl:1: an item needs an `id`"),
        ("", "no rows"),
    ],
)
def test_a_wrong_catalogue_is_named_and_nothing_is_kept(rows: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(rows)
    with pytest.raises(PtwError, match=message):
        opened(tmp_path, items="items.jsonl")
    assert not (tmp_path / ".ptw").exists()


def test_a_learnt_tokenizer_is_the_same_each_time_and_in_plain_transformers(texts: Path) -> None:
    tokenizer = opened(texts, TEXTS, learn_from="texts", vocab_size=400)
    kept = list((texts / ".ptw" / "tokenizers").iterdir())
    assert len(kept) == 1
    plain = AutoTokenizer.from_pretrained(str(kept[0]))
    for probe in PROBES:
        assert plain.encode(probe, add_special_tokens=False) == tokenizer.encode(probe)
        assert tokenizer.decode(tokenizer.encode(probe)) == probe
    shutil.rmtree(texts / ".ptw")
    assert opened(texts, TEXTS, learn_from="texts", vocab_size=400).fingerprint == tokenizer.fingerprint
    assert tokenizer.size == 400
    assert tokenizer.stop_ids == {tokenizer.encode("<|endoftext|>")[0], tokenizer.encode("<|im_end|>")[0]}
    assert tokenizer.decode(tokenizer.chat(CHAT, prompt=True)).endswith(
        "Yes.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_learnt_tokenizer_does_not_depend_on_threads(texts: Path) -> None:
    code = (
        "import sys, pathlib; from ptw.tokens.learn import learn\n"
        "texts = [line for line in pathlib.Path(sys.argv[1]).read_text().splitlines()]\n"
        "print(sorted(learn(texts, 380).get_vocab().items()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(texts / "texts.jsonl")],
            env={"PATH": "", "TOKENIZERS_PARALLELISM": parallel, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
        ).stdout
        for parallel, seed in (("false", "1"), ("true", "2"))
    }
    assert len(outputs) == 1


def test_a_learnt_tokenizer_follows_its_data(texts: Path) -> None:
    before = opened(texts, TEXTS, learn_from="texts", vocab_size=400).fingerprint
    (texts / "texts.jsonl").write_text('{"text": "quite another text, quite another text"}\n')
    after = opened(texts, TEXTS, learn_from="texts", vocab_size=400)
    assert after.fingerprint != before
    assert "fewer than vocab_size 400" in after.notes[0]


def test_a_dataset_of_events_teaches_no_text(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"items": ["a"]}\n')
    with pytest.raises(PtwError, match=r"no text to learn; use `items`"):
        opened(tmp_path, DatasetEntry("texts", ("texts.jsonl",), "event"), learn_from="texts", vocab_size=400)


def test_a_chat_template_of_the_workspace_is_used(texts: Path) -> None:
    (texts / "mine.jinja").write_text("{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}")
    mine = opened(texts, TEXTS, learn_from="texts", vocab_size=400, chat_template="mine.jinja")
    assert mine.decode(mine.chat(CHAT)) == "Hi 12<|im_end|>Yes.<|im_end|>"
    assert mine.fingerprint != opened(texts, TEXTS, learn_from="texts", vocab_size=400).fingerprint
    with pytest.raises(PtwError, match=r"no\.jinja can't be read"):
        opened(texts, TEXTS, learn_from="texts", vocab_size=400, chat_template="no.jinja")


def test_a_template_that_refuses_or_is_broken_is_an_error(texts: Path) -> None:
    for source in ("{{ raise_exception('never') }}", "{% for m in %}", "{{ messages[0].nothing.at_all }}"):
        (texts / "mine.jinja").write_text(source)
        tokenizer = opened(texts, TEXTS, learn_from="texts", vocab_size=400, chat_template="mine.jinja")
        with pytest.raises(PtwError, match=r"the chat template of tokenizer t refuses this chat"):
            tokenizer.chat(CHAT)


def test_a_tokenizer_without_a_template_says_how_to_get_one(items: Path) -> None:
    with pytest.raises(PtwError, match=r"tokenizer t has no chat template.*chat_template ="):
        opened(items, items="items.jsonl").chat(CHAT)


@pytest.mark.parametrize("damage", ["missing", "empty", "not json", "truncated", "wrong"])
def test_a_broken_folder_is_named(damage: str, real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    if damage != "missing":
        folder.mkdir()
    content = (real_data / "stories260K" / "hf" / "tokenizer.json").read_bytes()
    broken = {"not json": b"nonsense", "truncated": content[:5000], "wrong": b'{"version": "1.0"}'}
    if damage in broken:
        (folder / "tokenizer.json").write_bytes(broken[damage])
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(PtwError, match=r"tokenizer broken: .*broken"):
        load_tokenizer(folder)


def test_an_unknown_tokenizer_names_the_known(items: Path) -> None:
    with pytest.raises(PtwError, match="no tokenizer 'u'; it has: t"):
        open_tokenizer(workspace(items, TokenizerEntry("t", items="items.jsonl")), "u")


def test_the_hub_offline_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PtwError, match=r"owner/name at 0000.* can't be fetched from the Hub"):
        opened(tmp_path, hf="owner/name", revision="0" * 40)
