"""Components by slot and name: what a recipe may choose from, and with which settings.

    @component("divergence", "adaptive-kl")
    def adaptive_kl(block: Block, head_mass: float = 0.5) -> ...:

A component's settings are the parameters of its signature (of `__init__`, or the fields of a dataclass), its defaults
the literals that stand there, its entry in the gallery its docstring. They are read from the source, so that a plan, a
check or a page needs no torch; `load` imports the module of the one that is wanted. Parameters of CONTEXT are handed
over by whoever builds a component and are no settings.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from methods.errors import MethodError

SLOTS: Mapping[str, str] = {
    "trainer": "a loop that turns rows and terms into updates of the student",
    "term": "a part of the loss: a sum over what it counts",
    "divergence": "how far the student's next-token distribution is from the target's",
    "target": "the distribution that takes the teacher's place",
    "sampler": "which sequences a step learns from",
    "support": "the ids of the vocabulary that a divergence looks at",
    "token-weights": "a weight for each token",
    "score": "a number for each token, that weights are made of",
    "row-settings": "settings of a divergence that differ from row to row",
    "schedule": "a weight that changes over the training",
    "advantage": "how much better than expected each token of a sampled completion was, without gradient",
    "condition": "which tokens of sampled completions something holds for",
    "reward": "a figure for each sampled completion, by an exact check",
    "data": "rows made from rows, by a teacher or without one",
    "elicitation": "records made from records, by asking a session's teacher for text or without one",
}
# Handed over, never set: by the trainer, by the recipe's surroundings, or by the call itself.
CONTEXT = frozenset(
    {
        "self",
        "method",
        "block",
        "rows",
        "batch",
        "window",
        "step",
        "progress",
        "corpus",
        "seed",
        "trainer",
        "surroundings",
        "session",
    }
    | {"student", "teacher", "teachers", "tokenizer", "teacher_tokenizer"}
)
# Of a data step a seed is a setting: texts are drawn once, for all seeds of the runs. `rank` moves a window in steps.
SETTINGS_IN = {"data": frozenset({"seed"}), "elicitation": frozenset({"window", "step"})}
# Parameters that hold a component themselves, and of which slot.
NESTED: Mapping[str, str] = {
    "sampler": "sampler",
    "target": "target",
    "weight": "schedule",
    "score": "score",
    "token_weights": "token-weights",
    "advantage": "advantage",
    "where": "condition",
    "verifier": "reward",
}
# And a list of them.
NESTED_LISTS: Mapping[str, str] = {"parts": "advantage"}

#: Annotations that are checked here: what they allow, and how that is called.
KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "float": ((int, float), "a number"),
    "int": ((int,), "a whole number"),
    "str": ((str,), "text"),
    "bool": ((bool,), "true or false"),
    "None": ((type(None),), "null"),
    "list[float]": ((list,), "a list of numbers"),
    "list[int]": ((list,), "a list of whole numbers"),
    "list[str]": ((list,), "a list of texts"),
}

ROOT = Path(__file__).resolve().parent
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class RegistryError(MethodError):
    """A name or a setting that does not exist; `path` says where in the tree it stands."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path

    def below(self, *path: str | int) -> RegistryError:
        """The same error, seen from further up in the tree."""
        return RegistryError(str(self), *path, *self.path)


@dataclass(frozen=True)
class Parameter:
    """A setting: its default (None too where there is none: see `required`) and its annotation as written."""

    name: str
    default: Any
    required: bool
    kind: str


@dataclass(frozen=True)
class Component:
    """One entry of the registry, as its source says."""

    slot: str
    name: str
    module: str
    attribute: str
    parameters: Mapping[str, Parameter]
    doc: str
    line: int

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return " ".join(self.doc.split("\n\n")[0].split())


_made: dict[tuple[str, str], Any] = {}


def component(slot: str, name: str) -> Callable[[Decorated], Decorated]:
    """Registers a function or class under a slot and a kebab-case name; returns it unchanged."""
    if slot not in SLOTS:
        raise MethodError(f'no slot "{slot}"{near(slot, SLOTS)}')

    def register(made: Decorated) -> Decorated:
        own = made.__module__.startswith(f"{__package__}.")
        if not own and (slot, name) in components():
            where = components()[slot, name].module
            raise MethodError(f'{slot} "{name}" is one of the library, {where}; name it otherwise')
        other = _made.get((slot, name), made)
        if other.__module__ != made.__module__:
            raise MethodError(f'two {slot}s are called "{name}": {other.__module__} and {made.__module__}')
        _made[slot, name] = made
        return made

    return register


@contextmanager
def registered(slot: str, name: str, made: Any) -> Iterator[None]:
    """For a while: a component of a measurement's or a test's own, or another in the place of one of the library."""
    before = _made.get((slot, name))
    _made[slot, name] = made
    try:
        yield
    finally:
        if before is None:
            del _made[slot, name]
        else:
            _made[slot, name] = before


