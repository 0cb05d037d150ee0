"""The student's near future: which checkpoint the guide is, what is kept of it, how likely it found its own words."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from methods.assembly import rows_of, trainer_for
from methods.elicitation import ahead
from methods.errors import Broken, MethodError
from methods.recipe import canonical_method, read_recipe
from methods.toy import ToySurroundings, stops_often
from tests.methods.conftest import make_model

STEPS = {"ahead": 2, "num_generations": 2, "threshold": 0.3, "verifier": {"name": "task"}}


class Noted(TrainerCallback):
    """The weights after each optimizer step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **_):
        self.weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))


@pytest.fixture
def toy():
    made = ToySurroundings()
    stops_often(made.student(), made.tokenizer)
    return made


def guide_of(toy, **settings):
    """The weights of the guide that a step trains, and the step's rows."""
    found = []

    def train(trainer, phase):
        assert phase == ahead.GUIDE
        trainer.train()
        found.append(trainer.model)
        return trainer.model

    toy.train = train
    rows = ahead.guide_answers(toy.rows("train"), None, toy, **{**STEPS, **settings})
    return [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in found], rows


def checkpoint_oracle():
    """The guide is the checkpoint after two of the steps of the GRPO recipe's own run; the student stays as it is."""
    toy = ToySurroundings()
    stops_often(toy.student(), toy.tokenizer)
    before = copy.deepcopy(toy.student().state_dict())
    ((weights,), _) = guide_of(toy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy.student().state_dict().items())
    settings = {"num_generations": 2, "reward": "task"}
    trainer, noted = trainer_for(canonical_method(read_recipe("deepseekmath").method(settings)), toy), Noted()
    trainer.add_callback(noted)
    trainer.train()
    assert len(noted.weights) > 2
    assert torch.equal(weights, noted.weights[1])
    assert not torch.equal(noted.weights[1], noted.weights[2]), "a later one is another"


def test_the_guide_is_a_checkpoint_of_the_same_run():
    checkpoint_oracle()


class TooLate(ahead.StopsAfter):
    def __init__(self, steps):
        super().__init__(steps + 1)


def test_another_checkpoint_is_caught(monkeypatch):
    monkeypatch.setattr(ahead, "StopsAfter", TooLate)
    with pytest.raises(AssertionError):
        checkpoint_oracle()


def test_nothing_is_trained_for_the_student_as_it_is(toy):
    models, rows = guide_of(toy, ahead=0, samples=6, temperature=0.3)
    assert models == [] and any(rows["guide"])


def test_what_is_right_stands_beside_each_row(toy, monkeypatch):
    rows = toy.rows("train").select(range(3)).add_column("guide", ["old"] * 3)
    first, second, third = rows["prompt"]
    said = [
        (first, "no", 0.2),
        (second, "ab", 0.3),
        (first, "cd", None),
        (second, "ef", 1.0),
        (first, "g", 0.9),
    ]

    def judged(given, around, verifier, samples, **sampling):
        assert around.student() is not toy.student() and samples == 5
        assert sampling == {"temperature": 0.7, "greedy": False, "batch_size": 64, "seed": 4}
        return said

    monkeypatch.setattr(ahead, "checked_answers", judged)
    settings = {"ahead": 0, "threshold": 0.3, "samples": 5, "temperature": 0.7, "seed": 4}
    found = ahead.guide_answers(rows, None, toy, **settings)
    assert list(found["guide"]) == ["g", "ab", None]
    assert [row and len(row) for row in found["guide_log_probs"]] == [2, 3, None], "the end is a token too"
    beside = ["guide", "guide_log_probs"]
    assert found.remove_columns(beside).to_list() == rows.remove_columns("guide").to_list()
    said[:] = [(first, "no", 0.2)]
    with pytest.raises(MethodError, match="none of the guide's 1 answers is right") as as_it_is:
        ahead.guide_answers(rows, None, toy, **settings)
    assert not isinstance(as_it_is.value, Broken), "no rate has broken what was not trained"
    with pytest.raises(Broken, match="none of the guide's 1 answers is right"):
        ahead.guide_answers(rows, None, toy, **{**settings, "ahead": 1, "num_generations": 2})
    for wrong in ({"ahead": -1}, {"samples": 0}):
        with pytest.raises(MethodError, match='"ahead" is 0 or more and "samples" 1 or more'):
            ahead.guide_answers(rows, None, toy, **wrong)


# How likely the guide found what it said.

ANSWERS = {"ab|": "cde", "f|": "g", "hij|": "kl"}


def likelihood_oracle(tokenizer, temperature):
    """Each text by itself, without padding, from the logits in float64."""
    model = make_model("gpt2", seed=3).double().train()
    found = ahead.log_probs_by(model, tokenizer, ANSWERS, temperature, 2)
    assert model.training
    for prompt, answer in ANSWERS.items():
        asked = tokenizer(prompt)["input_ids"]
        told = [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
        logits = model(torch.tensor([asked + told])).logits[0] / temperature
        wanted = [float(logits[len(asked) + t - 1].log_softmax(-1)[token]) for t, token in enumerate(told)]
        torch.testing.assert_close(found[prompt], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_those_of_each_text_by_itself(temperature, tokenizer):
    likelihood_oracle(tokenizer, temperature)


def test_a_temperature_that_is_forgotten_is_caught(tokenizer, monkeypatch):
    right = ahead.linear_log_probs
    monkeypatch.setattr(ahead, "linear_log_probs", lambda *args, **settings: right(*args))
    with pytest.raises(AssertionError):
        likelihood_oracle(tokenizer, 0.6)


def test_a_recipe_s_rows_come_through_the_step(toy):
    tree = canonical_method(
        {
            "trainer": {"name": "policy-optimisation"},
            "teacher": None,
            "advantage": {"name": "group-reward"},
            "rewards": [{"name": "task"}],
            "data": {"use": "guide-answers", **STEPS},
        }
    )
    rows = rows_of(tree["data"], toy)
    assert isinstance(rows, Dataset) and rows["completion"] == toy.rows("train")["completion"]
