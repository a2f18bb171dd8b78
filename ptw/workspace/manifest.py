"""What does a workspace declare? workspace.toml, checked whole, then frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ptw.errors import PtwError
from ptw.workspace.check import document_problems
from ptw.workspace.document import FILE, Document, read_document
from ptw.workspace.entries import written

BUILT = "semantic_ids"  # the folder of vocabularies that were built


@dataclass(frozen=True)
class ModelEntry:
    name: str
    hf: str | None = None  # Hub id, or a folder relative to the root
    revision: str | None = None
    config: Mapping[str, Any] | None = None  # Hugging Face's fields, without vocab_size
    port: str | None = None  # default: the checkpoint's model_type
    endpoint: str | None = None  # where others serve it, in OpenAI's protocol
    served_as: str | None = None  # what it is called there
    api_key_env: str | None = None  # the variable of the environment that holds the key
    usd_per_million_input: float | None = None
    usd_per_million_output: float | None = None


@dataclass(frozen=True)
class FieldEntry:
    """A field of events beside their item: when it is known, and which of its values are told apart."""

    name: str
    known: str  # before: as soon as the item is asked for; after: once the event is over
    key: str  # of the row: a list with a value for each item
    values: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    part: str | None = None  # of a time: hour, weekday, or gap, the seconds since the event before
    learn: bool = False


@dataclass(frozen=True)
class TokenizerEntry:
    name: str
    hf: str | None = None
    revision: str | None = None
    items: str | None = None
    learn_from: str | None = None
    vocab_size: int | None = None
    chat_template: str | None = None
    semantic_ids: tuple[str, ...] = ()  # vocabularies whose codes are tokens, too
    special_tokens: tuple[str, ...] = ()
    init: str = "grounded"  # of the rows that a model gets for them
    fields: Mapping[str, FieldEntry] = field(default_factory=dict)  # of events, in this order
    merges: int = 0  # of tokens of fields that stand beside each other
    merges_from: str | None = None  # the dataset of events that teaches them


@dataclass(frozen=True)
class SemanticIdsEntry:
    """How the items of a catalogue get codes; which of the versions that were built is used."""

    name: str
    items: str
    version: int | None = None  # default: the newest
    embeddings: str | None = None  # a file of vectors, in place of an encoder
    encoder: str = "lsa"  # lsa, none, or a model, run or recipe
    text: str = "text"  # the key of an item's text
    behaviour: str | None = None  # a dataset of events
    quantizer: str = "residual-kmeans"
    levels: int = 3
    codebook_size: int = 256
    seed: int = 0


@dataclass(frozen=True)
class DatasetEntry:
    """Rows of files; or, of format `mix`, of other datasets, in shares."""

    name: str
    source: tuple[str, ...]
    format: str
    leave_out: int = 0
    too_long: str = "error"
    query_prompt: str = ""  # of pairs: what stands before every query
    document_prompt: str = ""
    mix: tuple["Share", ...] = ()

    @property
    def parts(self) -> tuple["Share", ...]:
        """The datasets to read: what has rows of its own is its only part."""
        return self.mix or (Share(self, 1),)


@dataclass(frozen=True)
class Share:
    """A part of a mix; the weights of a mix are shares of the samples, and need not add up to 1."""

    dataset: DatasetEntry
    weight: float


@dataclass(frozen=True)
class ClusterEntry:
    name: str
    address: str | None = None  # default: this machine
    workers: int = 1
    gpus_per_worker: float = 0
    replicas: int = 1  # copies of the model; the workers of a copy hold it between them
    tensor: int = 1  # workers that compute one batch together, each with some of the heads
    experts: int = 1  # workers that hold a block's experts between them, and send each other tokens
    recompute: bool = False
    renderers: int = 0  # processes of a worker that tokenise for it; 0: a thread of its own
    rollouts: int = 1  # engines that draw answers, where a recipe has them drawn
    gpus_per_rollout: float = 0
    storage: str | None = None  # where a job's runs are seen from here
    folder: str | None = None  # where they lie on the cluster

    @property
    def takes_jobs(self) -> bool:
        """Whether runs are handed to it, and not driven from here: its address is the Jobs API's."""
        return (self.address or "").startswith(("http://", "https://"))


