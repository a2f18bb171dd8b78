"""With which tokenizer and window is a dataset looked at? Those of the recipe that names it."""

from collections.abc import Iterator
from dataclasses import dataclass

from ptw.errors import PtwError
from ptw.train.plan import settings_of
from ptw.workspace import rooms
from ptw.workspace.manifest import DatasetEntry, RecipeEntry, Workspace
from ptw.workspace.problem import hint_of

WINDOW = 1024  # where no recipe says one


@dataclass(frozen=True)
class Setup:
    """How training reads the dataset. `role`: what the dataset is to the recipe; `rows`: of a step."""

    tokenizer: str
    window: int
    recipe: str | None = None
    role: str = ""
    rows: int | None = None
    seed: int = 0

    @property
    def shuffle(self) -> bool:
        """An eval_dataset is read in order."""
        return self.role != "eval_dataset"


def dataset_named(workspace: Workspace, name: str) -> DatasetEntry:
    """PtwError: there is none of this name."""
    if name not in workspace.datasets:
        hint = hint_of(name, list(workspace.datasets), "datasets")
        raise PtwError(f"workspace.toml: no dataset named {name!r}; {hint}")
    return workspace.datasets[name]


def uses(workspace: Workspace, dataset: str) -> list[Setup]:
    """How each recipe that names the dataset reads it: those that train on it, measure on it, mix it."""
    found = [
        _setup(workspace, recipe, role)
        for recipe in workspace.recipes.values()
        for role in _roles(workspace, recipe, dataset)
    ]
    return sorted(found, key=lambda use: _ORDER.get(use.role, len(_ORDER)))


def chosen(
    workspace: Workspace, dataset: str, recipe: str | None, tokenizer: str | None, window: int | None
) -> tuple[Setup, tuple[str, ...]]:
    """The setup, and what else there is to choose from. PtwError: nothing says which tokenizer."""
    found = uses(workspace, dataset)
    if recipe is not None:
        own = [use for use in found if use.recipe == recipe]
        setup, notes = own[0] if own else _unrelated(workspace, recipe), list[str]()
    elif tokenizer is not None:
        _require_tokenizer(workspace, tokenizer)
        setup, notes = Setup(tokenizer, window or (found[0].window if found else WINDOW)), []
        if window is None:
            notes = [f"a window of {setup.window:,} is taken; --window takes another"]
    elif found:
        setup, notes = found[0], _others(found)
    else:
        declared = ", ".join(workspace.tokenizers) or "none is declared"
        raise PtwError(
            f"no recipe names dataset {dataset}, so that nothing says with which tokenizer it is read; "
            f"give --tokenizer (declared: {declared}) or --recipe"
        )
    return (setup if window is None else _widened(setup, window)), tuple(notes)


_ORDER = {"dataset": 0, "eval_dataset": 1}


def _roles(workspace: Workspace, recipe: RecipeEntry, dataset: str) -> Iterator[str]:
    for role, name in (("dataset", recipe.dataset), ("eval_dataset", recipe.eval_dataset)):
        if name == dataset:
            yield role
        elif name is not None and dataset in [part.dataset.name for part in workspace.datasets[name].mix]:
            yield f"part of {name}"


def _setup(workspace: Workspace, recipe: RecipeEntry, role: str) -> Setup:
    """A recipe of the workspace's own may know no window, rows or seed."""
    settings = settings_of(rooms.files(workspace.root, "recipes")[recipe.recipe], recipe.settings, {})
    window, rows, seed = (settings.get(key) for key in ("window", "rows", "seed"))
    return Setup(
        recipe.tokenizer,
        window if isinstance(window, int) else WINDOW,
        recipe.name,
        role,
        rows if isinstance(rows, int) and role == "dataset" else None,
        seed if isinstance(seed, int) and role != "eval_dataset" else 0,
    )


def _unrelated(workspace: Workspace, recipe: str) -> Setup:
    if recipe not in workspace.recipes:
        hint = hint_of(recipe, list(workspace.recipes), "recipes")
        raise PtwError(f"--recipe: workspace.toml has no recipe {recipe!r}; {hint}")
    return _setup(workspace, workspace.recipes[recipe], "dataset")


def _require_tokenizer(workspace: Workspace, name: str) -> None:
    if name not in workspace.tokenizers:
        hint = hint_of(name, list(workspace.tokenizers), "tokenizers")
        raise PtwError(f"--tokenizer: workspace.toml has no tokenizer {name!r}; {hint}")


def _others(found: list[Setup]) -> list[str]:
    """The first is taken; of the others one of each tokenizer and window is named."""
    pairs: dict[tuple[str, int], Setup] = {}
    for use in found:
        pairs.setdefault((use.tokenizer, use.window), use)
    return [
        f"recipe {use.recipe} reads it with tokenizer {use.tokenizer} and a window of {use.window:,}: "
        f"--recipe {use.recipe}"
        for use in list(pairs.values())[1:]
    ]


def _widened(setup: Setup, window: int) -> Setup:
    return Setup(setup.tokenizer, window, setup.recipe, setup.role, setup.rows, setup.seed)
