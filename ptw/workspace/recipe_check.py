"""What is wrong with a recipe of a workspace, before anything is run?"""

from collections.abc import Iterator, Mapping

from ptw.errors import PtwError
from ptw.workspace import places, rooms
from ptw.workspace.document import Document
from ptw.workspace.entries import Entry, formats_of, tables, text_of, unknown
from ptw.workspace.problem import Problem, hint_of

REFERENCES = {
    "model": "models",
    "tokenizer": "tokenizers",
    "dataset": "datasets",
    "eval_dataset": "datasets",
    "cluster": "clusters",
}


def recipe_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    path = ("recipes", name)
    for key, section in REFERENCES.items():
        target = text_of(entry, key)
        if target is not None and target not in tables(document, section):
            yield unknown(document, (*path, key), target, section)
    yield from own_tokenizer_problems(document, path, entry)
    yield from format_problems(document, path, entry)
    recipe = text_of(entry, "recipe")
    if recipe is None:
        return
    recipes = rooms.files(document.root, "recipes")
    if recipe not in recipes:
        hint = hint_of(recipe, list(recipes), "recipes")
        yield document.problem((*path, "recipe"), recipe, "there is no such file in recipes/", hint)
        return
    try:
        fields, formats = rooms.settings_fields(recipes[recipe]), rooms.formats(recipes[recipe])
        asked, optional = rooms.roles(recipes[recipe]), rooms.optional_roles(recipes[recipe])
        served = rooms.served(recipes[recipe])
        rewards, files = rooms.rewards_named(recipes[recipe]), rooms.files_named(recipes[recipe])
    except PtwError as error:
        yield document.problem((*path, "recipe"), recipe, "its Settings cannot be read", str(error))
        return
    for key in ("dataset", "eval_dataset"):
        yield from food_problems(document, (*path, key), text_of(entry, key) or "", recipe, formats)
    yield from role_problems(document, path, recipe, asked, optional, entry.get("roles", {}))
    yield from served_problems(document, path, recipe, served, entry)
    settings = entry.get("settings", {})
    if isinstance(settings, dict):
        yield from setting_problems(document, path, recipe, fields, settings)
        yield from reward_problems(document, (*path, "settings"), rewards, settings)
        for key in files:
            file = text_of(settings, key)
            if file is not None:
                yield from places.file_problems(document, (*path, "settings", key), file)


def own_tokenizer_problems(document: Document, path: tuple[str, ...], entry: Entry) -> Iterator[Problem]:
    """A recipe that names no tokenizer takes its model's own, which is called as the model is."""
    name, where = text_of(entry, "model") or "", (*path, "tokenizer")
    model = tables(document, "models").get(name)
    if "tokenizer" in entry or model is None:
        return
    if "hf" not in model:
        known = ", ".join(tables(document, "tokenizers")) or "none is declared"
        hint = f"add tokenizer: one of [tokenizers] ({known})"
        yield document.problem(where, None, f"missing, and model {name} is no checkpoint that has one", hint)
    elif name in tables(document, "tokenizers"):
        message = f"missing: the model's own, or [tokenizers.{name}]?"
        hint = f'add tokenizer = "{name}" for the latter, or give one of the two another name'
        yield document.problem(where, None, message, hint)


def food_problems(
    document: Document, path: tuple[str, ...], name: str, recipe: str, formats: tuple[str, ...]
) -> Iterator[Problem]:
    """A recipe says in FORMATS what it learns from; one that doesn't takes all."""
    for part, form in formats_of(document, name).items():
        if formats and form is not None and form not in formats:
            its = "its format" if part == name else f"the format of its part {part}"
            message = f"{its} is {form}, and recipes/{recipe} takes {' or '.join(formats)}"
            yield document.problem(path, name, message, "name another dataset or recipe")


