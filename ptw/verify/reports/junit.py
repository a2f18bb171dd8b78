"""How does a CI's test view read a report? JUnit XML: a suite a port or tokenizer, a test a verifier."""

from __future__ import annotations

import re
from xml.etree import ElementTree as Tree

from ptw.verify.reports.report import Measured, Note, Report, SubjectReport

# XML 1.0 has no way to say these, escaped or not, and a port's words may hold them
UNSAYABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(report: Report) -> str:
    root = Tree.Element("testsuites", name="ptw verify")
    for subject in report.subjects:
        _suite(root, subject.name, _tests(subject))
    rest = [("report", text, "") for text in report.failures]
    rest += [(note.file, "", f"{note.file}:{note.line}: {note.text}") for note in _of_change(report)]
    if rest:
        _suite(root, "the gate itself", rest)
    suites = list(root)
    for name in ("tests", "failures"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.set("time", str(round(sum(seconds for _, seconds in report.seconds), 2)))
    Tree.indent(root)
    return Tree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _tests(port: SubjectReport) -> list[tuple[str, str, str]]:
    """Name, why it failed (nothing if it passed), and what else is to be said."""
    found = []
    for name in dict.fromkeys(entry.verifier for entry in port.measured):
        entries = [entry for entry in port.measured if entry.verifier == name]
        failed = "\n".join(_said(entry) for entry in entries if not entry.passed)
        own = [words for words in port.explained if words.startswith(f"{name},")]
        why = "\n".join([failed, *own]) if failed else ""
        found.append((name, why, "\n".join(_said(entry) for entry in entries)))
    if not port.passed:
        where = [f"{note.file}:{note.line}: {note.text}" for note in port.notes]
        own_words = [words for words in port.words if words not in port.explained]
        words = "\n".join(dict.fromkeys([*own_words, *where]))
        found.append(("explanation", words or "nothing was measured", ""))
    found += [("not run", "", text) for text in port.not_run]
    found += [("remark", "", text) for text in port.remarks]
    found += [("refused", "", text) for text in port.refused]
    found += [("audit", "", f"no case reaches it: {hole}") for hole in port.audit.holes]
    return found


def _said(entry: Measured) -> str:
    return f"{entry.metric} is {entry.value:.3g}, the limit {entry.limit:g} (case {entry.case})"


def _of_change(report: Report) -> list[Note]:
    return list(report.change.notes) if report.change else []


def _suite(root: Tree.Element, name: str, tests: list[tuple[str, str, str]]) -> None:
    suite = Tree.SubElement(root, "testsuite", name=_sayable(name), tests=str(len(tests)))
    suite.set("failures", str(sum(bool(why) for _, why, _ in tests)))
    for test, why, said in tests:
        case = Tree.SubElement(suite, "testcase", classname=_sayable(name), name=_sayable(test))
        if why:
            failure = Tree.SubElement(case, "failure", message=_sayable(why.splitlines()[0]))
            failure.text = _sayable(why)
        if said:
            Tree.SubElement(case, "system-out").text = _sayable(said)


def _sayable(text: str) -> str:
    return UNSAYABLE.sub("\N{REPLACEMENT CHARACTER}", text)
