"""Policies whose teacher reads what the student is not shown, a sibling's right completion among it, and may follow."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import kl_div

from methods.assembly import trainer_for
from methods.errors import MethodError
from methods.modeling.core import snapshot
from methods.recipe import canonical_method, columns_of
from methods.slots.advantages import AnotherRight, GroupReward, LogRatio, ScaledByRatio, Signals, Where
from methods.slots.terms import Divergence
from methods.teachers.readings import PLACE
from methods.toy import ToySurroundings
from methods.trainers import OptimisationConfig, PolicyOptimiser, Teacher
from methods.trainers.optimisation import siblings as module
from methods.trainers.optimisation.record import ids_of
from methods.trainers.optimisation.scoring import opinions
from methods.trainers.optimisation.siblings import siblings
from methods.trainers.teachers import OtherPrompts
from tests.methods.conftest import make_model
from tests.methods.trainers.cohort.test_policies import figures
from tests.methods.trainers.test_privileged import said

ROWS = Dataset.from_list(
    [
        {"prompt": f"{a}|", "completion": a, "reads": f"{a}{a}|hint|", "shown": f"{a}|{PLACE}|again|"}
        for a in "abcdefgh"
    ]
)


def made(tmp_path, tokenizer, student, teacher, *, rows=ROWS, settings=None, **parts) -> PolicyOptimiser:
    arguments = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 8, "num_generations": 2,
        "max_completion_length": 5, "max_steps": 1, "learning_rate": 0.5, "optim": "sgd",
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "report_to": "none", "logging_strategy": "no", "disable_tqdm": True,
        "save_strategy": "no", "seed": 3,
    }  # fmt: skip
    args = OptimisationConfig(**{**arguments, **(settings or {})})
    parts.setdefault("rewards", [figures])
    return PolicyOptimiser(
        student, args=args, teacher=teacher, train_dataset=rows, processing_class=tokenizer, **parts
    )


def shown_by_hand(record, tokenizer, least: float) -> list[str | None]:
    """What is read of each completion's siblings: the next right one in the circle of its group."""
    texts, rewards = tokenizer.batch_decode(ids_of(record.rollouts)), record.rewards[:, 0].tolist()
    found = []
    for place, group in enumerate(record.group.tolist()):
        others = [n for n in (*range(place + 1, len(texts)), *range(place)) if record.group[n] == group]
        found.append(next((texts[n] for n in others if rewards[n] >= least), None))
    return found


