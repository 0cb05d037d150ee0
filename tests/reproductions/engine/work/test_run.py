"""What a run records of a Trainer, and that nothing which looks at it or is made beside it changes it."""

from __future__ import annotations

import contextlib
import random
import time

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments
from transformers import Trainer as PlainTrainer

from methods.registry import component
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.engine.work.artifacts import Artifacts
from reproductions.engine.work.budget import Budget
from reproductions.engine.work.execute import execute
from reproductions.engine.work.run import Run
from reproductions.engine.work.seeding import preserved_random_state, seed_everything

ROWS = [{"input_ids": [place % 7, 1, 2, 3], "labels": [place % 7, 1, 2, 3]} for place in range(40)]
TRAINING = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 0.05}


class Words:
    """A testbed of a few token ids; evaluation draws random numbers of every kind and switches modes."""

    shelf, revision, tokenizer = "words", "r1", None
    max_prompt_tokens, max_completion_tokens, pair_limits = 2, 2, ()
    metrics = {"loss": Metric("mean", ("loss",), False, "Loss")}

    def __init__(self, noisy=True, on_the_way=None):
        self.noisy, self.on_the_way, self.calls = noisy, on_the_way, []

    def callbacks(self, run):
        return []

    def evaluate(self, model, run, *, split="test", limit=None, wanted=None):
        self.calls.append((limit, model.training, torch.is_grad_enabled()))
        if self.on_the_way is not None:
            self.on_the_way(run)
        if self.noisy:
            random.random(), np.random.rand(), torch.rand(3)
            model.train()
        ids = torch.tensor([[place, 1, 2, 3] for place in range(7)][:limit])
        model.eval()
        losses = [float(model(ids[[i]], labels=ids[[i]]).loss) for i in range(len(ids))]
        return {"loss": losses, "unused": [1.0]}


def model():
    config = GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1, resid_pdrop=0.3)
    return GPT2LMHeadModel(config)


@component("trainer", "test-words")
def words(surroundings, method):
    """Fine-tuning on rows of four tokens."""
    arguments = surroundings.arguments(TrainingArguments)
    trainer = PlainTrainer(model(), arguments, train_dataset=ROWS)
    trainer.token_counts = {"student": 160, "teacher": 5}
    trainer.rollout_counts = {"completions": 4, "truncated": 1}
    return trainer


@component("trainer", "test-by-hand")
class ByHand:
    """A paper's own trainer, which is no Trainer: does what the method's `steps` says."""

    def __init__(self, surroundings, method):
        self.model, self.step = model(), method["step"]
        self.run = surroundings._run

    def train(self):
        self.step(self.run, self.model)


def run_of(tmp_path, testbed=None, seed=1, events=None, trainer="test-words", method=(), **spec):
    spec = {
        "method": {"trainer": {"name": trainer}, "teachers": [], "data": "train", **dict(method)},
        "training": TRAINING,
        "curve": {"points": 2, "examples": 3},
        **spec,
    }
    artifacts, device = Artifacts(tmp_path), torch.device("cpu")
    bed = testbed or Words()
    return Run(spec, seed, testbed=bed, device=device, artifacts=artifacts, arm="sft", events=events)


def record(*arguments, **options):
    return execute(run_of(*arguments, **options))


