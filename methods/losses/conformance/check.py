"""Runs somebody's loss on the golden vectors and says which convention it keeps.

    report = check(my_loss)
    report.convention  # Convention(divergence='forward-kl', temperature='both', factor='T^2', ...), or None

The function is `(student_logits, teacher_logits, mask or labels, **settings) -> loss`. Logits are `(B, T, V)` in
float64, the student's with a gradient. Its parameters decide what it gets: logits by name ("student" or "teacher" in
it), or as the first two; a mask `(B, T)`, bool, True where a position counts; labels `(B, T)`, -100 where none does;
settings under the names in NAMES. Nothing is shifted. It returns a scalar, or one value a position `(B, T)`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.conformance.vectors import (
    AXES,
    OFF_CENTRE,
    SKEW,
    Candidates,
    Convention,
    Problem,
    Run,
    candidates,
    problem,
    runs,
)
from methods.registry import near

#: What a setting may be called in a signature; the first that is there is taken.
NAMES = {
    "temperature": ("temperature", "temp", "tau"),
    "weight": ("teacher_weight", "beta", "jsd_beta"),
    "skew": ("skew", "skew_alpha"),
    "top_k": ("top_k", "topk"),
    "mask": ("mask", "loss_mask", "completion_mask", "response_mask", "attention_mask"),
    "labels": ("labels",),
}
TOLERANCE = 2e-6  # single precision passes, and no convention comes as near to another (ten times that)
IGNORED, TOKEN = -100, 1  # labels of padding and of everything else
_ORDER = {axis: {name: place for place, name in enumerate(names)} for axis, names in AXES.items()}


@dataclass(frozen=True)
class Match:
    """A convention that a run's loss agrees with, or is nearest to; errors are absolute, in float64."""

    convention: Convention
    edge: str  # the choice that the run is about: what heads of unequal size, or the rest of a top-k, become
    value_error: float
    gradient_error: float

    @property
    def error(self) -> float:
        """The larger of both."""
        return max(self.value_error, self.gradient_error)


@dataclass(frozen=True)
class Outcome:
    """What one run gave: the conventions it agrees with, the nearest one where there is none."""

    run: Run
    value: float | None = None
    matches: tuple[Match, ...] = ()
    nearest: Match | None = None
    refused: str = ""  # what it raised, on a run about an edge: it does not claim to answer there

    @property
    def conventions(self) -> frozenset[Convention]:
        """Those it agrees with."""
        return frozenset(match.convention for match in self.matches)


@dataclass(frozen=True)
class Report:
    """What a function does on every run that its settings allow."""

    outcomes: tuple[Outcome, ...]
    settings: Mapping[str, str]  # what it was found to take: setting -> parameter
    left_out: Mapping[str, str] = field(default_factory=dict)  # run -> the setting it would need

    @property
    def conventions(self) -> list[Convention]:
        """Those that match everywhere; the first of several that cannot be told apart stands for them."""
        answered = [one.conventions for one in self.outcomes if not one.refused]
        return sorted(frozenset.intersection(*answered), key=_order) if answered else []

    @property
    def convention(self) -> Convention | None:
        """The one that matches everywhere."""
        return next(iter(self.conventions), None)

    @property
    def likeliest(self) -> Convention | None:
        """The one that matches most runs."""
        votes: dict[Convention, int] = {}
        for outcome in self.outcomes:
            for convention in outcome.conventions:
                votes[convention] = votes.get(convention, 0) + 1
        return min(votes, key=lambda one: (-votes[one], _order(one)), default=None)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The axes on which nothing can be said: without a temperature, what it does and its factor."""
        return () if "temperature" in self.settings else ("temperature", "factor")


def check(
    function: Callable[..., Any],
    *,
    fixed: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> Report:
    """Every golden vector whose settings the function takes, held against every convention.

    `fixed` are arguments that it gets each time; `names` says which parameter is a setting of NAMES, or is none ("").
    Raises MethodError where the function cannot be called as described, or returns something else.
    """
    call = _Call(function, dict(fixed or {}), dict(names or {}))
    outcomes, left_out = [], {}
    varied = next((name for name in ("weight", "skew") if name in call.takes), "")
    for run in runs():
        needs = _needs(run)
        if needs and needs not in ("", *call.takes):
            left_out[run.name] = needs
        elif needs not in ("weight", "skew") or needs == varied:
            outcomes.append(_outcome(call, run, varied, tolerance))
    return Report(tuple(outcomes), call.takes, left_out)


def _needs(run: Run) -> str:
    """The setting without which a run says nothing."""
    given = {"top_k": run.top_k, "weight": run.weight, "skew": run.skew}
    named = next((name for name, value in given.items() if value is not None), "")
    return named or ("temperature" if run.temperature != 1 else "")


def _outcome(call: _Call, run: Run, varied: str, tolerance: float) -> Outcome:
    given = problem(run.problem)
    student = given.student.clone().requires_grad_()
    try:
        loss = call(student, given, run, varied)
    except Exception as error:  # whatever somebody's function raises
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        if run.edge in (None, "empty"):
            raise MethodError(f'on the vectors "{run.name}" the function raised {said}') from error
        return Outcome(run, refused=said)
    loss, unreduced = _scalar(loss, given)
    if not loss.requires_grad and run.name == "plain":
        raise MethodError("the function's loss has no gradient in the student's logits")
    gradient = torch.zeros_like(
        student
    )  # also of a loss that is a constant, as the JSD's is at weights 0 and 1
    if loss.requires_grad:
        (found,) = torch.autograd.grad(loss, student, allow_unused=True)
        gradient = gradient if found is None else found
    value = float(loss.detach())
    known = candidates(run, varied)
    value_errors, gradient_errors = _apart(known, value, gradient)
    errors = torch.maximum(value_errors, gradient_errors)  # NaN where either is

    def match(place: int) -> Match:
        convention = known.conventions[place]
        if unreduced:
            convention = convention._replace(reduction="unreduced")
        return Match(
            convention, known.edges[place], value_errors[place].item(), gradient_errors[place].item()
        )

    if unreduced:  # it was summed over the tokens here
        summed = [one.reduction == "sum" and one.padding == "ignored" for one in known.conventions]
        errors = errors.masked_fill(~torch.tensor(summed), math.inf)
    agreeing = [match(place) for place in (errors <= tolerance).nonzero().flatten().tolist()]
    closest = None if errors.isnan().all() else match(int(errors.nan_to_num(math.inf).argmin()))
    return Outcome(
        run,
        value,
        tuple(sorted(agreeing, key=lambda one: _order(one.convention))),
        None if agreeing else closest,
    )


def _apart(known: Candidates, value: float, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """How far a value and a gradient are from each candidate's, (N,) each."""
    apart = (known.values - value).abs()
    slopes = (known.gradients - gradient).abs().flatten(1).amax(-1)
    # Where a divergence is infinite its gradient is left open.
    infinite = known.values.isinf()
    apart = torch.where(infinite, 0.0 if value == math.inf else math.inf, apart)
    return apart, torch.where(infinite, 0.0, slopes)


