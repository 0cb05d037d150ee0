"""A method as data: a tree of registered names and plain values, read by arms, `kd distill`, catalog and gallery.

    title: TAID
    settings: {start: 0.4, step_size: 5.0e-4}
    terms:
      - {divergence: forward-kl, target: {name: interpolated-logits, start: $start, step_size: $step_size}}

`$name` stands for a setting, looked up, never evaluated; one that is null says nothing, but where a component takes
null for something of its own. Nothing here imports torch: a recipe is read, checked against the registry and brought
into its canonical form, so that whoever hashes it hashes what is computed and not how it was written.
`methods.assembly` builds the trainer.

Teachers are named by whoever runs a recipe, "main" where it says nothing. One name is taken: the teacher "student" is
the student as it is before the training, frozen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from methods.data_tree import canonical_data
from methods.errors import MethodError
from methods.registry import (
    NESTED,
    NESTED_LISTS,
    RegistryError,
    canonical,
    canonical_settings,
    find,
    near,
    plain,
)
from methods.trees import below, known_keys, text

FOLDER = Path(__file__).resolve().parent / "recipes"
METHOD_KEYS = ("trainer", "teacher", "data", "terms", "sampler", "gradient_balance", "advantage", "rewards")
WRITES, OF_CLASSES = "distillation", "classes"  # the trainers of terms: on answers, on labels of texts
PRIVILEGED = "privileged-distillation"  # on answers, with a teacher that reads more than the student
OF_ANSWERS = (WRITES, PRIVILEGED)
SAMPLES_ITSELF = "policy-optimisation"  # the trainer that has an advantage and rewards beside its terms
PRIVILEGED_POLICY = "privileged-policy"  # the same, with a teacher that reads more than the student
OPTIMISES = (SAMPLES_ITSELF, PRIVILEGED_POLICY)
SIBLING = (
    "sibling"  # in what its teacher reads: a right completion of the student's to the same prompt; no column
)
POLICIES = (*OPTIMISES, "minillm")  # trainers that follow a policy gradient
RECIPE_KEYS = ("title", "settings", "needs", *METHOD_KEYS)
# What a divergence's term has beside the settings of the divergence itself, with defaults.
TERM_DEFAULTS: Mapping[str, Any] = {
    "weight": 1.0,
    "temperature": 1.0,
    "temperature_squared": False,
    "target": "teacher",
    "sources": [],
    "over": "tokens",
    "token_weights": None,
    "row_settings": None,
    "support": None,
}
OVER = ("tokens", "sequences")  # what a divergence's mean is over
SOURCES = ("data", "teacher", "student")
# Data steps that ask the student itself, and no teacher.
OWN_STEPS = frozenset(
    {"own-answers", "agreed-answers", "right-answers", "pass-rates", "guide-answers", "self-guided"}
)
# Those of them that train it first, by the training's own arguments.
TRAINING_STEPS = frozenset({"guide-answers"})
# Data steps that ask a teacher, and the student before its training what it makes of the answers.
BOTH_STEPS = frozenset({"teacher-traces"})
ITSELF = "student"  # the teacher that is the student before the training
# Slots of the components that stand under a key somewhere in a method.
NESTED_IN_METHOD: Mapping[str, str] = {
    "target": "target",
    "sampler": "sampler",
    "support": "support",
    "score": "score",
    "token_weights": "token-weights",
    "row_settings": "row-settings",
    "rewards": "reward",
    **NESTED,
    **NESTED_LISTS,
}
# And those on top of one: what the components under a key of a tree are.
SLOTS: Mapping[str, str] = {**NESTED_IN_METHOD, "trainer": "trainer", "data": "data", "of": "data"}


@dataclass(frozen=True)
class Recipe:
    """A file of methods/recipes: `settings` are what a user may set, `tree` what they are put into.

    `needs` says, in a sentence, what the method needs that not every user has; `about` is the comment on top.
    """

    id: str
    title: str
    settings: Mapping[str, Any]
    tree: Mapping[str, Any]
    needs: str
    about: str
    path: Path

    def method(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The tree with these settings in place of the defaults. Raises RegistryError for one it does not have."""
        given = dict(settings or {})
        for name in given:
            if name not in self.settings:
                known = f"; it has {', '.join(self.settings)}" if self.settings else "; it has none"
                raise RegistryError(
                    f'{self.id} has no setting "{name}"{near(name, self.settings)}{known}', name
                )
        return substitute(self.tree, {**self.settings, **given})


