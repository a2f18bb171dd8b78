"""Texts of every script: titles that share words are near, forms of a letter are one, old readings stay."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ptw.errors import PtwError
from ptw.tokens.semantic import open_semantic_ids
from ptw.vocab import build as making
from ptw.vocab.report import report_of
from ptw.vocab.text import learn_lsa
from ptw.vocab.words import SPACED, words_of
from ptw.workspace.manifest import Workspace, read

# of each script: four titles about earphones, four about tea
TITLES = {
    "Chinese": [
        "无线蓝牙耳机",
        "降噪耳机新款",
        "运动蓝牙耳机",
        "入耳式降噪耳机",
        "云南普洱茶叶",
        "有机绿茶茶叶",
        "茉莉绿茶礼盒",
        "云南有机红茶",
    ],
    "Japanese": [
        "ワイヤレスイヤホン",
        "防水イヤホン黒",
        "ワイヤレスヘッドホン",
        "有線イヤホン白",
        "宇治抹茶の粉末",
        "静岡の煎茶",
        "抹茶と煎茶セット",
        "宇治の玉露茶",
    ],
    "Thai": [
        "หูฟังไร้สาย",
        "หูฟังบลูทูธ",
        "ชุดหูฟังสีดำ",
        "เคสหูฟังไร้สาย",
        "ชาเขียวมะลิ",
        "ใบชาเขียว",
        "ผงชาเขียวแท้",
        "ถุงชาเขียวมะลิ",
    ],
    "Korean": [
        "무선이어폰",
        "블루투스이어폰을",
        "이어폰 케이스",
        "무선 이어폰",
        "제주녹차를",
        "녹차 티백",
        "유기농녹차",
        "제주 녹차",
    ],
    "Hindi": [
        "बेतार हेडफ़ोन",
        "काला हेडफ़ोन",
        "हेडफ़ोन थैली",
        "बेतार हेडफ़ोन सफ़ेद",
        "हरी चाय",
        "चाय पत्ती",
        "हरी चाय पत्ती",
        "अदरक चाय",
    ],
}
SAME = {
    "width": ("ＳＯＮＹ　イヤホン", "sony ｲﾔﾎﾝ"),
    "accents": ("Crème Brûlée", "cre\u0300me bru\u0302le\u0301e"),
    "case": ("STRASSE", "straße"),
    "syllables of parts": ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    "letters that join": ("o\ufb03ce", "office"),
    "a hyphen that is not seen": ("co\u00adoperate", "cooperate"),
    "vowels of a sign each": ("กำ", "ก\u0e4d\u0e32"),
}
TOML = """
[workspace]
name = "shop"
[semantic_ids.shop]
items = "data/items.jsonl"
levels = 3
codebook_size = 8
"""


@pytest.mark.parametrize("script", TITLES)
def test_titles_that_share_words_are_nearer(script: str) -> None:
    vectors_ND = learn_lsa(TITLES[script], 0)(TITLES[script])
    alike_NN = vectors_ND @ vectors_ND.T
    kinds = torch.arange(8) // 4
    same_NN = (kinds[:, None] == kinds) & ~torch.eye(8, dtype=torch.bool)
    assert alike_NN[same_NN].mean() > alike_NN[kinds[:, None] != kinds].mean() + 0.1
    nearest_N = (alike_NN - 9 * torch.eye(8)).argmax(-1)
    assert (kinds[nearest_N] == kinds).all(), "the nearest title is of the same kind"


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_forms_of_a_letter_are_one(one: str, other: str) -> None:
    assert one != other
    assert words_of(one) == words_of(other) != []


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        ("Nail lacquer, e55 (don't) a_b", ["nail", "lacquer", "e55", "don", "t", "a_b"]),
        ("Ελλάς и ёлка 2024", ["ελλάσ", "и", "ёлка", "2024"]),
        ("iPhone15手机壳 Pro", ["iphone15", "手机", "机壳", "pro"]),
        ("2024年", ["2024", "年"]),
        ("コーヒー豆", ["コー", "ーヒ", "ヒー", "ー豆"]),
        ("สวัสดี", ["สวั", "วัส", "สดี"]),
        ("ไทย\u200bคำ", ["ไท", "ทย", "คํา"]),
        ("हिन्दी की", ["हिन्दी", "की"]),
        ("𠮷野家", ["𠮷野", "野家"]),
        (" … ?! 👍🏽 、。 \u0301", []),
    ],
)
def test_words_of_mixed_scripts(whole: str, words: list[str]) -> None:
    assert words_of(whole) == words


@pytest.mark.parametrize("whole", ["Nail lacquer, e55 (don't) a_b", "RED 2-in-1\tkit\x1f!", ""])
def test_plain_texts_are_read_as_ever(whole: str) -> None:
    assert words_of(whole) == words_of(whole, SPACED)


def shop(root: Path, titles: Iterable[str], name: str = "items") -> Workspace:
    (root / "data").mkdir(exist_ok=True)
    rows = [json.dumps({"id": f"{name[0]}{n}", "text": title}) + "\n" for n, title in enumerate(titles)]
    (root / "data" / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    (root / "workspace.toml").write_text(TOML)
    return read(root)


def test_items_without_a_word_are_named(tmp_path: Path) -> None:
    workspace = shop(tmp_path, [*TITLES["Chinese"], "", "?! …", "👍"])
    said: list[str] = []
    folder = making.build(workspace, "shop", said.append)
    assert "3 items have no word in `text` that the vocabulary knows, 'i8' among them" in said
    report = report_of(workspace, folder)
    assert ("nothing known", "of 3 items, whose codes say nothing: i8, i9, i10") in report.facts()
    shop(tmp_path, ["降噪耳机", "?!"], "new")
    said.clear()
    extended = making.extend(workspace, "shop", "data/new.jsonl", 0, said.append)
    assert "1 items have no word in `text` that the vocabulary knows, 'n1' among them" in said
    assert report_of(workspace, extended).ids.facts["nothing_known"]["first"] == ["i8", "i9", "i10", "n1"]


def test_a_catalogue_of_signs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PtwError, match="no item has a word in `text`, only signs"):
        making.build(shop(tmp_path, ["?!", "…", ""]), "shop", lambda _: None)


def test_an_older_vocabulary_is_extended_as_it_was_read(tmp_path: Path) -> None:
    titles = ["Crème 无线蓝牙耳机", "red 茶叶", "CRÈME pot", "blue tea", "红茶 pot", "red tea"]
    workspace = shop(tmp_path, titles)
    folder = making.build(workspace, "shop", lambda _: None)
    tensors = load_file(folder / "space.safetensors")
    assert int(tensors.pop("reading")) == 2
    save_file(tensors, folder / "space.safetensors")  # as it was before texts were read otherwise
    shop(tmp_path, ["blue pot"], "plain")
    said: list[str] = []
    making.extend(workspace, "shop", "data/plain.jsonl", 0, said.append)
    assert not any("earlier ptw" in line for line in said), "it says so where it makes a difference"
    shop(tmp_path, ["蓝牙耳机 red"], "new")
    newest = making.extend(workspace, "shop", "data/new.jsonl", 0, said.append)
    assert sum("texts are read as an earlier ptw read them for this vocabulary" in line for line in said) == 1
    assert "reading" not in load_file(newest / "space.safetensors"), "nor is it read otherwise from then on"
    assert open_semantic_ids(tmp_path, workspace.semantic_ids["shop"]).items[-1] == "n0"
    own = {name: tensors[name] for name in ("rarity", "directions")}
    lsa = dataclasses.replace(learn_lsa(titles, 0), rarity_B=own["rarity"], directions_BD=own["directions"])
    vectors_ND = load_file(newest / "vectors.safetensors")["vectors"].float()
    as_then_D = dataclasses.replace(lsa, reading=SPACED)(["蓝牙耳机 red"])[0]
    torch.testing.assert_close(vectors_ND[-1], as_then_D, atol=1e-3, rtol=0)
    assert (lsa(["蓝牙耳机 red"])[0] - as_then_D).norm() > 0.1, "it would lie elsewhere as texts are read now"
    save_file({**tensors, "reading": torch.tensor(3)}, newest / "space.safetensors")
    shop(tmp_path, ["tea"], "late")
    with pytest.raises(PtwError, match="a newer ptw built it"):
        making.extend(workspace, "shop", "data/late.jsonl", 0, lambda _: None)
