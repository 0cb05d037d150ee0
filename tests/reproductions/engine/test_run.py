import random

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments
from transformers import Trainer as PlainTrainer

from reproductions.engine.errors import KDError
from reproductions.engine.experiment import Arm, Experiment, Scale, load_experiment
from reproductions.engine.metrics import Metric
from reproductions.engine.run import Ledger, execute, make_run
from reproductions.engine.seeding import preserved_random_state, seed_everything

ROWS = [{"input_ids": [place % 7, 1, 2, 3], "labels": [place % 7, 1, 2, 3]} for place in range(40)]


class Words:
    """A testbed of a few token ids; evaluation draws random numbers of every kind and switches modes."""

    name = shelf = "words"
    revision = "r1"
    metrics = {"loss": Metric("mean", ("loss",), False, "Loss")}
    noisy = True

    def __init__(self):
        self.calls = []

    def model(self):
        config = GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1, resid_pdrop=0.3)
        return GPT2LMHeadModel(config)

    def evaluate(self, model, run, *, split="test", limit=None):
        self.calls.append((limit, model.training, torch.is_grad_enabled()))
        if self.noisy:
            random.random(), np.random.rand(), torch.rand(3)
            model.train()
        ids = torch.tensor([[place, 1, 2, 3] for place in range(7)][:limit])
        model.eval()
        return {
            "loss": [float(model(ids[[i]], labels=ids[[i]]).loss) for i in range(len(ids))],
            "unused": [1.0],
        }


def train(run, **overrides):
    model = run.testbed.model()
    trainer = PlainTrainer(model, run.arguments(TrainingArguments, **overrides), train_dataset=ROWS)
    trainer.token_counts = {"student": 160, "teacher": 5}
    trainer.rollout_counts = {"completions": 4, "truncated": 1}
    return run.train(trainer)


def experiment(**settings):
    training = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 0.05}
    settings = {"training": training, "curve_points": 2, "curve_examples": 3, **settings}
    return Experiment(
        "x", "X", {"sft": Arm("SFT", train, "method")}, {"tiny": Scale("w", (0,), settings)}, ("loss",)
    )


def record(tmp_path, testbed=None, seed=1, events=None, **settings):
    made = experiment(**settings)
    run = make_run(made, "sft", seed, "tiny", testbed or Words(), cache=tmp_path, events=events)
    return execute(run, made)


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
    seen = record(tmp_path, curve_points=4)["examples"]
    assert record(tmp_path, curve_points=0)["examples"] == seen
    quiet = Words()
    quiet.noisy = False
    assert record(tmp_path, quiet, curve_points=4)["examples"] == seen


def test_a_run_is_its_seed_whatever_ran_before(tmp_path):
    first = record(tmp_path, seed=1)
    other = record(tmp_path, seed=2)
    random.random(), np.random.rand(), torch.rand(3)
    again = record(tmp_path, seed=1)
    assert again["examples"] == first["examples"] and again["metrics"] == first["metrics"]
    assert other["examples"] != first["examples"]