def near(name: str, known: Collection[str]) -> str:
    """' (did you mean "..."?)' for the closest known name, or ''."""
    close = get_close_matches(name.replace("_", "-"), list(known), 1, 0.6) or get_close_matches(
        name, list(known), 1, 0.6
    )
    return f' (did you mean "{close[0]}"?)' if close else ""


@cache
def components() -> Mapping[tuple[str, str], Component]:
    """Every component in the library, by (slot, name); nothing is imported."""
    found: dict[tuple[str, str], Component] = {}
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "@component(" not in text or path == Path(__file__):
            continue
        module = ".".join(("methods", *path.relative_to(ROOT).with_suffix("").parts))
        module = module.removesuffix(".__init__")
        for entry in _in_source(text, module):
            key = entry.slot, entry.name
            if key in found:
                raise MethodError(
                    f'{entry.module}:{entry.line}: {entry.slot} "{entry.name}" is {found[key].module} already'
                )
            found[key] = entry
    return found


def names(slot: str) -> list[str]:
    """The names in a slot, those registered from outside the library among them."""
    return sorted({name for where, name in [*components(), *_made] if where == slot})


def forget(module: str) -> None:
    """Takes out what a module registered: it is imported again, or cannot be used."""
    for key in [key for key, made in _made.items() if made.__module__ == module]:
        del _made[key]


def find(slot: str, name: Any) -> Component:
    """The component of that name ("_" may stand for "-"). Raises RegistryError with the nearest one."""
    if slot not in SLOTS:
        raise MethodError(f'no slot "{slot}"{near(slot, SLOTS)}')
    wanted = name.replace("_", "-") if isinstance(name, str) else repr(name)
    if (slot, wanted) in components():
        return components()[slot, wanted]
    if (slot, wanted) in _made:  # somebody's own, registered by a script or a test
        return _from_object(slot, wanted)
    known = names(slot)
    raise RegistryError(f'no {slot} "{name}"{near(str(name), known)}; known: {", ".join(known)}')


def load(slot: str, name: str) -> Any:
    """The function or class itself; imports its module."""
    entry = find(slot, name)
    if (slot, entry.name) not in _made:
        importlib.import_module(entry.module)
    return _made[slot, entry.name]


def canonical(slot: str, tree: Any) -> dict[str, Any]:
    """`NAME` or `{name: NAME, <settings>}` with every name checked, settings at their defaults left out.

    So one choice has one form, whoever writes it, and a component that gains a setting keeps the form of old choices.
    Raises RegistryError for an unknown name or setting, a value of another kind, or a setting that is missing.
    """
    if isinstance(tree, str):
        tree = {"name": tree}
    if not isinstance(tree, Mapping) or not isinstance(tree.get("name"), str):
        raise RegistryError(f"a {slot} is a name, or a mapping with a name: {{name: ..., <settings>}}")
    try:
        entry = find(slot, tree["name"])
    except RegistryError as error:
        raise error.below("name") from None
    settings = {name: value for name, value in tree.items() if name != "name"}
    return {"name": entry.name, **canonical_settings(entry, settings)}


