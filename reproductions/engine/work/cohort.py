"""The seeds of an arm trained as one batched model, where the arm allows it.

`train_together` trains several runs that differ in their seed alone and leaves each its student in `run.trained`;
`execute` then goes on with every run by itself. What a run counts (tokens, rollouts, its learning curve) is its own;
seconds are an equal share of what the cohort took, and `run.cohort` says of how many, so that figures at equal seconds
stay honest. Figures agree with those of a run made alone up to rounding: they are no part of a run's key.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from methods.recipe import OF_ANSWERS, POLICIES
from reproductions.engine.errors import KDError
from reproductions.engine.work.clock import CohortClock
from reproductions.engine.work.seeding import seed_everything

if TYPE_CHECKING:
    from reproductions.engine.work.run import Run

# Beyond so many the stacked weights and states leave the processor's cache: ten cost a seed as much as five.
LARGEST = 5
SMALLEST = 2


def can_cohort(method: Mapping[str, Any], spec: Mapping[str, Any]) -> str | None:
    """Why the seeds of an arm are not trained as one, in a few words; None where they are.

    Any terms, targets, samplers, advantages and rewards will do: a member keeps its own. What students write themselves
    is the same to the last token in float64 (tests); in float32 a token that falls otherwise by rounding makes another
    training, no better and no worse: over 20 seeds of reverse KL on policy, cohorts have +0.13 (-0.14, 0.40) points of
    greedy accuracy.
    """
    trainer = method["trainer"]["name"]
    if trainer not in (*OF_ANSWERS, *POLICIES):
        return f"its trainer is {trainer}"
    if "lora" in spec:
        return "its student is under an adapter"
    if spec.get("precision", "fp32") != "fp32":
        return f"its precision is {spec['precision']}"
    if spec.get("training", {}).get("gradient_accumulation_steps", 1) != 1:
        return "a step is more than one batch"
    students = spec.get("testbed", {}).get("students", {})  # all that classify are published
    chosen = students.get(spec.get("student") or "main", {})
    if "shape" not in chosen:
        return "its student is a published model"
    return None


def cohorts(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one arm in groups of two to five that are trained together, as even as can be; one by one where not."""
    if not runs:
        return []
    alone = can_cohort(runs[0].spec["method"], runs[0].spec) is not None or runs[0].device.type != "cpu"
    count = len(runs) if alone else -(-len(runs) // LARGEST)
    size, more = divmod(len(runs), count)
    ends = [n * size + min(n, more) for n in range(count + 1)]
    return [list(runs[a:b]) for a, b in zip(ends, ends[1:], strict=False)]


def execute_cohort(
    runs: Sequence[Run], keep: Callable[[Run, dict[str, Any]], object] | None = None
) -> list[dict[str, Any]]:
    """The records of `execute`, run for run: those of one arm, trained together where that can be.

    `keep` is called with each run and its record as soon as it is there.
    """
    from reproductions.engine.work.execute import execute

    records = []
    for group in cohorts(runs):
        train_ahead(group)
        for run in group:
            records.append(execute(run))
            if keep is not None:
                keep(run, records[-1])
    return records


def train_ahead(group: Sequence[Run]) -> None:
    """Trains a group of `cohorts` together, if it is more than one run, so that `execute` finds the students there.

    A cohort that fails leaves its runs as they were: each is made alone then and says itself what is wrong with it. The
    traceback goes to stderr, which is a worker's log.
    """
    if len(group) < SMALLEST:
        return
    try:
        train_together(group)
    except Exception:
        traceback.print_exc()
        for run in group:
            run.begin_again()


def train_together(runs: Sequence[Run]) -> str | None:
    """Trains the students of runs that differ in their seed alone; each is in its run's `trained` then.

    Where the trainers turn out to be unlike (rows of other lengths, say), each trains alone after all, and why is
    returned. Raises KDError for runs of different arms, and what a training raises.
    """
    import torch

    from methods.assembly import trainer_for
    from methods.trainers.cohort import Cohort, PolicyCohort, unfit, unfit_policies
    from reproductions.engine.work.surroundings import RunSurroundings

    if any(run.spec != runs[0].spec for run in runs) or len({run.seed for run in runs}) != len(runs):
        raise KDError("a cohort is of one arm, each seed once")
    began, making = time.perf_counter(), sum(run.shared.seconds for run in runs)
    runs[0].testbed.prepare(runs)
    members, states = [], []
    for run in runs:
        seed_everything(run.seed)
        members.append(trainer_for(run.spec["method"], RunSurroundings(run)))
        states.append(torch.get_rng_state())
    policies = runs[0].spec["method"]["trainer"]["name"] in POLICIES
    why = unfit_policies(members) if policies else unfit(members)
    if why is not None:
        for run, member, state in zip(runs, members, states, strict=True):
            seed_everything(run.seed)
            torch.set_rng_state(state)
            run.trained = run.train(member)
    else:
        made = PolicyCohort(members, states) if policies else Cohort(members, states)
        train_members(runs, made, phase="student")
        for run, member in zip(runs, members, strict=True):
            run.budget.add_tokens(member.token_counts)
            run.budget.add_rollouts(member.rollout_counts)
            run.trained = member.accelerator.unwrap_model(member.model)
    spent = time.perf_counter() - began - (sum(run.shared.seconds for run in runs) - making)
    for run in runs:
        run.ahead = spent / len(runs)
    return why


def train_members(runs: Sequence[Run], cohort: Any, *, phase: str) -> None:
    """Trains a cohort whose members are these runs', with their progress and curves; seconds are shared out."""
    clock = CohortClock(runs[0].device, [run.budget for run in runs])
    for place, (run, member) in enumerate(zip(runs, cohort.members, strict=True)):
        run.clock, run.cohort = clock, len(runs)
        for callback in run.callbacks(member, phase):
            cohort.add_callback_of(place, callback)
    with clock.training():
        cohort.train()