def oracle(tmp_path, tokenizer, *, column="reads", least=1.0):
    """The step of a policy with an advantage of a ratio and a divergence, against plain forward passes row by row."""
    student, teacher = make_model(seed=2).double(), make_model(seed=1, width=24).double()
    before = {name: weight.detach().clone() for name, weight in student.named_parameters()}
    trainer = made(
        tmp_path, tokenizer, student, Teacher(teacher, reads=column), sibling_reward=least,
        advantage=ScaledByRatio(GroupReward("mean"), mix=0.5, band=0.2),
        terms=[Divergence("forward_kl", token_weights=Where(AnotherRight(least)))],
    )  # fmt: skip
    untouched, records = snapshot(student), []
    trainer.listeners.append(lambda record, advantages: records.append((record, advantages)))
    trainer.train()
    (record, advantages), *_ = records
    shown = shown_by_hand(record, tokenizer, least)
    assert None in shown and any(shown), "the case tells nothing"
    policy, pull, tokens, helped = torch.zeros(()).double(), torch.zeros(()).double(), 0, 0
    for n, ids in enumerate(ids_of(record.rollouts)):
        prompt = record.columns["prompt"][n]
        text = record.columns[column][n]
        if PLACE in text:
            text = prompt if shown[n] is None else text.replace(PLACE, shown[n])
        ours = said(untouched, tokenizer, prompt, ids)
        with torch.no_grad():
            theirs = said(teacher, tokenizer, text, ids)
        picked = torch.tensor(ids).unsqueeze(-1)
        q, p = ours.gather(-1, picked)[:, 0], theirs.gather(-1, picked)[:, 0]
        mates = [m for m in range(len(shown)) if record.group[m] == record.group[n]]
        worth = record.rewards[n, 0].double() - record.rewards[mates, 0].double().mean()
        ratio = (worth.sign() * (p - q.detach())).exp().clamp(0.8, 1.2)
        size = worth * (0.5 + 0.5 * ratio)
        torch.testing.assert_close(advantages[n][record.mask[n].bool()].double(), size, atol=1e-6, rtol=1e-6)
        policy = policy - (size * q).sum()
        tokens += len(ids)
        if shown[n] is not None:
            pull = pull + kl_div(ours, theirs, reduction="none", log_target=True).sum()
            helped += len(ids)
    loss = policy / tokens + pull / tokens
    slopes = torch.autograd.grad(loss, list(untouched.parameters()))
    for (name, weight), slope in zip(student.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(
            before[name] - weight.detach(), 0.5 * slope, atol=1e-7, rtol=1e-5, msg=name
        )
    assert 0 < helped < tokens


@pytest.mark.parametrize("column", ["reads", "shown"])
def test_the_update_is_that_of_the_formulas_on_full_logits(tmp_path, tokenizer, column):
    oracle(tmp_path, tokenizer, column=column)


@pytest.mark.parametrize(
    "fault", ["the student's prompts", "its own completion", "any sibling", "another row's"]
)
def test_the_oracle_tells_other_readings(tmp_path, tokenizer, monkeypatch, fault):
    right, batch = siblings, OtherPrompts.batch
    if fault == "the student's prompts":
        monkeypatch.setattr(OtherPrompts, "batch", lambda self, batch, shown: dict(batch))
    elif fault == "another row's":
        monkeypatch.setattr(OtherPrompts, "batch", lambda self, rows, shown: batch(self, rows, shown[::-1]))
    else:

        def wrong(record, texts, places, least):
            if fault == "any sibling":
                return right(record, texts, places, -1.0)
            return [
                None if one is None else own
                for one, own in zip(right(record, texts, places, least), texts, strict=True)
            ]

        monkeypatch.setattr("methods.trainers.optimisation.trainer.siblings", wrong)
    with pytest.raises(AssertionError):
        oracle(tmp_path, tokenizer, column="shown")


class Written:
    def __init__(self, groups, rewards):
        self.group, self.rewards = torch.tensor(groups), torch.tensor(rewards).unsqueeze(1)


def test_the_next_right_one_in_the_circle_is_shown_and_never_the_completion_itself():
    record = Written([0, 0, 0, 1, 1, 2], [1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    texts = list("abcdef")
    assert siblings(record, texts, range(6), 1.0) == ["c", "c", "a", "e", None, None]
    assert siblings(record, texts, range(6), 2.0) == [None] * 6
    assert siblings(Written([0, 0], [float("nan"), 1.0]), ["a", "b"], range(2), 1.0) == ["b", None]


def test_a_group_on_two_ranks_is_one(monkeypatch):
    """What `gather_object` gives: the lists of all ranks, joined."""
    other = [(2, 0, 1.0, "c"), (3, 1, 1.0, "d")]
    monkeypatch.setattr(module, "gather_object", lambda own: [*own, *other])
    assert siblings(Written([0, 0], [0.0, 0.0]), ["a", "b"], range(2), 1.0) == ["c", "c"]


def test_the_condition_holds_where_a_sibling_is_shown(tmp_path, tokenizer):
    record = Written([0, 0, 0, 1, 1, 2], [1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    signals = Signals(mask=torch.ones(6, 2), log_probs={}, rewards=record.rewards, group=record.group)
    shown = siblings(record, list("abcdef"), range(6), 1.0)
    assert AnotherRight()(signals)[:, 0].tolist() == [one is not None for one in shown]
    assert AnotherRight(only_wrong=True)(signals)[:, 0].tolist() == [False, True, False, True, False, False]
    assert AnotherRight()(signals).shape == (6, 2) and not AnotherRight(2.0)(signals).any()


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_teacher_follows_the_student_before_each_step(tmp_path, tokenizer, share):
    student = make_model().double()
    teacher, wanted = snapshot(student), {n: w.detach().clone() for n, w in student.named_parameters()}
    trainer = made(
        tmp_path, tokenizer, student, Teacher(teacher, reads="reads", follows=share), settings={"max_steps": 3},
        advantage=LogRatio(),
    )  # fmt: skip
    begin, steps = trainer.models.begin_step, []

    def told():
        steps.append(trainer.state.global_step)
        for name, weight in student.named_parameters():
            wanted[name] = (1 - share) * wanted[name] + share * weight.detach()
        begin()

    trainer.models.begin_step = told
    trainer.train()
    assert steps == [0, 1, 2]
    for name, weight in teacher.named_parameters():
        torch.testing.assert_close(weight, wanted[name], atol=1e-12, rtol=0)


def test_an_interrupted_training_goes_on_with_the_teacher_it_had(tmp_path, tokenizer):
    def run(folder, steps, resume=None):
        student = make_model().double()
        trainer = made(
            tmp_path / folder, tokenizer, student, Teacher(snapshot(student), reads="shown", follows=0.4),
            settings={"max_steps": steps, "save_strategy": "steps", "save_steps": 2, "steps_per_generation": 2},
            advantage=LogRatio(), sibling_reward=0.5,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return student

    whole = run("whole", 4)
    run("part", 2)
    again = run("part", 4, str(tmp_path / "part" / "checkpoint-2"))
    for (name, one), other in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_tokens_are_counted_as_the_teacher_reads_them(tmp_path, tokenizer):
    trainer = made(
        tmp_path, tokenizer, make_model(), Teacher(make_model(seed=1), reads="reads"), advantage=LogRatio()
    )
    record = trainer.sampled(list(ROWS)[:4])
    inputs = trainer.scored(record)
    trainer.model.train()
    before = trainer.token_counts["teacher"]
    opinions(trainer, inputs)
    lengths = [len(tokenizer(row["reads"])["input_ids"]) for row in list(ROWS)[:4]]
    assert trainer.token_counts["teacher"] - before == sum(lengths) + int(record.mask.sum())


def test_what_cannot_be_is_said(tmp_path, tokenizer):
    def refused(match, column="reads", **parts):
        with pytest.raises(MethodError, match=match):
            made(tmp_path, tokenizer, make_model(), Teacher(make_model(seed=1), reads=column), **parts)

    refused("rows have no column 'notes'", "notes", advantage=LogRatio())
    refused(
        "teacher_mix: a teacher that reads another prompt",
        advantage=LogRatio(),
        settings={"teacher_mix": 0.2},
    )
    refused("needs rewards, which say who was right", "shown", advantage=LogRatio(), rewards=[])
    long = Dataset.from_list([{**row, "shown": "a" * 57 + PLACE} for row in ROWS])
    trainer = made(
        tmp_path, tokenizer, make_model(), Teacher(make_model(seed=1), reads="shown"), advantage=LogRatio(),
        rows=long, sibling_reward=-1.0,
    )  # fmt: skip
    with pytest.raises(
        MethodError, match="with a sibling there are 6. tokens, and its teacher has room for 59"
    ):
        trainer.train()


TREE = {"teacher": "student", "advantage": {"name": "log-ratio"}, "rewards": ["task"]}


def test_a_recipe_names_columns_and_the_sibling_is_none():
    method = canonical_method(
        {**TREE, "trainer": {"name": "privileged-policy", "reads": "{prompt}{hint} {sibling}"}}
    )
    assert columns_of(method) == ["hint"]
    plain = canonical_method({**TREE, "trainer": {"name": "privileged-policy", "reads": "{prompt}"}})
    with pytest.raises(MethodError, match="the prompts alone, from which it learns nothing"):
        trainer_for(plain, ToySurroundings())
    shown = canonical_method(
        {**TREE, "trainer": {"name": "privileged-policy", "reads": "{prompt}{sibling}", "num_generations": 2}}
    )
    trainer = trainer_for(shown, ToySurroundings())
    assert all(PLACE in text for text in trainer.train_dataset["teacher_reads"])
    terms = {"teacher": "student", "terms": [{"divergence": "reverse-kl"}]}
    with pytest.raises(MethodError, match='the teacher reads "sibling" of each row'):
        wrong = canonical_method(
            {**terms, "trainer": {"name": "privileged-distillation", "reads": "{sibling}"}}
        )
        trainer_for(wrong, ToySurroundings())