def recipe_ids(folder: Path | None = None) -> list[str]:
    """The ids of all recipes, sorted."""
    return sorted(path.stem for path in (folder or FOLDER).glob("*.yaml"))


def read_recipe(name: str, folder: Path | None = None) -> Recipe:
    """The recipe of that id. Raises RegistryError with the nearest id, or naming file and line of what is wrong."""
    known = recipe_ids(folder)
    if name not in known:
        raise RegistryError(f'no method "{name}"{near(name, known)}; known: {", ".join(known)}')
    return _read((folder or FOLDER) / f"{name}.yaml")


@cache
def _read(path: Path) -> Recipe:
    text = path.read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    try:
        if not isinstance(data, dict) or not isinstance(data.get("title"), str):
            raise RegistryError("a recipe is a mapping with a title")
        known_keys(data, RECIPE_KEYS, "a recipe")
        settings = data.get("settings") or {}
        tree = {name: value for name, value in data.items() if name in METHOD_KEYS}
        recipe = Recipe(
            path.stem,
            data["title"],
            plain(settings),
            plain(tree),
            data.get("needs", ""),
            _comment(text),
            path,
        )
        unused = set(settings) - set(variables(tree))
        if unused:
            name = sorted(unused)[0]
            raise RegistryError(f'the setting "{name}" stands nowhere as ${name}', "settings", name)
        canonical_method(recipe.method())
    except RegistryError as error:
        raise RegistryError(f"{path}:{line_of(text, error.path)}: {error}") from None
    return recipe