def canonical_settings(entry: Component, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a component, checked, sorted, without those at their defaults."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in entry.parameters:
            raise RegistryError(
                f'{entry.slot} {entry.name} has no setting "{name}"{near(name, entry.parameters)}'
                + (f"; it has {', '.join(entry.parameters)}" if entry.parameters else "; it has none"),
                name,
            )
        parameter = entry.parameters[name]
        if name in NESTED and (isinstance(value, Mapping) or name != "weight") and value is not None:
            try:
                value = canonical(NESTED[name], value)
            except RegistryError as error:
                raise error.below(name) from None
        elif name in NESTED_LISTS:
            value = _canonical_list(entry, name, value)
        else:
            _check_kind(entry, parameter, value)
            if isinstance(value, int) and not isinstance(value, bool) and parameter.kind.startswith("float"):
                value = float(value)
            if name == "divergence" and isinstance(value, str):
                value = value.replace("-", "_")  # one form, the one that recorded keys are made of
        default = parameter.default
        if (
            parameter.required
            or plain(value) != plain(default)
            or isinstance(value, bool) != isinstance(default, bool)
        ):
            kept[name] = plain(value)
    for name, parameter in entry.parameters.items():
        if parameter.required and name not in settings:
            raise RegistryError(f'{entry.slot} {entry.name} needs a setting "{name}"')
    return dict(sorted(kept.items()))


def _canonical_list(entry: Component, name: str, value: Any) -> list[dict[str, Any]]:
    """A list of components, each in its canonical form."""
    if not isinstance(value, list) or not value:
        raise RegistryError(f'{entry.slot} {entry.name}: "{name}" is a list of {NESTED_LISTS[name]}s', name)
    made = []
    for place, part in enumerate(value):
        try:
            made.append(canonical(NESTED_LISTS[name], part))
        except RegistryError as error:
            raise error.below(name, place) from None
    return made


def build(slot: str, tree: Mapping[str, Any], /, **context: Any) -> Any:
    """The component of a canonical tree: a class is made with its settings, a function comes with them bound.

    What its signature names of `context` is handed over too. Components within its settings are built first.
    """
    from functools import partial

    entry, made = find(slot, tree["name"]), load(slot, tree["name"])
    settings = {}
    for name, value in tree.items():
        if name == "name":
            continue
        if name in NESTED and isinstance(value, Mapping):
            value = build(NESTED[name], value, **context)
        elif name in NESTED_LISTS:
            value = [build(NESTED_LISTS[name], part, **context) for part in value]
        settings[name] = value
    if not isinstance(made, type):
        return partial(made, **settings) if settings else made
    taken = {name: context[name] for name in _context_of(entry, made) if name in context}
    return made(**taken, **settings)


def plain(value: Any) -> Any:
    """Tuples as lists, whole floats as they are: what JSON would give back."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return value


def _check_kind(entry: Component, parameter: Parameter, value: Any) -> None:
    """A number where a number is wanted, and so on; annotations that say more are the component's own to check."""
    allowed = [part.strip() for part in parameter.kind.replace("Weight", "float").split("|")]
    if not parameter.kind or any(part not in KINDS for part in allowed):
        return
    if not any(_is(value, part) for part in allowed):
        raise RegistryError(
            f'{entry.slot} {entry.name}: "{parameter.name}" must be '
            f"{' or '.join(KINDS[part][1] for part in allowed)}, not {value!r}",
            parameter.name,
        )


def _is(value: Any, kind: str) -> bool:
    if kind.startswith("list["):
        return isinstance(value, list | tuple) and all(_is(item, kind[5:-1]) for item in value)
    return isinstance(value, KINDS[kind][0]) and (not isinstance(value, bool) or kind == "bool")


def _context_of(entry: Component, made: type) -> list[str]:
    import inspect

    return [
        name
        for name in inspect.signature(made).parameters
        if name in CONTEXT and name not in entry.parameters
    ]


def _in_source(text: str, module: str) -> list[Component]:
    tree = ast.parse(text)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            if not (
                isinstance(decorator, ast.Call)
                and isinstance(decorator.func, ast.Name)
                and decorator.func.id == "component"
            ):
                continue
            slot, name = (ast.literal_eval(argument) for argument in decorator.args)
            parameters = {p.name: p for p in _parameters(node, classes, module, _context(slot))}
            doc = ast.get_docstring(node) or ""
            found.append(Component(slot, name, module, node.name, parameters, doc, node.lineno))
    return found


def _context(slot: str) -> frozenset[str]:
    """Names that are handed over to components of a slot."""
    return CONTEXT - SETTINGS_IN.get(slot, frozenset())


def _parameters(
    node: ast.FunctionDef | ast.ClassDef,
    classes: Mapping[str, ast.ClassDef],
    module: str,
    context: frozenset[str],
) -> list[Parameter]:
    if isinstance(node, ast.ClassDef):
        own = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        if not own and any("dataclass" in ast.dump(decorator) for decorator in node.decorator_list):
            return [
                _parameter(item.target.id, item.annotation, item.value, module)
                for item in fields
                if isinstance(item.target, ast.Name) and item.target.id not in context
            ]
        if not own:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
            return _parameters(classes[bases[0]], classes, module, context) if bases else []
        node = own[0]
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = list(zip(positional, [*defaults, *arguments.defaults], strict=True))
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    return [_parameter(a.arg, a.annotation, d, module) for a, d in pairs if a.arg not in context]


def _parameter(name: str, annotation: ast.expr | None, default: ast.expr | None, module: str) -> Parameter:
    kind = ast.unparse(annotation) if annotation is not None else ""
    kind = kind.strip("'\"")
    if default is None:
        return Parameter(name, None, True, kind)
    try:
        value = ast.literal_eval(default)
    except ValueError:
        raise MethodError(
            f'{module}: the default of "{name}" is not a literal: {ast.unparse(default)}'
        ) from None
    return Parameter(name, value, False, kind)


def _from_object(slot: str, name: str) -> Component:
    """An entry for what was registered outside the library, from its live signature."""
    import inspect

    made = _made[slot, name]
    parameters = {}
    for parameter in inspect.signature(made).parameters.values():
        if parameter.name in _context(slot) or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        required = parameter.default is parameter.empty
        note = "" if parameter.annotation is parameter.empty else parameter.annotation
        kind = note if isinstance(note, str) else getattr(note, "__name__", str(note))
        parameters[parameter.name] = Parameter(
            parameter.name, None if required else parameter.default, required, kind
        )
    return Component(
        slot, name, made.__module__, made.__qualname__, parameters, inspect.getdoc(made) or "", 1
    )
