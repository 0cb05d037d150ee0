"""Samplers on others, and those in which student and teacher write together: what they ask for and what comes of it."""

import random
from dataclasses import replace

import pytest
import torch

from methods.errors import MethodError
from methods.modeling.interleaved import Alone, HandingOver, Speculative, Switching
from methods.registry import build, canonical
from methods.slots.samplers import (
    AdaptiveReplay,
    Continued,
    Example,
    GatedLength,
    HandingOverSampler,
    Mixed,
    Nucleus,
    OnPolicy,
    SpeculativeSampler,
    Step,
    SwitchingSampler,
    Truncated,
    WithStudent,
)
from tests.methods.conftest import make_model
from tests.methods.slots.samplers.test_student import WINDOW, Recorder
from tests.methods.trainers.test_distiller import trainer_of

MANY = [Example([n], [n, n, n, n, 1]) for n in range(2, 402)]


def test_the_share_of_data_moves_as_it_is_told():
    falling = Mixed(1.0, data_end=0.005, shape="geometric")
    assert [falling.data_share(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 200**-0.5, 1 / 200])
    assert [Mixed(0.8, data_end=0.2).data_share(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.8, 0.5, 0.2])
    stages = Mixed(1.0, data_end=0.0, shape="step", at=0.4)
    assert [stages.data_share(t) for t in (0.0, 0.39, 0.4, 0.9)] == [1.0, 1.0, 0.0, 0.0]
    assert Mixed(0.3).data_share(0.9) == 0.3


def test_each_example_tosses_its_own_coin():
    recorder = Recorder(progress=0.5)
    made = Mixed(1.0, data_end=0.5, source="teacher")(MANY, recorder.step)
    kept = [n for n, example in enumerate(made) if example.source == "teacher"]
    assert 250 < len(kept) < 350, "three quarters"
    assert all(made[n].completion == MANY[n].completion for n in kept)
    written = [example for example in made if example.source == "student"]
    assert len(kept) + len(written) == 400 and all(e.completion == [e.prompt[-1], 1] for e in written)
    assert Mixed(1.0)(WINDOW, recorder.step) == WINDOW
    assert all(e.source == "student" for e in Mixed(0.0)(MANY, recorder.step))


def test_another_sampler_makes_the_others():
    recorder = Recorder()
    Mixed(0.0, sampler=Truncated(3, temperature=0.7))(WINDOW, recorder.step)
    assert recorder.calls == [{"temperature": 0.7, "limit": 3}]
    with pytest.raises(MethodError, match="one example for each"):
        Mixed(0.0, sampler=WithStudent())(WINDOW, recorder.step)
    with pytest.raises(MethodError, match="AdaptiveReplay remembers"):
        Mixed(sampler=AdaptiveReplay())
    tree = canonical("sampler", {"name": "mixed", "sampler": {"name": "speculative", "top_k": 3}})
    assert build("sampler", tree).sampler.rule.top_k == 3


def test_an_opening_may_grow():
    recorder = Recorder(progress=0.5)
    Truncated(4, grown=11)(WINDOW, recorder.step)
    assert recorder.calls == [{"temperature": 1.0, "limit": 7}]


def test_a_length_grows_while_the_student_is_unsure():
    seen, entropies = [], [2.0, 0.5, 2.0]

    def entropy(examples):
        assert [e.source for e in examples] == ["student"] * 2
        return entropies.pop(0)

    recorder = Recorder()
    step = replace(recorder.step, entropy=entropy)
    sampler = GatedLength([2, 5, 9], 1.0, every=2)
    for _ in range(9):
        sampler(WINDOW, step)
        seen.append(recorder.calls[-1]["limit"])
    assert seen == [2, 2, 5, 5, 5, 5, 9, 9, 9] and not entropies, (
        "asked at 2, 4 and 6, and never at the last length"
    )
    again = GatedLength([2, 5, 9], 1.0, every=2)
    again.restore(sampler.state())
    again(WINDOW, step)
    assert recorder.calls[-1]["limit"] == 9


def test_the_trainer_tells_the_student_s_entropy(tmp_path, tokenizer):
    student = make_model(seed=0)
    trainer = trainer_of(tmp_path, tokenizer, student, make_model(seed=1), sampler=Truncated(2))
    examples = [Example([5, 6, 2], [7, 8, 1]), Example([9, 2], [4])]
    values = []
    for example in examples:
        ids = torch.tensor([example.prompt + example.completion])
        log_q = student.eval()(ids).logits[0, len(example.prompt) - 1 : -1].detach().log_softmax(-1)
        values += (-(log_q.exp() * log_q).sum(-1)).tolist()
    student.train()
    assert trainer.sampling.entropy(examples) == pytest.approx(sum(values) / 4, rel=1e-5)
    assert student.training and trainer.token_counts == {"student": 9}