def _comment(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def line_of(text: str, path: Iterable[str | int]) -> int:
    """The line, from 1, of the value at `path` in a YAML text, or of the closest thing around it."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(step)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line


def substitute(tree: Any, values: Mapping[str, Any], slot: str | None = None) -> Any:
    """The tree with every `$name` replaced by its value. Raises RegistryError for a name without one.

    Where the value is null the key is left out: nothing is said, and the component's own default holds. Only where the
    component takes a null there, and has another default, the null is said. `slot` is that of the components in `tree`.
    """
    if isinstance(tree, str) and tree.startswith("$"):
        name = tree[1:]
        if name not in values:
            raise RegistryError(f'nothing is called "${name}"{near(name, values)}')
        return plain(values[name])
    if isinstance(tree, list):
        return [_at(place, item, values, slot) for place, item in enumerate(tree)]
    if not isinstance(tree, Mapping):
        return tree
    made = {name: _at(name, item, values, SLOTS.get(name, name)) for name, item in tree.items()}
    unsaid = [
        name
        for name, item in tree.items()
        if made[name] is None and item is not None and not _takes_null(slot, made, name)
    ]
    return {name: item for name, item in made.items() if name not in unsaid}


def _at(place: str | int, item: Any, values: Mapping[str, Any], slot: str | None) -> Any:
    try:
        return substitute(item, values, slot)
    except RegistryError as error:
        raise error.below(place) from None


def _takes_null(slot: str | None, tree: Mapping[str, Any], name: str) -> bool:
    """Whether null is a value of its own for that setting of a component: one it takes, and not what it has anyway."""
    try:
        parameter = find(slot or "", tree.get("name", tree.get("use"))).parameters.get(name)
    except MethodError:  # no component: a part of a tree that holds some
        return False
    return parameter is not None and "None" in parameter.kind.split(" | ") and parameter.default is not None


def variables(tree: Any) -> list[str]:
    """The names that stand in a tree as `$name`."""
    if isinstance(tree, str):
        return [tree[1:]] if tree.startswith("$") else []
    items = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ()
    return [name for item in items for name in variables(item)]


def canonical_method(tree: Mapping[str, Any], steps: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The one form of a method: names checked, defaults left out, teachers as a list, named data steps written out.

    `steps` are data steps by name. Raises RegistryError whose `path` leads to what is wrong.
    """
    known_keys(tree, METHOD_KEYS, "a method")
    trainer = below("trainer", canonical, "trainer", tree.get("trainer") or WRITES)
    made: dict[str, Any] = {
        "trainer": trainer,
        "data": below("data", canonical_data, tree.get("data"), steps or {}),
    }
    teachers = tree.get("teacher", "main")
    teachers = [] if teachers is None else teachers if isinstance(teachers, list) else [teachers]
    made["teachers"] = [below("teacher", text, name, "a teacher") for name in teachers]
    terms = tree.get("terms")
    if trainer["name"] in (*OF_ANSWERS, OF_CLASSES):
        if not isinstance(terms, list) or not terms:
            raise RegistryError("a method needs terms: a list of what its loss is made of", "terms")
        parts = [below(("terms", n), canonical_term, term) for n, term in enumerate(terms)]
        made["terms"] = [part for part in parts if part.get("weight") != 0]  # a term of weight zero is none
        if not made["terms"]:
            raise RegistryError("every term has the weight zero", "terms")
    elif trainer["name"] in OPTIMISES:
        made |= _policy(tree)
    elif terms is not None:
        raise RegistryError(f"the trainer {trainer['name']} has a loss of its own: no terms", "terms")
    if trainer["name"] not in OPTIMISES:
        for name in ("advantage", "rewards"):
            if tree.get(name) is not None:
                raise RegistryError(f'"{name}" goes with the trainer {" or ".join(OPTIMISES)}', name)
    if tree.get("sampler") is not None:
        made["sampler"] = below("sampler", canonical, "sampler", tree["sampler"])
    balance = tree.get("gradient_balance", False)
    if not isinstance(balance, bool):
        raise RegistryError('"gradient_balance" must be true or false', "gradient_balance")
    if balance:
        made["gradient_balance"] = True
    return made


def _policy(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Advantage, rewards and terms of a method that samples itself; those that are there."""
    for name in ("sampler", "gradient_balance"):
        if tree.get(name):
            raise RegistryError(f'{SAMPLES_ITSELF} samples itself and takes no "{name}"', name)
    made: dict[str, Any] = {}
    if tree.get("advantage") is not None:
        made["advantage"] = below("advantage", canonical, "advantage", tree["advantage"])
    for key, read in (("rewards", _reward), ("terms", canonical_term)):
        parts = tree.get(key) or []
        if not isinstance(parts, list):
            raise RegistryError(f'"{key}" is a list', key)
        read_parts = [below((key, n), read, part) for n, part in enumerate(parts)]
        kept = [part for part in read_parts if part.get("weight") != 0]
        made |= {key: kept} if kept else {}
    if not {"advantage", "terms"} & set(made):
        raise RegistryError("nothing to learn from: an advantage, or terms", "advantage")
    return made


def _reward(tree: Any) -> dict[str, Any]:
    return canonical("reward", tree)


def canonical_term(tree: Any) -> dict[str, Any]:
    """One part of a loss: `{divergence: ...}` or `{term: ...}` with settings."""
    if not isinstance(tree, Mapping) or not {"divergence", "term"} & set(tree):
        raise RegistryError("a term is a mapping with a divergence or a term: {divergence: forward-kl}")
    if "term" in tree:
        scheduled = isinstance(tree.get("weight"), Mapping)
        settings = _without(_without(tree, "term"), "weight") if scheduled else _without(tree, "term")
        made = below("term", canonical, "term", {"name": tree["term"], **settings}, strip=True)
        weight = {"weight": _term_part("weight", tree["weight"])} if scheduled else {}
        return {"term": made.pop("name"), **made, **weight}
    entry = below("divergence", find, "divergence", tree["divergence"])
    own = {name: value for name, value in tree.items() if name != "divergence" and name not in TERM_DEFAULTS}
    made = {"divergence": entry.name, **canonical_settings(entry, own)}
    for name, default in TERM_DEFAULTS.items():
        value = _term_part(name, tree[name]) if name in tree else default
        if value != default and value != {"name": default}:
            made[name] = value
    return made


def _term_part(name: str, value: Any) -> Any:
    if name == "weight" and isinstance(value, Mapping):
        made = below(
            name, canonical, "schedule", {"name": value.get("schedule"), **_without(value, "schedule")}
        )
        return {"schedule": made.pop("name"), **made}
    if name in ("weight", "temperature"):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise RegistryError(f'"{name}" must be a number, not {value!r}', name)
        return float(value)
    if name == "temperature_squared":
        if not isinstance(value, bool):
            raise RegistryError(f'"{name}" must be true or false, not {value!r}', name)
        return value
    if name == "over":
        if value not in OVER:
            raise RegistryError(f'"{name}" is {" or ".join(OVER)}, not {value!r}', name)
        return value
    if name == "sources":
        for source in value if isinstance(value, list) else [value]:
            if source not in SOURCES:
                raise RegistryError(
                    f'no source "{source}"{near(str(source), SOURCES)}; known: {", ".join(SOURCES)}', name
                )
        return sorted(value) if isinstance(value, list) else [value]
    return None if value is None else below(name, canonical, name.replace("_", "-"), value)


def teachers_of(method: Mapping[str, Any]) -> list[str]:
    """The names of all teachers that a canonical method needs, those that write its data among them.

    Not the student itself, which is there anyway.
    """
    found = [name for name in method["teachers"] if name != ITSELF]

    def walk(tree: Any) -> None:
        if isinstance(tree, Mapping):
            if ("use" in tree and tree["use"] not in OWN_STEPS) or "elicit" in tree:
                found.append(tree.get("teacher", "main"))
            for item in tree.values():
                walk(item)
        elif isinstance(tree, list):
            for item in tree:
                walk(item)

    walk(method["data"])
    return list(dict.fromkeys(found))


def columns_of(method: Mapping[str, Any]) -> list[str]:
    """The columns of the rows that a canonical method's terms and teacher read beside prompt and completion."""
    found: list[str] = []

    def walk(tree: Any, slot: str) -> None:
        if not isinstance(tree, Mapping):
            return
        if slot and isinstance(tree.get("name"), str):
            column = find(slot, tree["name"]).parameters.get("column")
            if column is not None:
                found.append(str(tree.get("column", column.default)))
        for key, item in tree.items():
            walk(item, NESTED_IN_METHOD.get(key, ""))

    for term in method.get("terms", ()):
        walk(term, "")
    if (reads := readings_of(method)) is not None:
        known = ("prompt", "completion", *([SIBLING] if method["trainer"]["name"] in OPTIMISES else []))
        found += [name for name in columns_in(reads) if name not in known]
    return [name for name in dict.fromkeys(found) if name != "source"]  # who wrote a sequence is no column


def readings_of(method: Mapping[str, Any]) -> str | None:
    """What the teacher of a canonical method reads, columns in braces, in the place of the prompt; None: the prompt."""
    name = method["trainer"]["name"]
    if name not in (PRIVILEGED, PRIVILEGED_POLICY):
        return None
    default = find("trainer", name).parameters["reads"].default
    return str(method["trainer"].get("reads", default))


def columns_in(text: str) -> list[str]:
    """The names that stand in braces in a text, in order, each once. Raises MethodError for braces without a name."""
    found = re.findall(r"\{([^{}]*)\}", text)
    left = re.sub(r"\{[A-Za-z_]\w*\}", "", text)
    if any(sign in left for sign in "{}"):
        raise MethodError(f"braces hold the name of a column, as in {{completion}}; not so in {text!r}")
    return list(dict.fromkeys(found))


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text with names in braces, each replaced by its value, whatever that has in it."""
    return re.sub(r"\{([A-Za-z_]\w*)\}", lambda found: str(values[found[1]]), text)


def components_of(method: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(slot, name) of every component that a canonical method is made of, in a fixed order."""
    found: set[tuple[str, str]] = {("trainer", method["trainer"]["name"])}

    def walk(tree: Any, slot: str = "") -> None:
        if isinstance(tree, list):
            for item in tree:
                walk(item, slot)
        if not isinstance(tree, Mapping):
            return
        for key, kind in (
            ("divergence", "divergence"),
            ("term", "term"),
            ("use", "data"),
            ("schedule", "schedule"),
        ):
            if isinstance(tree.get(key), str):
                found.add((kind, tree[key]))
        for step in tree.get("elicit", ()):
            found.add(("elicitation", step["name"]))
        if slot and isinstance(tree.get("name"), str):
            found.add((slot, tree["name"]))
        for key, item in tree.items():
            walk(item, NESTED_IN_METHOD.get(key, ""))

    walk({name: item for name, item in method.items() if name != "trainer"})
    return sorted(found)


def _without(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != name}
