"""The two pronunciation testbeds with models of more than one kind: drafts for a target, students below an oracle."""

import numpy as np
import pytest
import torch

from methods.losses.divergences import DIVERGENCES
from methods.modeling.core import snapshot
from reproductions.engine.metrics import values
from reproductions.testbeds import drafting, hacking, pronunciation
from reproductions.testbeds import evaluation as ev

SHORT = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}


def small(testbed):
    """The testbed on few words."""
    for split in ("train", "validation", "test"):
        setattr(testbed, split, getattr(testbed, split).select(range(40 if split == "train" else 12)))
    testbed.teacher_train = testbed.train
    return testbed


@pytest.fixture
def short_teacher(monkeypatch):
    monkeypatch.setattr(pronunciation, "TEACHER_TRAINING", SHORT)


@pytest.fixture
def draft_run(trial, short_teacher):
    return trial(small(drafting.load_drafting()))


def test_a_teacher_that_drafts_for_itself_is_always_accepted(draft_run):
    testbed = draft_run.testbed
    columns = testbed.evaluate(testbed.teacher(draft_run), draft_run)
    found = values(testbed.metrics, columns)
    assert found["greedy_acceptance"] == found["acceptance"] == 1
    assert found["expected_acceptance"] == pytest.approx(1, abs=1e-3)
    # Untrained models hardly stop: eleven tokens in blocks of five.
    assert 3 < found["greedy_block_efficiency"] <= 5


def test_a_draft_is_accepted_as_often_as_its_overlap_with_the_target(draft_run):
    testbed = draft_run.testbed
    student, teacher = testbed.student(draft_run).eval(), testbed.teacher(draft_run)
    columns = testbed.evaluate(student, draft_run)
    assert columns == testbed.evaluate(student, draft_run)
    assert {len(column) for column in columns.values()} == {12}
    found = values(testbed.metrics, columns)
    assert found["acceptance"] < 1 and found["block_efficiency"] >= 1
    prompts = list(testbed.test["prompt"])
    ids, attention = ev.encode_prompts(testbed.tokenizer, prompts, testbed.max_prompt_tokens)
    samples = testbed._judge.teacher_samples(draft_run, prompts)
    for i in (0, 5, 11):  # without padding, batches or a cache
        prompt, answer = ids[i][attention[i].bool()], samples.ids[i][samples.mask[i]]
        whole = torch.cat([prompt, answer]).unsqueeze(0)
        with torch.no_grad():
            q, p = (m(whole).logits[0, len(prompt) - 1 : -1].softmax(-1) for m in (student, teacher))
        expected = float(torch.minimum(p, q).sum(-1).mean())
        assert columns["expected_acceptance"][i] == pytest.approx(expected, abs=2e-3)


def test_part_of_the_words_may_be_measured(draft_run):
    testbed = draft_run.testbed
    columns = testbed.evaluate(testbed.student(draft_run).eval(), draft_run, split="validation", limit=5)
    assert {len(column) for column in columns.values()} == {5}
    assert all(e >= a for a, e in zip(columns["accepted"], columns["examined"], strict=True))
    tokens, calls = np.array(columns["emitted"]), np.array(columns["target_calls"])
    assert (tokens >= calls).all() and (tokens <= 5 * calls).all()


@pytest.fixture
def hacking_run(trial, short_teacher):
    settings = {
        "imperfect_teacher": SHORT | {"max_steps": 3},
        "teacher_data": {"prompts": 20, "seed": 1},
        "labelling": {"temperature": 1.0, "seed": 0, "prompts": None},
    }
    return trial(small(hacking.load_hacking()), **settings)


@pytest.fixture
def stops(monkeypatch):
    """Untrained models hardly ever stop; here every third token ends what they write."""
    labelling = hacking.label_with_teacher.__globals__
    monkeypatch.setitem(labelling, "eos_ids", lambda model, tokenizer: list(range(0, len(tokenizer), 3)))


def kl_on_samples(judge, run, teacher, student, prompts):
    """KL(teacher || student) summed over the teacher's samples, one word at a time, without padding."""
    samples = judge.teacher_samples(run, prompts)
    out = []
    for i, prompt in enumerate(prompts):
        start = run.testbed.tokenizer(prompt)["input_ids"]
        answer = samples.ids[i][samples.mask[i]].tolist()
        with torch.no_grad():
            z, t = (
                m(torch.tensor([[*start, *answer]])).logits[0, len(start) - 1 : -1]
                for m in (student, teacher)
            )
        out.append(float(DIVERGENCES["forward_kl"](z.double(), t.double()).sum()))
    return out


def test_golden_is_the_oracle_and_proxy_the_teacher(hacking_run, stops):
    run, testbed = hacking_run, hacking_run.testbed
    student, oracle, teacher = (
        testbed.student(run).eval(),
        testbed.teacher(run),
        testbed.imperfect_teacher(run),
    )
    assert oracle.config.hidden_size != teacher.config.hidden_size == hacking.SHAPE["hidden"]
    columns = testbed.evaluate(student, run)
    asked, seen = list(testbed.test["prompt"]), list(testbed.train["prompt"])[:12]
    for name, judge, model in (("golden", testbed._judge, oracle), ("proxy", testbed._proxy_judge, teacher)):
        for suffix, prompts in (("", asked), ("_seen", seen)):
            expected = kl_on_samples(judge, run, model, student, prompts)
            assert columns[name + suffix] == pytest.approx(expected, abs=2e-3), name + suffix
        assert columns[name + "_rise"] == [0] * 12
    assert columns["golden"] != columns["proxy"]
    at_itself = testbed.evaluate(teacher, run)
    assert at_itself["proxy"] == pytest.approx([0] * 12, abs=1e-3) and max(at_itself["golden"]) > 0.01


def test_rises_are_counted_from_the_checkpoint_of_the_same_run(hacking_run, stops, trial):
    run, testbed = hacking_run, hacking_run.testbed
    student = testbed.student(run).eval()
    before = testbed.evaluate(student, run)
    testbed.keep(run, student)
    with torch.no_grad():
        student.lm_head.weight.mul_(1.5)
    after = testbed.evaluate(student, run)
    for name in ("golden", "proxy"):
        expected = np.subtract(after[name], before[name])
        assert after[name + "_rise"] == pytest.approx(expected.tolist(), abs=2e-3)
        assert np.abs(expected).max() > 0.01
    other = trial(testbed, seed=2, **run.settings)
    assert set(testbed.evaluate(snapshot(student), other)["golden_rise"]) == {0}


def test_fixed_answers_are_made_once_and_more_of_them_on_request(hacking_run, stops):
    testbed = hacking_run.testbed
    few = testbed.fixed_answers(hacking_run, prompts=10, samples=1)
    assert few.to_list() == testbed.fixed_answers(hacking_run, prompts=10, samples=1).to_list()
    many = testbed.fixed_answers(hacking_run, prompts=10, samples=8)
    prompts = list(testbed.train["prompt"])[:10]
    assert set(few["prompt"]) <= set(prompts) and set(many["prompt"]) <= set(prompts)
    assert len(many) > 3 * len(few) and len(set(zip(many["prompt"], many["completion"], strict=True))) > len(
        few
    )


def test_the_checkpoint_is_kept_at_its_step():
    kept = []

    class Testbed:
        def keep(self, run, model):
            kept.append(model)

    class Run:
        testbed = Testbed()

    class State:
        max_steps = 8

    callback = hacking.KeepAt(Run(), 0.25)
    for step in range(1, 9):
        state = State()
        state.global_step = step
        callback.on_step_end(None, state, None, model=step)
    assert kept == [2]