def test_trl_sft_trainer_is_evaluated_on_the_object_it_patches(tmp_path):
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    def sft(run):
        rows = Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in ROWS])
        arguments = run.arguments(SFTConfig, max_length=8, dataset_kwargs={"skip_prepare_dataset": True})
        model = run.testbed.model()

        words = Tokenizer(models.WordLevel({str(i): i for i in range(8)}, unk_token="0"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="0", eos_token="0", unk_token="0"
        )
        trainer = SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        trained = run.train(trainer)
        assert trained is model
        return trained

    made = experiment()
    made = Experiment("x", "X", {"sft": Arm("SFT", sft, "method")}, made.scales, ("loss",))
    result = execute(make_run(made, "sft", 1, "tiny", Words(), cache=tmp_path), made)
    assert result["curve"][0]["metrics"]["loss"] > result["curve"][-1]["metrics"]["loss"]
    limited = np.mean(result["examples"]["loss"][:3])
    assert result["curve"][-1]["metrics"]["loss"] == pytest.approx(limited, rel=1e-4)


def test_arguments_are_the_engines_then_the_scales_then_the_arms(tmp_path):
    run = make_run(experiment(precision="bf16-autocast"), "sft", 5, "tiny", Words(), cache=tmp_path)
    arguments = run.arguments(TrainingArguments, learning_rate=0.5)
    assert (arguments.learning_rate, arguments.max_steps, arguments.seed, arguments.data_seed) == (
        0.5,
        8,
        5,
        5,
    )
    assert arguments.bf16 and arguments.use_cpu and arguments.save_strategy == "no"
    with pytest.raises(
        KDError, match='TrainingArguments has no field "learning_rat".*did you mean "learning_rate"'
    ):
        run.arguments(TrainingArguments, learning_rat=0.5)
    run = make_run(experiment(precision="fp8"), "sft", 5, "tiny", Words(), cache=tmp_path)
    with pytest.raises(KDError, match='precision "fp8"'):
        run.arguments(TrainingArguments)


def test_a_shared_model_is_the_same_for_whoever_makes_it_and_costs_the_run_nothing(tmp_path):
    drawn, seeds, weights = [], [], []

    def teacher(run):
        def build():
            arguments = run.arguments(TrainingArguments, max_steps=2, per_device_train_batch_size=2)
            seeds.append((arguments.seed, arguments.learning_rate))
            trainer = PlainTrainer(run.testbed.model(), arguments, train_dataset=ROWS)
            trainer.token_counts = {"student": 9}
            return run.train(trainer, phase="teacher")

        model = run.cached_model("teacher", {"layers": 1}, build)
        weights.append(model.transformer.wte.weight.detach().clone())
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
        return run.testbed.model()

    made = experiment()
    made = Experiment("x", "X", {"sft": Arm("SFT", teacher, "method")}, made.scales, ("loss",))
    for cache in ("a", "a", "b"):
        result = execute(make_run(made, "sft", 3, "tiny", Words(), cache=tmp_path / cache), made)
        assert result["tokens"]["student"] == 0 and result["curve"] == []
        (shared,) = result["shared"].values()
        assert shared["student_tokens"] == 9 and shared["key"] == {
            "layers": 1,
            "testbed": "words",
            "data_revision": "r1",
        }
    seed_everything(99)
    other = execute(make_run(made, "sft", 4, "tiny", Words(), cache=tmp_path / "c"), made)
    assert other["shared"].keys() == result["shared"].keys()
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]  # found or made: the run draws the same numbers
    assert all(
        torch.equal(weights[0], weight) for weight in weights
    )  # made by seed 3 or seed 4: the same teacher
    assert seeds == [(0, 5e-5)] * 3  # neither the run's seed nor settings["training"] reach it


def test_cached_json_is_made_once_and_keeps_what_it_was_made_from(tmp_path):
    made = []

    def arm(run):
        def inner():
            return made.append("inner") or ["x"]

        def outer():
            return {"rows": run.cached_json("inner", {}, inner)}

        assert run.cached_json("outer", {"n": 1}, outer) == {"rows": ["x"]}
        return run.testbed.model()

    made_of = experiment()
    made_of = Experiment("x", "X", {"sft": Arm("SFT", arm, "method")}, made_of.scales, ("loss",))
    shared = [
        execute(make_run(made_of, "sft", k, "tiny", Words(), cache=tmp_path), made_of)["shared"]
        for k in (0, 1)
    ]
    assert made == ["inner"]
    assert shared[0].keys() == shared[1].keys() and len(shared[0]) == 2


def test_an_arm_that_returns_nothing_is_told_so(tmp_path):
    made = experiment()
    made = Experiment("x", "X", {"sft": Arm("SFT", lambda run: None, "method")}, made.scales, ("loss",))
    with pytest.raises(KDError, match="must return the trained model"):
        execute(make_run(made, "sft", 0, "tiny", Words(), cache=tmp_path), made)


def test_the_ledger_refuses_a_budget_it_does_not_keep():
    ledger = Ledger()
    ledger.add_tokens({"student": 3})
    with pytest.raises(KDError, match='no budget is kept for "studnt".*did you mean "student"'):
        ledger.add_tokens({"studnt": 3})
    assert ledger.as_dict()["student_tokens"] == 3


def test_random_states_come_back():
    seed_everything(1)
    with preserved_random_state():
        seed_everything(2)
        torch.rand(1), np.random.rand(), random.random()
    after = float(torch.rand(1)), np.random.rand(), random.random()
    seed_everything(1)
    assert after == (float(torch.rand(1)), np.random.rand(), random.random())


def test_a_run_of_a_papers_experiment_needs_no_runner(papers, tmp_path):
    toy = load_experiment("toy", papers)
    made = execute(make_run(toy, "method", 0, "tiny", cache=tmp_path), toy)
    assert made["metrics"]["error"] > 0 and made["tokens"] == {"student": 320, "teacher": 320, "generated": 0}