def test_the_student_goes_on_from_what_is_given():
    recorder = Recorder(progress=0.5)
    Continued(1.0, share_end=0.0)(MANY[:2], recorder.step)
    assert recorder.calls == [{"temperature": 1.0, "begun": [[2, 2], [3, 3]]}]
    Continued(1.0)([Example([5], [7, 1]), Example([5], [])], recorder.step)
    assert recorder.calls[1]["begun"] == [[7], []], "the end is the student's own"


@pytest.mark.parametrize(
    ("sampler", "rule"),
    [
        (SpeculativeSampler(3), Speculative), (SwitchingSampler(0.2), Switching),
        (HandingOverSampler(2.0, recent=4), HandingOver), (Nucleus(0.9, greedy=True), Alone),
    ],
)  # fmt: skip
def test_answers_by_a_rule_count_as_the_student_s(sampler, rule):
    asked = []

    def interleave(prompts, **settings):
        asked.append(settings)
        return [[9, 1] for _ in prompts]

    step = Step(0.0, random.Random(0), lambda *a, **k: [], lambda: 0.0, interleave=interleave)
    made = sampler(WINDOW, step)
    assert [(e.prompt, e.completion, e.source) for e in made] == [
        ([5, 6], [9, 1], "student"), ([8], [9, 1], "student"),
    ]  # fmt: skip
    assert isinstance(asked[0].pop("rule"), rule)
    assert asked[0] == {"temperature": 1.0, **({"greedy": True} if rule is Alone else {})}
    assert sampler([], step) == []


def test_the_trainer_writes_with_its_teacher_and_counts_who_wrote(tmp_path, tokenizer):
    student, teacher = make_model(seed=0), make_model(seed=1, width=24, vocabulary=33)
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, sampler=SwitchingSampler(0.0))
    source = random.Random(0)
    got = trainer.sampling.interleave(source, [[5, 2], [6, 6, 2]], rule=Switching(0.0, 0.0), greedy=True)
    with torch.no_grad():
        first = teacher.eval()(torch.tensor([[5, 2]])).logits[0, -1, :29].argmax()
    assert got[0][0] == int(first) and all(len(c) <= 6 for c in got)
    written = sum(map(len, got))
    counts = trainer.rollout_counts
    assert counts["tokens_by_teacher"] == written and counts["completions"] == 2
    read = written + 5
    assert trainer.token_counts == {"student": read, "teacher": read, "generated": written}
    alone = trainer.sampling.interleave(source, [[5, 2]], rule=Alone())
    assert trainer.token_counts["teacher"] == read and len(alone[0]) >= 1
    trainer.train()
    assert trainer.rollout_counts["completions"] == 7


def test_a_truncated_answer_is_short_and_costs_no_more(tmp_path, tokenizer):
    trainer = trainer_of(tmp_path, tokenizer, make_model(seed=0), make_model(seed=1), sampler=Truncated(2))
    source = random.Random(0)
    short = trainer.sampling.generate(source, [[5, 2]] * 6, limit=2)
    assert all(len(c) <= 2 for c in short) and any(len(c) == 2 for c in short)
    assert trainer.token_counts["generated"] == sum(map(len, short))
    assert any(len(c) > 2 for c in trainer.sampling.generate(source, [[5, 2]] * 6, limit=50)), (
        "the trainer's own"
    )
    assert all(len(c) <= 6 for c in trainer.sampling.generate(source, [[5, 2]] * 6, limit=50))
    assert isinstance(Mixed().sampler, OnPolicy)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Mixed(shape="liner"), "shape is 'liner'"),
        (lambda: Mixed(1.0, data_end=0.0, shape="geometric"), "never zero"),
        (lambda: Mixed(1.5), "not between 0 and 1"),
        (lambda: Truncated(0), "one token or more"),
        (lambda: Truncated(5, grown=3), "not shrink"),
        (lambda: Continued(-0.1), "not between"),
        (lambda: GatedLength([4, 2], 1.0), "lengths rise"),
        (lambda: GatedLength([4], 1.0, every=0), "every is 0"),
        (lambda: SpeculativeSampler(0), "one token at least"),
        (lambda: SwitchingSampler(-1.0), "zero or more"),
        (lambda: HandingOverSampler(0.0), "above zero"),
        (lambda: Nucleus(0.0), "one token at least"),
        (lambda: Nucleus(temperature=0.0), "temperature"),
    ],
)
def test_settings_out_of_range_are_refused(made, message):
    with pytest.raises(MethodError, match=message):
        made()