@dataclass(frozen=True)
class RecipeEntry:
    name: str
    recipe: str
    model: str
    tokenizer: str
    dataset: str
    eval_dataset: str | None = None
    cluster: str | None = None
    roles: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class AgentEntry:
    """Who ports a new family, and what one run of it may cost."""

    llm: str | None = None  # as litellm names it
    api_base: str | None = None
    budget_usd: float = 5.0
    max_steps: int = 60
    max_minutes: float = 90.0
    max_submissions: int = 4
    usd_per_million_input: float | None = None
    usd_per_million_output: float | None = None
    usd_per_million_cached: float | None = None
    command: str | None = None
    environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workspace:
    root: Path
    name: str
    models: Mapping[str, ModelEntry]
    tokenizers: Mapping[str, TokenizerEntry]
    datasets: Mapping[str, DatasetEntry]
    clusters: Mapping[str, ClusterEntry]
    recipes: Mapping[str, RecipeEntry]
    agent: AgentEntry = AgentEntry()
    tracking: Mapping[str, str | bool] = field(default_factory=lambda: MappingProxyType({}))
    semantic_ids: Mapping[str, SemanticIdsEntry] = field(default_factory=lambda: MappingProxyType({}))


def find(start: Path) -> Path:
    """The nearest folder, from `start` upwards, that has a workspace.toml."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / FILE).exists():
            return folder
    raise PtwError(f"{start}: no {FILE} here or above; `ptw init NAME` makes a workspace")


def read(root: Path) -> Workspace:
    """The workspace in this folder; one PtwError lists every problem."""
    document = read_document(root)
    found = document_problems(document)
    if found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise PtwError("\n".join([f"{FILE} has {count}:", *(str(problem) for problem in found)]))
    return frozen(document)


def frozen(document: Document) -> Workspace:
    values = document.values
    return Workspace(
        root=document.root.resolve(),
        name=values["workspace"]["name"],
        models={name: ModelEntry(name, **table) for name, table in section(values, "models")},
        tokenizers={name: tokenizer_entry(name, **table) for name, table in section(values, "tokenizers")}
        | own_tokenizers(values),
        datasets=dataset_entries(dict(section(values, "datasets"))),
        clusters={name: ClusterEntry(name, **table) for name, table in section(values, "clusters")},
        recipes={
            name: RecipeEntry(name, **{"tokenizer": table["model"], **table})
            for name, table in section(values, "recipes")
        },
        agent=agent_entry(**values.get("agent", {})),
        tracking=MappingProxyType(dict(values.get("tracking", {}))),
        semantic_ids={
            name: SemanticIdsEntry(name, **table) for name, table in section(values, "semantic_ids")
        },
    )


def own_tokenizers(values: Mapping[str, Any]) -> dict[str, TokenizerEntry]:
    """Those of the checkpoints whose recipes name no tokenizer, by the model's name."""
    models = dict(section(values, "models"))
    used = [table["model"] for _, table in section(values, "recipes") if "tokenizer" not in table]
    return {name: TokenizerEntry(name, models[name]["hf"], models[name].get("revision")) for name in used}


def section(values: Mapping[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(values.get(name, {}).items())


def dataset_entries(tables: Mapping[str, dict[str, Any]]) -> dict[str, DatasetEntry]:
    """In the file's order; a mix holds its parts, wherever they stand."""
    plain = {name: dataset_entry(name, **table) for name, table in tables.items() if "mix" not in table}
    return {
        name: plain[name] if name in plain else mix_entry(name, table["mix"], plain)
        for name, table in tables.items()
    }


def mix_entry(name: str, weights: Mapping[str, float], plain: Mapping[str, DatasetEntry]) -> DatasetEntry:
    return DatasetEntry(
        name, (), "mix", mix=tuple(Share(plain[part], weight) for part, weight in weights.items())
    )


def dataset_entry(name: str, source: str | list[str], **table: Any) -> DatasetEntry:
    return DatasetEntry(name, (source,) if isinstance(source, str) else tuple(source), **table)


def tokenizer_entry(
    name: str,
    semantic_ids: str | Sequence[str] = (),
    special_tokens: Sequence[str] = (),
    fields: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **table: Any,
) -> TokenizerEntry:
    """Of its table in workspace.toml, or of what a run's record holds."""
    vocabularies = (semantic_ids,) if isinstance(semantic_ids, str) else tuple(semantic_ids)
    declared = {one: field_entry(**{"name": one, **values}) for one, values in fields.items()}
    return TokenizerEntry(
        name, semantic_ids=vocabularies, special_tokens=tuple(special_tokens), fields=declared, **table
    )


def field_entry(
    name: str,
    known: str,
    key: str | None = None,
    values: Sequence[str | int] = (),
    bounds: Sequence[float] = (),
    learn: bool | None = None,
    **table: Any,
) -> FieldEntry:
    """What a request brings is not learnt, what came of it is, unless the workspace says otherwise."""
    return FieldEntry(
        name,
        known,
        key or name,
        tuple(map(written, values)),
        tuple(bounds),
        learn=(known == "after") if learn is None else learn,
        **table,
    )


def agent_entry(environment: Sequence[str] = (), **table: Any) -> AgentEntry:
    return AgentEntry(environment=tuple(environment), **table)