def by_hand(tmp_path, step, **options):
    return record(tmp_path, trainer="test-by-hand", method={"step": step}, **options)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when it is told to, for the wall and the processor alike."""
    now = [1000.0]
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(time, name, lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_a_trainer_gets_curve_progress_seconds_tokens_and_rollouts(tmp_path):
    events, testbed = [], Words()
    made = record(tmp_path, testbed, events=events.append)
    assert [point["step"] for point in made["curve"]] == [0, 4, 8]
    times = [point["train_seconds"] for point in made["curve"]]
    assert times == sorted(times) and times[-1] <= made["seconds"]["train"] + 0.001
    assert made["curve"][0]["metrics"]["loss"] > made["curve"][-1]["metrics"]["loss"]
    assert [limit for limit, *_ in testbed.calls] == [3, 3, 3, None]
    assert all(not training and not gradients for _, training, gradients in testbed.calls)
    assert made["tokens"] == {"student": 160, "teacher": 5, "generated": 0}
    assert made["rollouts"] == {"completions": 4, "truncated": 1, "empty": 0}
    assert set(made["examples"]) == {"loss"} and len(made["examples"]["loss"]) == 7
    assert made["metrics"]["loss"] == pytest.approx(np.mean(made["examples"]["loss"]), abs=1e-12)
    steps = [event for event in events if event["event"] == "step" and event["phase"] == "student"]
    assert steps[-1] == {"event": "step", "arm": "sft", "seed": 1, "phase": "student", "step": 8, "total": 8}


def test_looking_at_the_student_does_not_change_it(tmp_path):
    seen = record(tmp_path, curve={"points": 4, "examples": 3})["examples"]
    assert record(tmp_path, curve={"points": 0})["examples"] == seen
    assert record(tmp_path, Words(noisy=False), curve={"points": 4, "examples": 3})["examples"] == seen


def test_modes_and_random_states_are_after_a_look_what_they_were_before(tmp_path):
    run, student = run_of(tmp_path), model()
    student.train()
    student.transformer.drop.eval()
    modes = [module.training for module in student.modules()]
    seed_everything(5)
    expected = random.random(), np.random.rand(), float(torch.rand(1))
    seed_everything(5)
    first = run.measure.columns(student)
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected
    assert [module.training for module in student.modules()] == modes
    assert run.measure.columns(student) == first  # and what is drawn for it is the run's own
    assert run.measure.columns(student, 3)["loss"] == first["loss"][:3]


def test_a_look_that_fails_puts_the_modes_back(tmp_path):
    def fail(run):
        raise RuntimeError("no")

    run, student = run_of(tmp_path, Words(on_the_way=fail)), model().train()
    with pytest.raises(RuntimeError):
        run.measure.columns(student)
    assert all(module.training for module in student.modules())


def test_a_run_is_its_seed_whatever_ran_before(tmp_path):
    first, other = record(tmp_path, seed=1), record(tmp_path, seed=2)
    random.random(), np.random.rand(), torch.rand(3)
    again = record(tmp_path, seed=1)
    assert again["examples"] == first["examples"] and again["metrics"] == first["metrics"]
    assert other["examples"] != first["examples"]


def test_seconds_of_the_curve_are_no_training_seconds(tmp_path, clock):
    def step(run, student):
        clock(5)
        run.measure.point(student, 1)
        clock(2)
        run.measure.point(student, 2)
        clock(3)

    made = by_hand(tmp_path, step, testbed=Words(on_the_way=lambda run: clock(40)))
    assert [point["train_seconds"] for point in made["curve"]] == [5, 7]
    assert made["seconds"] == {"train": 10, "train_cpu": 10, "evaluate": 3 * 40, "total": 10 + 3 * 40}


def test_two_trainings_of_one_run_add_up(tmp_path, clock):
    def step(run, student):
        run.measure.point(student, 0)
        clock(4)
        run.measure.point(student, 1)

    run = run_of(tmp_path, Words(on_the_way=lambda run: clock(40)))
    for _ in range(2):
        trainer = ByHand.__new__(ByHand)
        trainer.run, trainer.model, trainer.step = run, model(), step
        run.train(trainer)
    assert [point["train_seconds"] for point in run.measure.curve] == [0, 4, 4, 8]
    assert run.budget.train_seconds == 8


def shared_model(run, seconds=0.0, clock=None, **key):
    """A teacher of two steps that is made in no time or in so many seconds of the clock."""

    def build(apart):
        if clock is not None:
            clock(seconds)
        arguments = apart.arguments(TrainingArguments, max_steps=2, per_device_train_batch_size=2)
        trainer = PlainTrainer(model(), arguments, train_dataset=ROWS)
        trainer.token_counts = {"student": 9}
        return apart.train(trainer, phase="teacher")

    return run.shared.model("teacher", {"layers": 1, **key}, build)


def test_a_teacher_made_on_the_way_costs_neither_training_nor_evaluation(tmp_path, clock):
    def on_the_way(run):
        shared_model(run, 500, clock)
        clock(40)

    def step(run, student):
        clock(5)
        run.measure.point(student, 1)
        clock(2)

    made = by_hand(tmp_path, step, testbed=Words(on_the_way=on_the_way))
    assert made["seconds"] == {"train": 7, "train_cpu": 7, "evaluate": 2 * 40, "total": 7 + 2 * 40}
    (teacher,) = made["shared"].values()
    assert teacher["seconds"] == 500


def test_what_is_made_in_the_middle_of_an_evaluation_changes_nothing(tmp_path):
    """There gradients are off and the random state is the evaluation's."""
    made, quiet = [], Words()
    loud = Words(
        on_the_way=lambda run: made.append(shared_model(run).transformer.wte.weight.detach().clone())
    )
    expected, found = record(tmp_path / "a", quiet), record(tmp_path / "b", loud)
    assert found["examples"] == expected["examples"] and found["tokens"] == expected["tokens"]
    assert [point["metrics"] for point in found["curve"]] == [point["metrics"] for point in expected["curve"]]
    apart = shared_model(run_of(tmp_path / "c", seed=9)).transformer.wte.weight
    assert len(made) == 4 and all(torch.equal(apart, weight) for weight in made)