def _scalar(loss: Any, given: Problem) -> tuple[Tensor, bool]:
    """The loss as a scalar, and whether it was one value a position."""
    if not isinstance(loss, Tensor):
        raise MethodError(f"the function returned a {type(loss).__name__}, not a tensor")
    unreduced = loss.shape == given.mask.shape
    if loss.numel() != 1 and not unreduced:
        raise MethodError(
            f"the function returned a tensor of shape {tuple(loss.shape)}: a scalar is wanted, or one value a "
            f"position, here {tuple(given.mask.shape)}"
        )
    return (torch.where(given.mask, loss, 0).sum() if unreduced else loss.reshape(())), unreduced


def _order(convention: Convention) -> tuple[int, ...]:
    return tuple(_ORDER[axis][getattr(convention, axis)] for axis in AXES)


class _Call:
    """How a function is called: which of its parameters gets what."""

    def __init__(self, function: Callable[..., Any], fixed: dict[str, Any], names: dict[str, str]) -> None:
        self.function, self.fixed = function, fixed
        try:
            parameters = dict(inspect.signature(function).parameters)
        except (TypeError, ValueError) as error:
            raise MethodError(f"{function!r} has no signature that can be read") from error
        open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        parameters = {
            name: one for name, one in parameters.items() if one.kind not in (2, 4)
        }  # *args, **kwargs
        for name in fixed:
            if name not in parameters and not open_ended:
                raise MethodError(f'the function has no parameter "{name}"{near(name, parameters)}')
        self.takes = {
            setting: parameter
            for setting, known in NAMES.items()
            if (parameter := _parameter(setting, known, parameters, names)) and parameter not in fixed
        }
        for setting in names:
            if setting not in NAMES:
                raise MethodError(
                    f'no setting is called "{setting}"{near(setting, NAMES)}: {", ".join(NAMES)}'
                )
        free = [name for name in parameters if name not in fixed and name not in self.takes.values()]
        self.student, self.teacher = _logits_of(free)
        self.by_place = {name for name, one in parameters.items() if one.kind is one.POSITIONAL_ONLY}
        open_still = [
            name
            for name in free
            if parameters[name].default is inspect.Parameter.empty
            and name not in (self.student, self.teacher)
        ]
        if open_still:
            raise MethodError(
                f'the function needs "{open_still[0]}", which the vectors do not have: give it a value with '
                f"--set {open_still[0]}=VALUE, or say what it is with --name SETTING={open_still[0]}"
            )
        self.order = [*parameters]

    def __call__(self, student: Tensor, given: Problem, run: Run, varied: str) -> Any:
        values = {
            "temperature": run.temperature,
            "weight": (OFF_CENTRE if run.weight is None else run.weight) if varied == "weight" else None,
            "skew": (SKEW if run.skew is None else run.skew) if varied == "skew" else None,
            "top_k": run.top_k,
            "mask": given.mask,
            "labels": torch.where(given.mask, TOKEN, IGNORED),
        }
        arguments = {**self.fixed, self.student: student, self.teacher: given.teacher}
        arguments |= {
            parameter: values[setting]
            for setting, parameter in self.takes.items()
            if values[setting] is not None
        }
        places = [arguments.pop(name) for name in self.order if name in self.by_place and name in arguments]
        return self.function(*places, **arguments)


def _parameter(
    setting: str, known: tuple[str, ...], parameters: Mapping[str, Any], names: Mapping[str, str]
) -> str:
    """The parameter that is a setting, or ""."""
    if setting in names:
        if names[setting] and names[setting] not in parameters:
            raise MethodError(
                f'the function has no parameter "{names[setting]}"{near(names[setting], parameters)}'
            )
        return names[setting]
    taken = set(names.values())
    return next((name for name in known if name in parameters and name not in taken), "")


def _logits_of(free: list[str]) -> tuple[str, str]:
    """The parameters of the student's and the teacher's logits: by their names, or the first two."""
    student = next((name for name in free if "student" in name), "")
    teacher = next((name for name in free if "teacher" in name), "")
    rest = [name for name in free if name not in (student, teacher)]
    student = student or (rest.pop(0) if rest else "")
    teacher = teacher or (rest.pop(0) if rest else "")
    if not student or not teacher:
        raise MethodError("the function takes no two arguments for the logits of student and teacher")
    return student, teacher
