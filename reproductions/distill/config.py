"""The config file of `kd distill`: strict YAML, every mistake with its line and the nearest valid name.

A method of methods/recipes, with the settings of that file:

    method: gkd
    teacher: models/teacher        # a folder beside this file, a hub id, or a list of either
    student: models/student
    data: train.jsonl              # one {"prompt": ..., "completion": ...} a line; DISTIL.md has all other kinds
    output: my-student
    evaluate: {rows: 64}           # held out: loss and answers of start, teacher and student, before and after
    settings: {on_policy_fraction: 0.5}
    budget: {steps: 1000, batch_size: 8, learning_rate: 1.0e-5}

Or one of your own, by the same keys as in a recipe (`terms`, `sampler`, `trainer`, `gradient_balance`, `advantage`,
`rewards`; its `data` are called `rows` here): half labels, half a skewed KL, on the teacher's answers and the student's
own.

    teacher: models/teacher
    student: models/student
    data: train.jsonl
    output: my-student
    rows: {use: label, greedy: true}
    sampler: {name: half-student, source: teacher}
    terms:
      - {term: next-token, weight: 0.5, sources: [teacher]}
      - {divergence: skew-reverse-kl, skew: 0.1, weight: 0.5}

A policy gradient: a verifier's reward, and the teacher where no answer of a group is right.

    trainer: {name: policy-optimisation, num_generations: 8}
    rewards:
      - {name: exact-answer, after: "####"}
    advantage:
      name: sum
      parts:
        - {name: group-reward, baseline: leave-one-out}
        - {name: only, advantage: {name: log-ratio, weight: 0.1}, where: {name: group-unsolved}}

methods/GALLERY.md lists the components that may stand there. Every other field, with its default: BUDGET, LORA and
OPTIONAL below, KEYS of data/spec.py (`data`), evaluate/spec.py (`evaluate`), evaluate/tasks.py (its `lm_eval`) and
places.py (a model as a mapping), and ROLLOUTS of method.py (`rollouts`).
`hub:ORG/NAME` is a model of the hub even where a folder has a name like it.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest, read_yaml_with_lines
from methods.classes.suits import only_for_classes
from methods.engine import Engine
from methods.recipe import OPTIMISES
from reproductions.distill import limits
from reproductions.distill.answers.spec import Answers, why_not
from reproductions.distill.data.spec import DataSpec, read_spec
from reproductions.distill.evaluate.spec import Evaluation, read_evaluation
from reproductions.distill.method import OWN_METHOD, check_method, read_engine, read_method
from reproductions.distill.places import student_in, teachers_in
from reproductions.distill.watch.services import read_services
from reproductions.engine.files import content_digest, digest
from reproductions.models.sources import Loading, adapter_base, model_folder

REQUIRED = ("student", "data", "output")
BUDGET: dict[str, Any] = {
    "steps": 1000,  # optimizer steps
    "batch_size": 8,  # sequences of one micro-batch
    "accumulate": 1,  # micro-batches a step
    "learning_rate": 1e-5,
    "schedule": "cosine",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "prompt_tokens": 512,
    "completion_tokens": 256,
}
LORA: dict[str, Any] = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.0,
    "targets": [],
}  # no targets: every linear layer
OPTIONAL: dict[str, Any] = {
    "method": None,
    **dict.fromkeys(OWN_METHOD),
    "teacher": None,
    "teacher_terms": None,
    "accept_teacher_terms": False,
    "settings": {},
    "budget": BUDGET,
    "lora": None,
    "precision": "fp32",
    "seed": 0,
    "save_every": 100,
    "evaluate": None,  # true, or a mapping
    "report_to": [],  # tensorboard, trackio, wandb
    "rollouts": None,  # vllm, or a mapping: ROLLOUTS of method.py
}

# Which entry of catalog/teachers.yaml a model's name belongs to, where the config does not say it. The first that fits;
# "_" is "-" there. Of fine-tuned models those whose names do not tell what they were made of.
FAMILIES = {
    "*gpt-oss*": "gpt-oss",
    "*llama-2*": "llama",
    "*llama2*": "llama",
    "*code-llama*": "llama",
    "*codellama*": "llama",
    "*llamaguard*": "llama",
    "*tulu-2*": "llama",
    "*wizardlm-[137]*": "llama",  # 7B, 13B, 30B, 70B; WizardLM-2 is Mistral's
    "*solar-0-*": "llama",
    "*llama-3.1*": "llama-3-1",
    "*llama-3.2*": "llama-3-1",
    "*llama-3.3*": "llama-3-1",
    "*llama-3*": "llama-3",
    "*llama3.[123]*": "llama-3-1",
    "*llama3*": "llama-3",
    "*vicuna*": "llama",
    "*gemma*": "gemma",
    "*deepseek-v3*": "deepseek",
    "*deepseek-r1*": "deepseek",
    "*gpt2*": "open-weights",
    "*smollm*": "open-weights",
    "*pythia*": "open-weights",
}


@dataclass(frozen=True)
class Config:
    """What a user asked for, complete with defaults; `settings` are the method's own.

    `method` is the recipe's id, or "own"; `tree` its canonical form, which is what will be computed; `needs` says what
    of that not every user has. `lines` knows where each field stands.
    """

    path: Path
    method: str
    tree: Mapping[str, Any]
    teachers: tuple[str, ...]
    student: str
    data: DataSpec
    output: Path
    teacher_terms: str | None
    accept_teacher_terms: bool
    settings: Mapping[str, Any]
    budget: Mapping[str, Any]
    lora: Mapping[str, Any] | None
    precision: str
    seed: int
    save_every: int
    needs: str = ""
    teachers_loaded: tuple[Loading, ...] = ()
    student_loaded: Loading = Loading()
    answers: tuple[Answers | None, ...] = ()  # of each teacher, where they are kept
    evaluate: Evaluation | None = None
    report_to: tuple[str, ...] = ()
    engine: Engine | None = None  # that writes the student's rollouts in our loop's place
    lines: Lines = field(kw_only=True, repr=False, compare=False)

    @property
    def hash(self) -> str:
        """12 hex digits over everything that changes the student: not where it is written or how often it is saved."""
        named = ("tree", "budget", "lora", "precision", "seed")
        plain = {name: getattr(self, name) for name in named} | {"inputs": self.inputs}
        if self.engine is not None:  # draws by numbers of its own
            plain["rollouts"] = "vllm"
        return digest(json.loads(json.dumps(plain)), 12)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What is read, by its content as it was when this was first asked for; a model of the hub by its name."""
        models = {"student": (self.student, self.student_loaded)}
        loaded = self.teachers_loaded or (Loading(),) * len(self.teachers)
        found: dict[str, Any] = {"data": self.data.identity}
        for place, (name, loading) in enumerate(zip(self.teachers, loaded, strict=True), 1):
            kept = self.answers[place - 1] if self.answers else None
            if kept is not None:
                found[f"answers of teacher {place}"] = kept.digest
            if kept is None or not kept.server:
                models[f"teacher {place}"] = (name, loading)
        if self.evaluate is not None:
            own = self.evaluate.data
            found["evaluation"] = [self.evaluate.rows, None if own is None else own.identity]
            if self.evaluate.lm_eval is not None:
                found["evaluation"].append(self.evaluate.lm_eval.identity)
        for what, (name, loading) in models.items():
            folder = model_folder(name)
            found[what] = name if folder is None else content_digest(folder)
            if loading != Loading():
                found[f"loading of {what}"] = {key: value for key, value in vars(loading).items() if value}
            base = adapter_base(name)
            if base is not None:
                folder = model_folder(base)
                found[f"base of {what}"] = base if folder is None else content_digest(folder)
        return found