def test_a_shared_model_is_the_same_for_whoever_makes_it_and_costs_the_run_nothing(tmp_path):
    drawn, weights = [], []
    for cache, seed in (("a", 3), ("a", 3), ("b", 3), ("c", 4)):
        run = run_of(tmp_path / cache, seed=seed)
        seed_everything(seed)
        weights.append(shared_model(run).transformer.wte.weight.detach().clone())
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
        assert run.budget.tokens()["student"] == 0 and run.measure.curve == []
        ((name, shared),) = run.shared.used.items()
        assert name.startswith("teacher-") and shared["student_tokens"] == 9
        assert shared["key"] == {"layers": 1, "testbed": "words", "data_revision": "r1"}
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]  # found or made: the run draws the same numbers
    assert all(torch.equal(weights[0], weight) for weight in weights)  # made by seed 3 or by seed 4


def test_whoever_makes_something_shared_knows_neither_seed_nor_training_of_the_run(tmp_path):
    seen = []

    def build(apart):
        arguments = apart.arguments(TrainingArguments)
        seen.append((apart.seed, arguments.seed, arguments.learning_rate, "method" in apart.spec))
        return []

    run_of(tmp_path, seed=3).shared.data("rows", {"seed": 7}, build)
    assert seen == [(7, 7, TrainingArguments("x").learning_rate, False)]


def test_shared_data_are_made_once_and_say_what_they_were_made_from(tmp_path):
    made = []

    def inner(apart):
        return made.append("inner") or ["x"]

    def outer(apart):
        return {"rows": apart.shared.data("inner", {}, inner)}

    runs = [run_of(tmp_path, seed=seed) for seed in (0, 1)]
    for run in runs:
        assert run.shared.data("outer", {"n": 1}, outer) == {"rows": ["x"]}
    assert made == ["inner"] and len(runs[0].shared.used) == 2
    assert runs[0].shared.used.keys() == runs[1].shared.used.keys()


def test_who_makes_and_who_finds_something_is_told_once(tmp_path):
    events = []
    run = run_of(tmp_path, events=events.append)
    for _ in range(2):
        run.shared.data("rows", {}, lambda apart: [])
    assert [(event["event"], event["phase"]) for event in events] == [("making", "rows"), ("shared", "rows")]
    assert events[1]["made"] is True and events[0]["name"] == events[1]["name"]


def test_arguments_are_the_engines_then_the_specs_then_the_callers(tmp_path):
    run = run_of(tmp_path, seed=5, precision="bf16-autocast")
    arguments = run.arguments(TrainingArguments, learning_rate=0.5)
    assert (arguments.learning_rate, arguments.max_steps) == (0.5, 8)
    assert arguments.seed == arguments.data_seed == 5
    assert arguments.bf16 and arguments.use_cpu and arguments.save_strategy.value == "no"
    message = 'TrainingArguments has no field "learning_rat" .did you mean "learning_rate"'
    with pytest.raises(KDError, match=message):
        run.arguments(TrainingArguments, learning_rat=0.5)
    with pytest.raises(KDError, match=message):
        run_of(tmp_path, training={"learning_rat": 0.5}).arguments(TrainingArguments)
    with pytest.raises(KDError, match='precision "fp8"'):
        run_of(tmp_path, precision="fp8").arguments(TrainingArguments)


def test_an_arm_that_makes_no_student_is_told_so_and_leaves_no_folder(tmp_path):
    run = run_of(tmp_path, trainer="test-by-hand", method={"step": lambda run, student: None})

    class Nothing:
        model = None

        def train(self):
            """No model comes of it."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reproductions.engine.work.surroundings.trainer_for", lambda *_: Nothing())
        with pytest.raises(KDError, match='arm "sft" made no student'):
            execute(run)
    assert not run.scratch.exists()


def test_a_run_that_fails_leaves_no_folder(tmp_path):
    def fail(run, student):
        raise RuntimeError("no")

    run = run_of(tmp_path, trainer="test-by-hand", method={"step": fail})
    assert run.scratch.exists()
    with pytest.raises(RuntimeError):
        execute(run)
    assert not run.scratch.exists()


def test_the_budget_refuses_what_it_does_not_keep():
    budget = Budget()
    budget.add_tokens({"student": 3})
    budget.add_tokens({"student": 4, "teacher": 1})
    with pytest.raises(KDError, match='no budget is kept for "studnt".*did you mean "student"'):
        budget.add_tokens({"studnt": 3})
    with pytest.raises(KDError, match='no budget is kept for "truncatd".*did you mean "truncated"'):
        budget.add_rollouts({"truncatd": 3})
    assert budget.tokens() == {"student": 7, "teacher": 1, "generated": 0}


def test_random_states_come_back():
    seed_everything(1)
    with contextlib.suppress(RuntimeError), preserved_random_state():
        seed_everything(2)
        torch.rand(1), np.random.rand(), random.random()
        raise RuntimeError("they come back then, too")
    after = float(torch.rand(1)), np.random.rand(), random.random()
    seed_everything(1)
    assert after == (float(torch.rand(1)), np.random.rand(), random.random())
