"""Which numbers a config may hold: of its own fields, and of the settings of components by their names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.errors import CatalogError
from catalog.reader import Lines, nearest

# Those of transformers that need no further settings.
SCHEDULES = (
    *("cosine", "linear", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial"),
    "inverse_sqrt",
)
MOST_SEED = 2**32 - 1  # numpy takes no larger one
MOST = 10**9  # whatever is counted or weighed: more is a slip of the keyboard
MOST_ROWS = 10**6  # of a batch, or batches of a step
MOST_TOKENS = 10**7  # of a text
MOST_RATE = 1000  # a learning rate: far beyond what diverges


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`; without the ends themselves where they are `open`."""

    least: float = 0.0
    most: float = MOST
    open: str = ""  # "least", "most" or "both"

    def holds(self, value: float) -> bool:
        """Whether a number lies in it."""
        above = value > self.least if self.open in ("least", "both") else value >= self.least
        below = value < self.most if self.open in ("most", "both") else value <= self.most
        return above and below  # so no number that is none, and no infinite one

    def asked(self, value: object) -> str:
        """What is asked for, in words; of an end that everything has only where the value is beyond it."""
        least = f"above {self.least:g}" if self.open in ("least", "both") else f"{self.least:g} or more"
        most = f"{self.most:g}" if self.most < 1e6 else f"{self.most:.0f}"
        beyond = isinstance(value, int | float) and not value <= self.most
        if self.most == MOST and not beyond:
            return least
        below = f"below {most}" if self.open in ("most", "both") else f"at most {most}"
        return f"{least} and {below}"

    def __str__(self) -> str:
        return self.asked(0)


POSITIVE, SHARE, COUNT, ANY = Range(open="least"), Range(0, 1), Range(1), Range()
NUMBER = Range(-MOST)  # whatever else is a number
PRECISIONS = ("fp32", "bf16-autocast")
BUDGET_RANGES: Mapping[str, Range] = {
    "steps": COUNT,
    **dict.fromkeys(("batch_size", "accumulate"), Range(1, MOST_ROWS)),
    **dict.fromkeys(("prompt_tokens", "completion_tokens", "tokens"), Range(1, MOST_TOKENS)),
    **dict.fromkeys(("warmup_steps", "weight_decay", "max_grad_norm"), ANY),
    "learning_rate": Range(0, MOST_RATE, "least"),
}
OF_A_SERVER: Mapping[str, Range] = {  # requests under way, tries of one, seconds of a try
    "parallel": Range(1, 1000),
    "attempts": Range(1, 1000),
    "timeout": Range(0, 10**6, "least"),
}
LORA_RANGES: Mapping[str, Range] = {"rank": COUNT, "alpha": POSITIVE, "dropout": Range(0, 1, "most")}
# Settings of components, by the name that a component gives them, wherever they stand in a method.
SETTING_RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("temperature", "student_temperature", "teacher_temperature"), POSITIVE),
    **dict.fromkeys(("epsilon", "reward_clip", "filter_learning_rate", "learning_rate_factor"), POSITIVE),
    **dict.fromkeys(("skew", "head_mass", "fraction", "start", "end", "rise", "smoothing", "floor"), SHARE),
    "rate": SHARE,
    **dict.fromkeys(("heads", "subclasses"), COUNT),
    **dict.fromkeys(("base", "momentum", "threshold", "teacher_mix"), SHARE),
    **dict.fromkeys(("every", "capacity", "validations", "anchor_steps", "batch_size", "prompts"), COUNT),
    **dict.fromkeys(("samples", "beams", "steps_per_generation", "num_iterations", "thoughts"), COUNT),
    **dict.fromkeys(("chunk_size", "max_length", "size", "num_generations", "most"), COUNT),
    **dict.fromkeys(("share", "mix", "band", "until", "begin", "anchor_teacher_share"), SHARE),
    **dict.fromkeys(("epsilon_high", "limit", "given_shape", "inner_rate", "outer_rate"), POSITIVE),
    **dict.fromkeys(("keep", "inner", "ramp"), COUNT),
    "held": Range(0, 1, "both"),
    "pull": ANY,
    "given_completions": Range(0, 1000),
    "ahead": ANY,
    **dict.fromkeys(("weight", "tolerance", "step_size", "deviation"), ANY),
    **dict.fromkeys(("k", "rounds", "max_completion_length", "teacher_max_length"), COUNT),
    **dict.fromkeys(("discount", "top_p"), Range(0, 1, "least")),
    "index": ANY,
    "seed": Range(0, MOST_SEED),
}
# The same of components that elicit, whose names mean other things: a temperature of 0 asks for the likeliest answer.
STEP_RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("samples", "chains", "rounds", "count", "calls", "per_call", "keep"), COUNT),
    **dict.fromkeys(("words", "errors", "window", "step", "memory", "max_tokens", "batch_size"), COUNT),
    **dict.fromkeys(("temperature", "draw"), ANY),
    "top_p": Range(0, 1, "least"),
    "seconds": POSITIVE,
    "seed": Range(0, MOST_SEED),
}
GREEDY = '; for the most probable answer say "greedy: true"'


def with_defaults(
    data: Mapping[str, Any],
    name: str,
    defaults: Mapping[str, Any],
    ranges: Mapping[str, Range],
    lines: Lines,
) -> dict[str, Any]:
    """A mapping of a config, complete; raises CatalogError for what is unknown, of another kind or out of range."""
    given = data.get(name)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise lines.error(f'"{name}" must be a mapping', name)
    for key, value in given.items():
        if key not in defaults:
            listed = ", ".join(defaults)
            raise lines.error(f'{name}: unknown "{key}"{nearest(key, defaults)}; known: {listed}', name, key)
        _check_kind(value, defaults[key], ranges.get(key), f"{name}: {key}", lines, name, key)
    return {**defaults, **given}