def load_config(path: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """The config in a file, a recipe with its settings or terms of one's own; `changes` are fields to put in place of
    its own, None takes one out. Raises CatalogError.
    """
    data, lines = read_yaml_with_lines(path)
    data = {name: value for name, value in {**data, **(changes or {})}.items() if value is not None}
    limits.check_fields(data, REQUIRED, OPTIONAL, lines)
    recipe, settings, tree = read_method(data, lines)
    teachers, teachers_loaded, answers = teachers_in(data, lines)
    student, student_loaded = student_in(data, lines)
    spec = read_spec(data, lines, "data")
    config = Config(
        path=path,
        method=recipe.id if recipe else "own",
        tree=tree,
        teachers=teachers,
        student=student,
        data=spec,
        output=lines.beside(data["output"], "output"),
        **limits.terms(data, lines),
        settings=settings,
        budget=limits.with_defaults(data, "budget", BUDGET, limits.BUDGET_RANGES, lines),
        lora=_lora(data, lines),
        precision=limits.precision(data, lines),
        seed=limits.whole(data, "seed", 0, limits.SETTING_RANGES["seed"], lines),
        save_every=limits.whole(data, "save_every", OPTIONAL["save_every"], limits.COUNT, lines),
        needs=recipe.needs if recipe else "",
        teachers_loaded=teachers_loaded,
        student_loaded=student_loaded,
        answers=answers,
        evaluate=read_evaluation(data, lines, spec),
        report_to=read_services(data, lines),
        lines=lines,
    )
    _check_budget(config)
    check_output(config.output, config.path, config.student, config.teachers, lines)
    if (only := only_for_classes(config.tree)) is not None:
        where = "method" if recipe else "terms"
        raise lines.error(f"{config.method} is for classifiers, {only}: `task: classification`", where)
    check_method(config.tree, data, recipe, config.settings, config.teachers, lines)
    reason = why_not(config.tree, config.answers)
    if reason is not None:
        raise lines.error(f"{config.method} cannot learn from kept answers: {reason}", "teacher")
    return replace(config, engine=read_engine(data, tree, student_loaded.layers, lines))


def _check_budget(config: Config) -> None:
    budget, lines = config.budget, config.lines
    limits.check_budget(budget, lines)
    generated = config.tree["trainer"].get("steps_per_generation")
    if generated and generated % budget["accumulate"]:
        raise lines.error(
            f"steps_per_generation ({generated}) must be a multiple of accumulate ({budget['accumulate']}), or an "
            "update would mix two policies",
            *("budget", "accumulate"),
        )

    completions = config.tree["trainer"].get("num_generations", 8)
    if config.tree["trainer"]["name"] in OPTIMISES:
        batches = generated or budget["accumulate"]
        if budget["batch_size"] * batches % completions:
            raise lines.error(
                f"{budget['batch_size']} (batch_size) x {batches} sequences a generation are no whole number of groups "
                f"of {completions} (num_generations)",
                *("budget", "batch_size"),
            )
        given = config.tree["trainer"].get("given_completions", 0)
        if given and given > completions - 2:
            raise lines.error(
                f"given_completions is {given}: of {completions} completions a group (num_generations) at least two "
                "are the student's own",
                *(
                    ("settings", "given_completions")
                    if "given_completions" in config.settings
                    else ("trainer",)
                ),
            )


def _lora(data: Mapping[str, Any], lines: Lines) -> dict[str, Any] | None:
    if data.get("lora") is None:
        return None
    lora = limits.with_defaults(data, "lora", LORA, limits.LORA_RANGES, lines)
    for place, name in enumerate(lora["targets"]):
        if not isinstance(name, str) or not name.strip():
            raise lines.error(
                "lora: targets are names of linear layers, such as q_proj", "lora", "targets", place
            )
    return lora


def check_teacher_terms(config: Any, known: Mapping[str, Any]) -> None:
    """Raise CatalogError where a teacher's terms forbid training on its outputs and nobody said that this is known.

    `known` are the entries of catalog/teachers.yaml. A teacher whose family cannot be told counts as unclear.
    """
    if config.accept_teacher_terms:
        return
    named = [config.teacher_terms] if config.teacher_terms else [family(name) for name in config.teachers]
    for entry in filter(None, named):
        if entry not in known:
            raise config.lines.error(
                f'no entry "{entry}" in catalog/teachers.yaml{nearest(entry, known)}', "teacher_terms"
            )
        if known[entry].allows_training == "no":
            raise config.lines.error(
                f"the terms of {known[entry].title} forbid training other models on its outputs ({known[entry].note}) "
                "See whether they bind you; `accept_teacher_terms: true` goes on",
                "teacher_terms" if config.teacher_terms else "teacher",
            )


def family(teacher: str) -> str | None:
    """The entry of catalog/teachers.yaml that a model's name tells, or None."""
    name = Path(teacher).name.lower().replace("_", "-")
    return next((entry for pattern, entry in FAMILIES.items() if fnmatch.fnmatch(name, pattern)), None)


def check_output(output: Path, path: Path, student: str, teachers: Sequence[str], lines: Lines) -> None:
    """The student is not written over what it is made from."""
    taken = {model_folder(name): "a teacher's" for name in teachers}
    taken |= {path.parent: "the config file's", model_folder(student): "the student's"}
    for folder, whose in taken.items():
        if folder is not None and folder.resolve() == output:
            raise lines.error(f'"output" is {whose} own folder {output}: name another one', "output")
    if output.exists() and not output.is_dir():
        raise lines.error(f'"output": {output} is a file, not a folder', "output")
