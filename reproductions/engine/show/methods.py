"""Every recipe as a builder chooses among them: what it needs, what it costs beside SFT, what is known of it.

Nothing is run or imported for it: needs follow from the recipe's tree, costs and verdicts are the recorded ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from methods.classes.suits import ENCODERS
from methods.recipe import (
    ITSELF,
    POLICIES,
    Recipe,
    canonical_method,
    components_of,
    read_recipe,
    readings_of,
    recipe_ids,
    teachers_of,
)
from methods.recipe import columns_of as columns_of_terms
from methods.registry import find
from reproductions.engine.errors import KDError
from reproductions.engine.files import digest
from reproductions.engine.show import files, gather
from reproductions.engine.store.layout import arms_in, lines_of

RESULTS = gather.ROOT / "reproductions" / "results"
# Samplers that write every answer anew.
ANEW = ("on-policy", "nucleus", "speculative", "switching", "handing-over", "teacher-mixed")
PAIRS = "methods.tokenizers."  # where terms about two tokenisations are


@dataclass(frozen=True)
class Method:
    """A recipe to choose. `cost`: seconds of training beside SFT's on the same testbed, median; None: not measured.

    `teacher`: "none", "itself" (the student, shown more), "text" (it only writes), "logits" (it is read) or "logits and
    hidden states"; `tokenizers`: "one" or "two may differ"; `answers`: whose text is learnt from; `verdicts`: by scale,
    the number of claims of each.
    """

    id: str
    title: str
    teacher: str
    teachers: int
    tokenizers: str
    answers: str
    rewards: bool
    columns: tuple[str, ...]
    needs: str
    settings: Mapping[str, Any]
    cost: float | None
    measured: int
    verdicts: Mapping[str, Mapping[str, int]]
    about: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def methods(names: Iterable[str] | None = None, results: Path = RESULTS) -> list[Method]:
    """All recipes, or those, in the order of their ids. Raises RegistryError with the nearest id."""
    costs = _costs(results)
    return [_method(read_recipe(name), costs) for name in (recipe_ids() if names is None else names)]


def _method(recipe: Recipe, costs: Mapping[str, list[float]]) -> Method:
    tree = canonical_method(recipe.method())
    found = costs.get(_kind(tree), [])
    names = components_of(tree)
    return Method(
        id=recipe.id,
        title=recipe.title,
        teacher=_teacher(tree),
        teachers=len(teachers_of(tree)),
        tokenizers=_tokenizers(tree),
        answers=_answers(tree),
        rewards=bool(tree.get("rewards")) or any(slot == "reward" for slot, _ in names) or _verified(tree),
        columns=_columns(tree),
        needs=recipe.needs,
        settings=recipe.settings,
        cost=float(f"{median(found):.3g}") if found else None,
        measured=len(found),
        verdicts=_verdicts(recipe.id),
        about=recipe.about,
    )


def _read_teachers(tree: Mapping[str, Any]) -> list[str]:
    return [name for name in tree["teachers"] if name != ITSELF]


def _teacher(tree: Mapping[str, Any]) -> str:
    if not teachers_of(tree):
        return "none" if readings_of(tree) is None else "itself"
    if not _read_teachers(tree):
        return "text"
    hidden = any(
        term.get("term") in ("hidden-match", "task-filters", *ENCODERS) for term in tree.get("terms", ())
    )
    return "logits and hidden states" if hidden else "logits"


def _tokenizers(tree: Mapping[str, Any]) -> str:
    if not teachers_of(tree):
        return "one"
    terms = [term["term"] for term in tree.get("terms", ()) if "term" in term]
    pairs = any(find("term", name).module.startswith(PAIRS) for name in terms)
    return "two may differ" if pairs or not _read_teachers(tree) else "one"


def _answers(tree: Mapping[str, Any]) -> str:
    """Whose text the student learns from."""
    found = []
    asked = [name for slot, name in components_of(tree) if slot in ("data", "elicitation")]
    if asked:
        own = {
            "right-answers": "the student's, checked",
            "own-answers": "the student's, drawn once",
            "guide-answers": "a later student's",
        }
        found.append(next((own[name] for name in asked if name in own), "the teacher's"))
    elif tree["trainer"]["name"] not in POLICIES or tree["trainer"].get("given_completions"):
        found.append("the data's")
    if tree["trainer"]["name"] in POLICIES:
        found.append("the student's own")
    samplers = [name for slot, name in components_of(tree) if slot == "sampler"]
    if any(name != "domains" for name in samplers):
        found.append("the teacher's, fresh" if samplers == ["teacher-mixed"] else "the student's own")
    outer = tree.get("sampler", {})
    if outer.get("name") in ANEW and outer.get("fraction", 1.0) == 1.0:
        found = found[1:]
    return ", ".join(dict.fromkeys(found))


def _verified(tree: Mapping[str, Any]) -> bool:
    return isinstance(tree["data"], Mapping) and tree["data"].get("use") == "right-answers"


def _columns(tree: Mapping[str, Any]) -> tuple[str, ...]:
    from reproductions.distill.data.rows import columns_of

    return tuple(dict.fromkeys([*columns_of(tree), *columns_of_terms(tree)]))


def _verdicts(paper: str) -> dict[str, dict[str, int]]:
    """Claims of the paper of that name, by scale and verdict, as they were committed."""
    view = files.read(paper)
    counts: dict[str, dict[str, int]] = {}
    for claim in view.claims if view else ():
        for outcome in claim.outcomes:
            if outcome.has_verdict:
                own = counts.setdefault(outcome.scale, {})
                own[outcome.kind] = own.get(outcome.kind, 0) + 1
    return counts


def _costs(results: Path) -> dict[str, list[float]]:
    """By kind of method: seconds of training over SFT's, once for each testbed and budget on which both were run."""
    beds: dict[str, dict[str, list[float]]] = {}
    for path in arms_in(results):
        data = _record(path)
        if data is None or "lora" in data["spec"]:
            continue
        training = {
            name: value for name, value in data["spec"].get("training", {}).items() if name != "learning_rate"
        }
        where = digest(
            [data["testbed"], training, data["spec"].get("student"), data["spec"].get("start")], 16
        )
        seconds = [float(run["seconds"].get("train_cpu", run["seconds"]["train"])) for run in data["runs"]]
        beds.setdefault(where, {}).setdefault(_kind(data["spec"]["method"]), []).extend(seconds)
    plain = _kind(canonical_method(read_recipe("sft").method()))
    found: dict[str, list[float]] = {}
    for kinds in beds.values():
        base = median(kinds[plain]) if plain in kinds else 0.0
        for kind, seconds in kinds.items() if base else ():
            found.setdefault(kind, []).append(median(seconds) / base)
    return found


@cache
def _record(path: Path) -> dict[str, Any] | None:
    try:
        data = lines_of(path)
    except KDError:
        return None  # reading it whole says what is wrong
    return data if {"spec", "runs", "testbed"} <= set(data) and data["runs"] else None


def _kind(tree: Mapping[str, Any]) -> str:
    """What makes methods take alike: their components, whatever their settings."""
    try:
        named = [part for part in components_of(tree) if part[0] not in ("divergence", "schedule")]
    except (KeyError, TypeError, ValueError):  # a component that is no more
        named = [("trainer", str(tree.get("trainer")))]
    teachers = len(_read_teachers(tree))
    divergences = bool([term for term in tree.get("terms", ()) if "divergence" in term])
    return digest([named, teachers, divergences, tree.get("data") != "train"], 16)
