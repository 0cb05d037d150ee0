"""The methods that `kd distill` offers: each builds its trainer from settings that stand in the config file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

# Defaults of each method's settings; the papers' where they state one. What is not here is refused.
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {},
    "seqkd": {"temperature": 1.0, "greedy": False, "label_batch_size": 16},
    "word-kd": {"divergence": "forward_kl", "temperature": 1.0, "distillation_weight": 1.0},
    "gkd": {
        "divergence": "jensen_shannon",
        "teacher_weight": 0.5,
        "on_policy_fraction": 0.5,
        "sampling_temperature": 1.0,
    },
    "akl": {"head_mass": 0.5},
    "distillm": {"divergence": "skew_forward_kl", "skew": 0.1, "start": 0.0, "rise": 0.1, "validations": 10},
    "f-distill": {"divergence": "total_variation"},
    "taid": {"start": 0.4, "step_size": 5e-4, "momentum": 0.99},
    "minillm": {
        "teacher_mix": 0.2,
        "steps_per_generation": 4,
        "num_iterations": 4,
        "length_normalization": True,
    },
}

VALIDATING = ("distillm",)  # methods that listen to the loss on rows which are held out for it


class Parts:
    """Models, rows and arguments, ready for a trainer."""

    def __init__(
        self,
        *,
        student: PreTrainedModel,
        teachers: list[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizers: list[PreTrainedTokenizerBase],
        rows: Dataset,
        validation: Dataset | None,
        prompt_tokens: int,
        completion_tokens: int,
        arguments: Callable[..., Any],
        settings: Mapping[str, Any],
        keep: Callable[[str, Callable[[], Any]], Any],
    ):
        self.student, self.teachers, self.tokenizer = student, teachers, tokenizer
        self.teacher_tokenizers, self.rows, self.validation = teacher_tokenizers, rows, validation
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
        self.arguments, self.settings = arguments, settings
        self.keep = keep  # (name, build) -> plain data, made once even if the run is interrupted
        self.spent: dict[str, int] = {}  # tokens before the training, by model
        self.labels: dict[str, int] = {}  # how many a teacher wrote, and how many of them were left out

    def encoded(self, rows: Dataset) -> Dataset:
        """Token ids and labels of prompt + completion + EOS."""
        from reproductions.testbeds.training import encode

        return encode(rows, self.tokenizer, self.prompt_tokens + self.completion_tokens)


def trainer_for(method: str, parts: Parts) -> Trainer:
    """The trainer of a method of SETTINGS."""
    builders = {"sft": _sft, "seqkd": _seqkd, "minillm": _minillm}
    return builders.get(method, lambda p: _composed(method, p))(parts)


def _fixed(parts: Parts, rows: Dataset) -> dict[str, Any]:
    from methods.trainers import SFTConfig
    from reproductions.testbeds.training import SKIP_PREPARATION

    return {
        "args": parts.arguments(SFTConfig, **SKIP_PREPARATION),
        "train_dataset": parts.encoded(rows),
        "processing_class": parts.tokenizer,
    }


def _sft(parts: Parts) -> Trainer:
    from methods.slots.terms import NextToken
    from methods.trainers import Distiller

    return Distiller(parts.student, terms=[NextToken()], **_fixed(parts, parts.rows))


def _seqkd(parts: Parts) -> Trainer:
    from datasets import Dataset

    from methods.elicitation.labelling import label_with_teacher
    from methods.slots.terms import NextToken
    from methods.trainers import Distiller

    if len(parts.teachers) > 1:
        raise KDError("seqkd takes one teacher")

    def build() -> dict[str, Any]:
        settings = dict(parts.settings)
        labels, report = label_with_teacher(
            parts.teachers[0],
            parts.teacher_tokenizers[0],
            list(parts.rows["prompt"]),
            max_new_tokens=parts.completion_tokens,
            batch_size=settings.pop("label_batch_size"),
            **settings,
        )
        return {"rows": labels.to_list(), "report": report.as_dict()}

    labels = parts.keep("labels", build)
    parts.labels = {what: labels["report"][what] for what in ("completions", "truncated", "empty")}
    parts.spent = {who: labels["report"][f"{who}_tokens"] for who in ("teacher", "generated")}
    return Distiller(parts.student, terms=[NextToken()], **_fixed(parts, Dataset.from_list(labels["rows"])))


def _white_box(parts: Parts) -> dict[str, Any]:
    from methods.trainers import Teacher

    return {
        "teacher": [Teacher(*pair) for pair in zip(parts.teachers, parts.teacher_tokenizers, strict=True)],
        "max_completion_length": parts.completion_tokens,
        "eval_dataset": None if parts.validation is None else parts.encoded(parts.validation),
        **_fixed(parts, parts.rows),
    }


def _composed(method: str, parts: Parts) -> Trainer:
    """The methods that are a choice of sampler, target and divergence."""
    from methods.slots.samplers import AdaptiveReplay, HalfStudent, OnPolicy, Sampler
    from methods.slots.targets import AverageLogits, InterpolatedLogits, OneTeacher
    from methods.slots.terms import Divergence
    from methods.trainers import Distiller

    s = parts.settings
    target = AverageLogits() if len(parts.teachers) > 1 else OneTeacher()
    sampler: Sampler | None = None
    if method == "word-kd":
        weight = s["distillation_weight"]
        terms = [Divergence(s["divergence"], weight=weight, temperature=s["temperature"], target=target)]
        terms += [Divergence("cross_entropy", weight=1 - weight)]
    elif method == "gkd":
        own = {"teacher_weight": s["teacher_weight"]} if s["divergence"] == "jensen_shannon" else {}
        terms = [Divergence(s["divergence"], settings=own, target=target)]
        sampler = OnPolicy(s["on_policy_fraction"], temperature=s["sampling_temperature"])
    elif method == "akl":
        terms = [Divergence("adaptive_kl", settings={"head_mass": s["head_mass"]}, target=target)]
    elif method == "distillm":
        terms = [Divergence(s["divergence"], settings={"skew": s["skew"]}, target=target)]
        sampler = AdaptiveReplay(start=s["start"], rise=s["rise"], validations=s["validations"])
    elif method == "f-distill":
        terms, sampler = [Divergence(s["divergence"], target=target)], HalfStudent("data")
    else:
        share = {name: s[name] for name in ("start", "step_size", "momentum")}
        terms = [Divergence(target=InterpolatedLogits(**share))]
    if len(parts.teachers) > 1 and method == "taid":
        raise KDError("taid takes one teacher")
    return Distiller(parts.student, terms=terms, sampler=sampler, **_white_box(parts))


def _minillm(parts: Parts) -> Trainer:
    if len(parts.teachers) > 1:
        raise KDError("minillm takes one teacher")
    from methods.trainers import PolicyConfig, PolicyDistiller, Teacher

    args = parts.arguments(PolicyConfig, max_completion_length=parts.completion_tokens, **parts.settings)
    return PolicyDistiller(
        parts.student,
        teacher=Teacher(parts.teachers[0], parts.teacher_tokenizers[0]),
        args=args,
        train_dataset=parts.rows,
        processing_class=parts.tokenizer,
    )