def check_fields(
    data: Mapping[str, Any], required: Sequence[str], optional: Iterable[str], lines: Lines
) -> None:
    """Raises CatalogError for a field of a config that nobody knows, and for one that misses."""
    known = [*required, *optional]
    for name in data:
        if name not in known:
            raise lines.error(f'unknown field "{name}"{nearest(name, known)}', name)
    for name in required:
        given = data.get(name)
        no_text = name == "output" and not (isinstance(given, str) and given.strip())
        if given is None or given == "" or no_text:
            raise lines.error(f'"{name}" is missing or not text', *([name] if name in data else []))


def terms(data: Mapping[str, Any], lines: Lines) -> dict[str, Any]:
    """What a config says of its teachers' terms."""
    entry, accepted = data.get("teacher_terms"), data.get("accept_teacher_terms", False)
    if entry is not None and not isinstance(entry, str):
        raise lines.error(
            '"teacher_terms" must be the name of an entry of catalog/teachers.yaml', "teacher_terms"
        )
    if not isinstance(accepted, bool):
        raise lines.error('"accept_teacher_terms" must be true or false', "accept_teacher_terms")
    return {"teacher_terms": entry, "accept_teacher_terms": accepted}


def precision(data: Mapping[str, Any], lines: Lines) -> str:
    """How the student is trained, one of PRECISIONS."""
    name = data.get("precision", PRECISIONS[0])
    if name not in PRECISIONS:
        raise lines.error(
            f'precision "{name}"{nearest(str(name), PRECISIONS)}; known: {", ".join(PRECISIONS)}', "precision"
        )
    return name


def check_budget(budget: Mapping[str, Any], lines: Lines) -> None:
    """Raises CatalogError for a schedule that nobody knows, and for a warm-up that leaves no step."""
    if budget["schedule"] not in SCHEDULES:
        raise lines.error(
            f'budget: no schedule "{budget["schedule"]}"{nearest(str(budget["schedule"]), SCHEDULES)}; known: '
            f"{', '.join(SCHEDULES)}",
            *("budget", "schedule"),
        )
    if budget["warmup_steps"] >= budget["steps"]:
        raise lines.error(
            f"budget: {budget['warmup_steps']} warmup_steps of {budget['steps']} steps leave none to train at the "
            "learning rate",
            *("budget", "warmup_steps"),
        )


def whole(data: Mapping[str, Any], name: str, default: int, within: Range, lines: Lines) -> int:
    """A whole number of a config's own."""
    value = data.get(name, default)
    _check_kind(value, default, within, f'"{name}"', lines, name)
    return value


def _check_kind(
    value: Any, default: Any, within: Range | None, what: str, lines: Lines, *where: str | int
) -> None:
    if isinstance(default, bool) or not isinstance(default, int | float):
        if type(value) is not type(default):
            raise lines.error(f"{what} must be like {json.dumps(default)}", *where)
        return
    kinds = int if isinstance(default, int) else int | float
    fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits or (within is not None and not within.holds(value)):
        kind = "a whole number" if isinstance(default, int) else "a number"
        asked = "" if within is None else f" of {within.asked(value if isinstance(value, kinds) else 0)}"
        raise lines.error(f"{what} must be {kind}{asked}", *where)


Tell = Callable[..., CatalogError]  # (message, *path) -> the error to raise


def check_step(tree: Any, error: Tell) -> None:
    """Raise, as `check_settings` does, for a number of a step of elicitation that is out of its range."""
    check_settings(tree, {}, error, range_of=lambda name, path: STEP_RANGES.get(name, NUMBER))


def check_settings(
    tree: Any,
    values: Mapping[str, Any],
    error: Tell,
    path: tuple[str | int, ...] = (),
    range_of: Callable[[str, tuple[str | int, ...]], Range] | None = None,
) -> None:
    """Raise for a number of a method that is out of its range; `$name` in the tree stands for one of the values.

    `error` is told the path in the tree, or `("settings", name)` for such a value.
    """
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            check_settings(item, values, error, (*path, key), range_of)
    elif isinstance(tree, list):
        for place, item in enumerate(tree):
            check_settings(item, values, error, (*path, place), range_of)
    elif path:
        name, where = str(path[-1]), path
        if isinstance(tree, str) and tree.startswith("$"):
            where, tree = ("settings", tree[1:]), values.get(tree[1:])
        within = (range_of or _range_of)(name, path)
        number = isinstance(tree, int | float) and not isinstance(tree, bool)
        if number and not within.holds(tree):
            hint = GREEDY if name == "temperature" and tree == 0 and path[0] == "data" else ""
            named = where[-1] if isinstance(where[-1], str) else f"{where[-2]}[{where[-1]}]"
            raise error(f"{named} must be {within.asked(tree)}, not {tree:g}{hint}", *where)


def _range_of(name: str, path: tuple[str | int, ...]) -> Range:
    if name == "teacher_mix" and path[0] == "trainer":  # MiniLLM weighs by the student's own share
        return Range(0, 1, "most")
    if name == "weight" and path[0] == "advantage":  # a part may be subtracted
        return NUMBER
    if name == "most" and path[0] == "advantage":  # a number, not a count
        return NUMBER
    if name.endswith("_weight"):
        return ANY
    return SETTING_RANGES.get(name, NUMBER)
