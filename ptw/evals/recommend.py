"""How good are the recommendations of runs, beside rankers that learn nothing?

The model is asked once for each case. All figures are made of the ranks and lists that it gives.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np

from ptw.errors import PtwError
from ptw.evals.attributes import Attribute, Items, attribute_of, read_items
from ptw.evals.baselines import BASELINES, ranked_by
from ptw.evals.bootstrap import DRAWS, Estimate, estimates
from ptw.evals.cases import Case, Catalogue, cases, catalogue_of, count, drawn, split_of
from ptw.evals.evaluate import device_of, tokenizer_of, window_of
from ptw.evals.generated import width_for
from ptw.evals.known import Known
from ptw.evals.later import later_of
from ptw.evals.lists import coverage, described, varied
from ptw.evals.ranker import model_ranked
from ptw.evals.ranking import CUTS, MISSED, Ranked
from ptw.evals.slices import Slice, keys_of, sliced
from ptw.evals.unseen import demand_unseen
from ptw.runs.open import Opened, demand_words
from ptw.workspace.manifest import DatasetEntry, Workspace

FURTHEST = 1000  # items of a list


@dataclass(frozen=True)
class Asked:
    """What a user wants to know."""

    cuts: tuple[int, ...] = CUTS
    slices: tuple[str, ...] = ()
    attribute: str | None = None  # a key of the items; "none" for none
    beams: int | None = None  # of models that generate; None: twice as many as the longest list has items
    new: float = 0.0  # the share of each list for items that came after a run
    cases: int | None = None  # so many sequences, drawn at random; None: all
    baselines: bool = True  # whether rankers that learn nothing stand beside
    draws: int = DRAWS
    seed: int = 0  # of what is drawn

    @property
    def top(self) -> int:
        return max(self.cuts)


@dataclass(frozen=True)
class Scorer:
    """A run or a baseline: its values, (N,) of each figure, and what only all of its lists tell."""

    name: str
    ranks_N: np.ndarray
    tops_NK: np.ndarray  # items' numbers, -1 behind a list's end
    values: Mapping[str, np.ndarray]
    whole: Mapping[str, float]


@dataclass(frozen=True)
class Recommended:
    """What was measured of every scorer, the runs first, on the same cases."""

    dataset: str
    asked: Asked
    known: Known
    targets_N: np.ndarray
    repeats: int  # cases whose target is in their input, which nobody can find
    leaked: int  # cases whose target stands in the training part of another row of the same id
    attribute: str | None
    runs: tuple[str, ...]
    scorers: tuple[Scorer, ...]
    slices: tuple[Slice, ...] = ()
    unsure: tuple[str, ...] = ()  # what of the runs' past may flatter their figures
    beams: Mapping[str, int] = field(default_factory=dict)  # of those that rank what their beams find alone
    drawn_from: int | None = None  # of how many sequences these were drawn; None: they are all

    @cached_property
    def figures(self) -> dict[str, dict[str, Estimate]]:
        """Of each scorer each figure, in the order of a report. Of coverage no interval is known."""
        found = {}
        for scorer, estimated in zip(self.scorers, self._estimated(None), strict=True):
            alone = {name: Estimate(value, np.nan, np.nan) for name, value in scorer.whole.items()}
            found[scorer.name] = {**estimated, **alone}
        return found

    @cached_property
    def differences(self) -> dict[str, dict[str, Estimate]]:
        """Of each scorer but the first its figures less those of the first, case by case."""
        first, *others = self.scorers
        names = list(first.values)
        columns = [other.values[name] - first.values[name] for other in others for name in names]
        found = iter(self._bootstrapped(columns))
        return {other.name: {name: next(found) for name in names} for other in others}

    @cached_property
    def by_slice(self) -> list[tuple[Slice, dict[str, dict[str, Estimate]]]]:
        """Of each slice of each scorer the figures of accuracy."""
        names = list(accuracy(np.empty(0), self.asked.cuts))
        found = []
        for one in self.slices:
            estimated = self._estimated(one.places, names)
            found.append((one, {s.name: e for s, e in zip(self.scorers, estimated, strict=True)}))
        return found

    def _estimated(
        self, places: np.ndarray | None, names: Sequence[str] | None = None
    ) -> list[dict[str, Estimate]]:
        wanted = list(self.scorers[0].values) if names is None else list(names)
        columns = [scorer.values[name] for scorer in self.scorers for name in wanted]
        found = iter(self._bootstrapped(columns if places is None else [one[places] for one in columns]))
        return [{name: next(found) for name in wanted} for _ in self.scorers]

    def _bootstrapped(self, columns: Sequence[np.ndarray]) -> list[Estimate]:
        return estimates(np.stack(columns, axis=1), self.asked.draws, self.asked.seed) if columns else []


def recommend(
    workspace: Workspace,
    runs: Iterable[Opened],
    entry: DatasetEntry,
    asked: Asked | None = None,
    beside: Iterable[Opened] = (),
) -> Recommended:
    """One model in memory at a time, if `runs` opens them as it is asked. They must rank the same items.

    `beside`: others, which stand there as the baselines do.
    """
    asked = asked or Asked()
    split_of(entry)  # refuses what was not held out
    chosen, drawn_from = _drawn(workspace, entry, asked)
    ranked: dict[str, list[Ranked]] = {}
    catalogue: Catalogue | None = None
    items: Items | None = None
    held_out: list[Case] = []
    names: list[str] = []
    unsure: list[str] = []
    beams: dict[str, int] = {}
    for opened, is_asked in chain(((one, True) for one in runs), ((one, False) for one in beside)):
        names += [opened.name] if is_asked else []
        demand_words(opened)
        unsure += demand_unseen(workspace, opened, entry)
        tokenizer, window = tokenizer_of(opened), window_of(opened)
        own = catalogue_of(tokenizer)
        if catalogue is None:
            catalogue, items = own, items_of(workspace, opened, own)
        _demand_same(own, catalogue, opened.name)
        _demand_cuts(asked, catalogue)
        about = keys_of(asked.slices)
        beams |= {opened.name: asked.beams or width_for(asked.top)} if tokenizer.vocabularies else {}
        held_out = list(cases(workspace.root, entry, tokenizer, catalogue, "test", window, about, chosen))
        if not held_out:
            raise PtwError(f"dataset {entry.name}: no sequence has an item before its last; there is no test")
        ranked[opened.name] = _ranked(opened, held_out, catalogue, asked)
    assert catalogue is not None, "somebody names a run"
    known = Known.read(workspace.root, entry, catalogue)
    baselines = BASELINES if asked.baselines else {}
    ranked |= {name: ranked_by(ranker, held_out, known, asked.top) for name, ranker in baselines.items()}
    attribute = attribute_of(items, asked.attribute)
    return Recommended(
        dataset=entry.name,
        asked=asked,
        known=known,
        targets_N=np.array([case.target for case in held_out]),
        repeats=sum(case.target in case.seen for case in held_out),
        leaked=known.leaked(held_out),
        unsure=tuple(dict.fromkeys(unsure)),
        beams=beams,
        drawn_from=drawn_from,
        attribute=attribute.name if attribute else None,
        runs=tuple(names),
        scorers=tuple(scored(name, one, held_out, known, attribute, asked) for name, one in ranked.items()),
        slices=tuple(sliced(held_out, known, items, asked.slices)),
    )


def _drawn(
    workspace: Workspace, entry: DatasetEntry, asked: Asked
) -> tuple[frozenset[int] | None, int | None]:
    """The numbers of the sequences that are asked for, and of how many they were drawn; None: all."""
    if asked.cases is None:
        return None, None
    of = count(workspace.root, entry, "test")
    return (drawn(of, asked.cases, asked.seed), of) if asked.cases < of else (None, None)


def _ranked(opened: Opened, held_out: Sequence[Case], catalogue: Catalogue, asked: Asked) -> list[Ranked]:
    return model_ranked(
        opened.loaded.module,
        held_out,
        catalogue,
        tokenizer_of(opened),
        window_of(opened),
        device_of(opened),
        top=asked.top,
        beams=asked.beams,
        later=later_of(opened, asked.new),
    )


def scored(
    name: str,
    ranked: Sequence[Ranked],
    sequences: Sequence[Case],
    known: Known,
    attribute: Attribute | None,
    asked: Asked,
) -> Scorer:
    """The values of each case, whoever ranked."""
    ranks_N = np.array([one.rank for one in ranked])
    tops_NK = np.full((len(ranked), asked.top), -1)
    for place, one in enumerate(ranked):
        tops_NK[place, : len(one.top)] = one.top[: asked.top]
    values = {**accuracy(ranks_N, asked.cuts), **described(tops_NK, known, asked.cuts)}
    if attribute is not None:
        values |= varied(tops_NK, sequences, attribute, asked.cuts)
    return Scorer(name, ranks_N, tops_NK, values, coverage(tops_NK, len(known.counts_I), asked.cuts))


def accuracy(ranks_N: np.ndarray, cuts: Sequence[int]) -> dict[str, np.ndarray]:
    """recall@k and ndcg@k of one target a case, and the reciprocal rank among all items."""
    found = {}
    for cut in cuts:
        found[f"recall@{cut}"] = (ranks_N <= cut).astype(float)
        found[f"ndcg@{cut}"] = np.where(ranks_N <= cut, 1 / np.log2(ranks_N + 1.0), 0.0)
    found["mrr"] = np.where(ranks_N < MISSED, 1 / ranks_N, 0.0)
    return found


def demand_seeds(runs: Iterable[Opened]) -> Iterator[Opened]:
    """The runs as they come; PtwError if one differs from the first in more, or less, than its seed."""
    seeds: dict[object, str] = {}
    first: dict[str, object] | None = None
    for opened in runs:
        settings = dict(opened.plan["settings"]) if opened.plan else {}
        seed = settings.pop("seed", None)
        first = settings if first is None else first
        other = sorted(key for key in {*first, *settings} if first.get(key) != settings.get(key))
        if other:
            raise PtwError(f"{opened.name} is no other seed of the first: {other[0]} differs; use --compare")
        if seed in seeds:
            raise PtwError(
                f"{opened.name} and {seeds[seed]} have the same seed ({seed}), so they tell of no spread; "
                "train with --set seed=..."
            )
        seeds[seed] = opened.name
        yield opened


def items_of(workspace: Workspace, opened: Opened, catalogue: Catalogue) -> Items | None:
    """Of the files that the run's tokenizer, or its semantic IDs, were made of; None where none is known."""
    tokenizer = tokenizer_of(opened)
    files = [file for ids in tokenizer.vocabularies.values() for file in ids.facts.get("files", ())]
    if not files and opened.plan and opened.plan["tokenizer"].get("items"):
        files = [opened.plan["tokenizer"]["items"]]
    return read_items(workspace.root, tuple(dict.fromkeys(files)), catalogue) if files else None


def _demand_same(own: Catalogue, first: Catalogue, name: str) -> None:
    if set(own.names) != set(first.names):
        raise PtwError(
            f"{name} ranks other items ({len(own.names):,}) than the first run ({len(first.names):,}), so "
            "their figures do not compare; train them with one tokenizer"
        )


def _demand_cuts(asked: Asked, catalogue: Catalogue) -> None:
    most = min(FURTHEST, len(catalogue.names))
    if asked.top > most:
        raise PtwError(f"--at {asked.top}: a list has at most {most:,} items here; name smaller ones")
