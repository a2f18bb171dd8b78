"""Which texts show that two tokenizers differ? A fixed list, made by code, and any number at random."""

import random
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

# where a character stands alone, at an end of a word, within one, and beside blanks
FRAMES = ("{}", "a{}", "{}a", "a{}b", "a {} b", "{0}{0}")
SPACES = " \u00a0\u1680\u2000\u2002\u2003\u2007\u2009\u200a\u202f\u205f\u3000"
LINE_ENDS = ("\n", "\r", "\r\n", "\t", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029")
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u061c\u180e\u200e\u202a\u202e\u2066\u2069\ufe0e\ufe0f"
CONTROL = "\x00\x01\x07\x08\x1b\x1f\x7f\x80\x9f"
# composed and decomposed, compatibility forms, Hangul, marks in either order, singletons
FORMS = (
    *("é", "ñ", "Å", "ǘ", "ở", "ﬁ", "ﬀ", "½", "²", "①", "Ⅷ", "㎏", "ｶﾞ", "Ａ１", "각", "한글", "क़"),
    *("ά", "\u2126", "\u212b", "ẛ̣", "ḍ̇", "\u0344", "ſ", "ß", "ẞ", "İ", "ı", "ŉ", "ǆ"),
)
SCRIPTS = (
    ("latin", "Zażółć gęślą jaźń; Æneid, œuvre, þorn"),
    ("greek", "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία"),
    ("cyrillic", "Съешь ещё этих мягких французских булок"),
    ("hebrew", "דג סקרן שט בים מאוכזב, שָׁלוֹם"),
    ("arabic", "نصٌّ حكيمٌ لهُ سرٌّ قاطِعٌ ١٢٣"),
    ("mixed directions", "abc שלום 123 مرحبا (xyz) \u202eevil\u202c"),
    ("devanagari", "ऋषियों को सताने वाले दुष्ट क्ष्म्य"),
    ("tamil", "யாமறிந்த மொழிகளிலே தமிழ்மொழி"),
    ("thai", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า"),
    ("chinese", "天地玄黃,宇宙洪荒。简体字與繁體字"),
    ("japanese", "いろはにほへと チリヌルヲ 漢字かな交じり文ー々"),
    ("korean", "다람쥐 헌 쳇바퀴에 타고파 \u1112\u1161\u11ab"),
    ("georgian", "ჩემო კარგო ქვეყანავ"),
    ("tibetan", "བོད་ཡིག"),
    ("outside the first plane", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀 𠀀 𝟙𝟚 \U0001f9ff \U000e0041"),
)
EMOJI = (
    "🙂",
    "👩\u200d👩\u200d👧\u200d👦",
    "🏳️\u200d🌈",
    "👍🏽",
    "🇩🇪🇫🇷🇩",
    "1️⃣#️⃣",
    "❤ ❤️ ❤︎",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "👩🏿\u200d🚀 and 🧑🏻\u200d❤️\u200d💋\u200d🧑🏿",
)
# the neighbours of the surrogates, of the planes' ends, of the lengths of UTF-8; private use, no characters
EDGES = (
    *(0x7E, 0x7F, 0x80, 0xA0, 0xFF, 0x100, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xF8FF, 0xFDD0, 0xFFFC, 0xFFFD),
    *(0xFFFE, 0xFFFF, 0x10000, 0x1F600, 0x1FFFE, 0x20000, 0xE0001, 0xF0000, 0xFFFFF, 0x100000, 0x10FFFF),
)
DIGITS = (
    "0123456789",
    "٠١٢٣٤٥٦٧٨٩",
    "०१२३४५६७८९",
    "０１２３４５６７８９",
    "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗",
    "一二三四五六七八九十",
)
NUMBERS = (
    "1,234,567.89 1.234.567,89 1 234 567 1_000_000 1'000",
    "-1 +1 3.14159265358979 1e-10 6.02E+23 .5 5. 0x1F 0b101 0o17 1/2 50% $9.99 €10 £3 7°C",
    "2024-02-29T23:59:60Z 12:34:56.789 +49 (0)30 123456 192.168.0.1:8080 v1.2.3-rc4",
    "1st 2nd 3rd 4th 10x 3a b4 5c6d7 H2O COVID-19 007",
)
WORDS = (
    "don't I'll we've she'd it's O'Brien rock'n'roll DON'T I'LL ’tis it’s",
    "antidisestablishmentarianism " * 3,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "a" * 300,
    "ab" * 150,
    "camelCase PascalCase snake_case kebab-case SCREAMING_CASE mIxEd",
    "well-known—em–en-dash… “quoted” ‘single’ «guillemets» „low“ `tick`",
    "!!! ??? ... ,,, ;;; ::: --- === ___ *** ### @@@ ^^^ ~~~ ||| \\\\\\ ///",
    "(((a)))[[[b]]]{{{c}}}<<<d>>>",
)
CODE = (
    "def f(x):\n    return {'a': [x**2, 0x1F]}  # note\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] <<= 2; /* x */ }\r\n\r\n// end",
    "SELECT \"a\" FROM t WHERE b <> 'c''d' -- comment\n",
    '{"a": [1, 2.5, null, true], "b\\u00e9": "\\"\\\\\\n"}\n',
    "<div class='x' data-y=\"z\">&amp;&nbsp;&#39;</div><!-- c -->",
    "$ curl -sSL 'https://example.com/a?b=c&d=%20e#f' | jq '.[0]' > /dev/null 2>&1",
    r"\begin{equation} \frac{\partial f}{\partial x} = \sum_{i=0}^{\infty} x_i^{2} \end{equation}",
    "```python\nprint('hi')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- [x] *b* **c** ~~d~~",
)
PLACES = (
    "https://user:pw@sub.example.co.uk:8443/päth/%7Efile.tar.gz?q=1&r=a+b#frag",
    "mailto:first.last+tag@example.org www.x.y //cdn/z.js C:\\Users\\me\\a b.txt ../../etc/passwd ~/x",
)
# what looks like a special token, and what is nearly one
LOOKS_SPECIAL = (
    "<s> </s> <unk> <pad> <mask> [CLS] [SEP] [PAD] [MASK] [UNK] [INST] [/INST] <<SYS>>",
    "<|endoftext|><|im_start|>system\nBe.<|im_end|>\n<|user|> <|assistant|> <|end|> <|eot_id|>",
    "<think>\n\n</think><tool_call>{}</tool_call><start_of_turn>user<end_of_turn><bos><eos><0x0A><0xFF>",
    "< s > <|im_start | > <|IM_START|> &lt;s&gt; <s><s/> <|im_st\u200bart|>",
    "▁ ▁▁ a▁b Ġ Ġa Ċ ##ing @@ ##",
)


def fixed() -> dict[str, str]:
    """Name -> text, the same on every machine with the same version of Unicode's tables."""
    found = {"empty": ""}
    for group in (_blanks, _single, _forms, _numbers, _long):
        found |= dict(group())
    return found


def around_tokens(tokens: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each added token as it stands in texts: alone, twice, inside words, beside each kind of blank, cut."""
    frames = ("{}", "{0}{0}", "a{}b", " {} ", "  {}  ", "\n{}\n", "\t{}é", "x {}, y")
    for token in tokens:
        for number, frame in enumerate(frames):
            yield f"added {token!r} {number}", frame.format(token)
        yield f"added {token!r} cut", f"{token[:-1]} {token[1:]}"
        yield f"added {token!r} upper", f"{token.upper()} {token.lower()}"


def at_random(seed: int, count: int, tokens: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """So many texts of characters from everywhere, of pieces of the fixed list, and of these tokens."""
    draw = random.Random(seed)
    pieces = [*fixed().values(), *tokens, *SPACES, *LINE_ENDS, *INVISIBLE, *EMOJI]
    for number in range(count):
        parts = [
            draw.choice(pieces) if draw.random() < 0.4 else _characters(draw)
            for _ in range(draw.randint(1, 6))
        ]
        yield f"random {seed}:{number}", "".join(parts)


def _characters(draw: random.Random) -> str:
    """Of one block mostly, since texts are."""
    start = draw.choice((0x20, 0x20, 0xA0, 0x300, 0x400, 0x600, 0x900, 0x2000, 0x4E00, 0xAC00, 0x1F300))
    codes = (start + draw.randrange(0x60) for _ in range(draw.randint(1, 8)))
    wild = chr(draw.choice([*range(0x20, 0xD800, 997), *range(0xE000, sys.maxunicode, 9973)]))
    return "".join(map(chr, codes)) + (wild if draw.random() < 0.3 else "")


def _blanks() -> Iterator[tuple[str, str]]:
    for length in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 100):
        for name, blank in (("spaces", " "), ("newlines", "\n"), ("tabs", "\t")):
            run = blank * length
            yield f"{name} {length}", run
            for place, text in (("start", f"{run}a"), ("middle", f"a{run}b"), ("end", f"a{run}")):
                yield f"{name} {length} {place}", text
    for blank in SPACES[1:]:
        yield f"space U+{ord(blank):04X}", f"{blank}a{blank}b {blank} c{blank}{blank}d{blank}"
    for one in LINE_ENDS:
        yield f"line end {one!r}", f"{one}a{one}b {one} c{one}{one}d{one}"
    for first, second in pairwise((" ", "\n", "\t", "\r\n", "\u00a0", "\u3000", " ")):
        yield f"blanks {first!r} {second!r}", f"a{first}{second}b{second}{first}"


def _single() -> Iterator[tuple[str, str]]:
    """Of each general category the first characters, and what is invisible or stands at an edge."""
    for category, characters in _categories().items():
        for number, frame in enumerate(FRAMES):
            yield f"category {category} {number}", "\n".join(frame.format(one) for one in characters)
    for character in (*INVISIBLE, *CONTROL):
        yield f"invisible U+{ord(character):04X}", f"{character}a{character}b {character}{character} c"
    for code in EDGES:
        yield f"edge U+{code:04X}", f"a{chr(code)}b {chr(code)}"


def _categories() -> Mapping[str, list[str]]:
    """Every seventh character that Python knows, three of each category; surrogates are no text."""
    found: dict[str, list[str]] = {}
    for code in range(0, 0x20000, 7):
        category = unicodedata.category(chr(code))
        if category != "Cs" and len(found.setdefault(category, [])) < 3:
            found[category].append(chr(code))
    found.pop("Cs", None)
    return {category: characters for category, characters in sorted(found.items()) if characters}


def _forms() -> Iterator[tuple[str, str]]:
    for word in FORMS:
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            text = unicodedata.normalize(form, word)
            yield f"{form} of {word!a}", f"{text} x{text}y"
    yield "marks alone", "\u0301 \u0301\u0308a\u0308\u0301 e\u0301\u0301\u0301\u20dd Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞"
    yield from (("script " + name, text) for name, text in SCRIPTS)
    yield from ((f"script {name}, upper and lower", text.upper() + text.lower()) for name, text in SCRIPTS)
    yield from ((f"emoji {number}", f"{text} a{text}b") for number, text in enumerate(EMOJI))


def _numbers() -> Iterator[tuple[str, str]]:
    for length in (*range(1, 14), 20, 50):
        yield f"digits {length}", ("1234567890" * 5)[:length]
        yield f"digits {length} in words", f"a{'9' * length}b {'0' * length},"
    for number, digits in enumerate(DIGITS):
        yield f"digits of script {number}", f"{digits} {digits[1:4]}, {digits[2]}a{digits[3:]}"
    yield from ((f"numbers {number}", text) for number, text in enumerate(NUMBERS))


def _long() -> Iterator[tuple[str, str]]:
    groups = (("words", WORDS), ("code", CODE), ("place", PLACES), ("looks special", LOOKS_SPECIAL))
    for name, texts in groups:
        yield from ((f"{name} {number}", text) for number, text in enumerate(texts))
    yield "every byte of Latin-1", "".join(map(chr, range(256)))
    yield "a page", "\n\n".join((*(text for _, text in SCRIPTS), *CODE, *NUMBERS, *WORDS[:1]))