def role_problems(
    document: Document,
    path: tuple[str, ...],
    recipe: str,
    asked: tuple[str, ...],
    optional: tuple[str, ...],
    given: object,
) -> Iterator[Problem]:
    """A recipe says in ROLES which other models must be given, in OPTIONAL_ROLES which may be."""
    roles = given if isinstance(given, dict) else {}
    known = [*asked, *optional]
    for role, model in roles.items():
        where = (*path, "roles", role)
        if role not in known:
            message = f"recipes/{recipe} has no such role"
            hint = hint_of(role, known, "roles") if known else "remove it"
            yield document.problem(where, model, message, hint)
        elif isinstance(model, str) and model not in tables(document, "models"):
            yield unknown(document, where, model, "models")
    for role in asked:
        if role not in roles:
            hint = f'add roles = {{ {role} = "..." }}, one of [models]'
            yield document.problem((*path, "roles", role), None, "missing", hint)


def served_problems(
    document: Document, path: tuple[str, ...], recipe: str, served: tuple[str, ...], entry: Entry
) -> Iterator[Problem]:
    """A recipe says in SERVED which of its models may be behind an endpoint; the others need weights."""
    roles = entry.get("roles")
    named: dict[tuple[str, ...], object] = {("model",): entry.get("model")}
    named |= {("roles", role): model for role, model in roles.items()} if isinstance(roles, dict) else {}
    for keys, model in named.items():
        known = tables(document, "models").get(model, {}) if isinstance(model, str) else {}
        if "endpoint" in known and keys[-1] not in served:
            message = f"an endpoint serves it, and recipes/{recipe} needs its weights here"
            yield document.problem((*path, *keys), model, message, "name a model with hf = ...")


def setting_problems(
    document: Document,
    path: tuple[str, ...],
    recipe: str,
    fields: Mapping[str, rooms.SettingField],
    settings: Entry,
) -> Iterator[Problem]:
    for key, value in settings.items():
        where = (*path, "settings", key)
        if key not in fields:
            message = f"recipes/{recipe} has no such setting"
            yield document.problem(where, value, message, hint_of(key, list(fields), "settings"))
        elif (fault := fields[key].fault(value)) is not None:
            yield document.problem(where, value, "wrong value", fault)
    for key, field in fields.items():
        if field.required and key not in settings:
            yield document.problem((*path, "settings", key), None, "missing", f"add {key} ({field.type})")


def reward_problems(
    document: Document, path: tuple[str, ...], asked: Mapping[str, tuple[str, ...]], settings: Entry
) -> Iterator[Problem]:
    """A recipe says in REWARDS which of its settings name files of rewards/, and what these must define."""
    there = rooms.files(document.root, "rewards")
    for key, functions in asked.items():
        named = settings.get(key)
        for name in named if isinstance(named, list) else [named]:
            if not isinstance(name, str):
                continue  # not given, or already told of
            if name not in there:
                hint = hint_of(name, list(there), "rewards")
                yield document.problem((*path, key), name, "there is no such file in rewards/", hint)
                continue
            try:
                lacking = [one for one in functions if not rooms.may_define(there[name], one)]
            except PtwError as error:
                yield document.problem((*path, key), name, "it cannot be read", str(error))
                continue
            for function in lacking:
                message = f"rewards/{name}.py has no `def {function}`, which this recipe calls"
                yield document.problem((*path, key), name, message, "add it, or name another file")


def format_problems(document: Document, path: tuple[str, ...], entry: Entry) -> Iterator[Problem]:
    """A tokenizer of items or codes alone knows no text, and one learnt from text alone knows no items."""
    tokenizer = tables(document, "tokenizers").get(text_of(entry, "tokenizer") or "", {})
    knows_text = bool({"hf", "learn_from"} & tokenizer.keys())
    for key in ("dataset", "eval_dataset"):
        name = text_of(entry, key) or ""
        for part, form in formats_of(document, name).items():
            its = "its format" if part == name else f"the format of its part {part}"
            if tokenizer and not knows_text and form not in ("event", None):
                message = f"{its} is {form}, and the tokenizer {entry['tokenizer']} knows only items"
                hint = "name a dataset of events, or another tokenizer"
                yield document.problem((*path, key), name, message, hint)
            if "learn_from" in tokenizer and "semantic_ids" not in tokenizer and form == "event":
                message = f"{its} is event, and the tokenizer {entry['tokenizer']} is learnt from text"
                yield document.problem(
                    (*path, key), name, message, "name a tokenizer with `items` or `semantic_ids`"
                )
