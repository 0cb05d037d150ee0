"""Students below an imperfect teacher, which stands below an oracle: how far they are from either."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from methods.losses.divergences import DIVERGENCES
from methods.modeling.core import snapshot
from methods.recipe import canonical_method
from reproductions.engine.work.surroundings import train
from tests.reproductions.short import SHORT, load_short


@pytest.fixture
def hacking_run(trial):
    testbed = load_short("pronunciation-hacking", train_words=40, validation_words=12, test_words=12)
    method = canonical_method({"terms": [{"divergence": "forward-kl"}]})
    return trial(testbed, method=method, training=SHORT | {"max_steps": 8, "learning_rate": 1e-2})


def kl_on_samples(run, name, student, prompts):
    """KL(teacher || student) summed over the teacher's samples, one word at a time, without padding."""
    side = run.testbed.teacher_side(run, name)
    samples = side.samples(prompts)
    out = []
    for i, prompt in enumerate(prompts):
        start = run.testbed.tokenizer(prompt)["input_ids"]
        answer = samples.ids[i][samples.mask[i]].tolist()
        with torch.no_grad():
            z, t = (
                m(torch.tensor([[*start, *answer]])).logits[0, len(start) - 1 : -1]
                for m in (student, side.model)
            )
        out.append(float(DIVERGENCES["forward_kl"](z.double(), t.double()).sum()))
    return out


def test_golden_is_the_oracle_and_proxy_the_teacher(hacking_run, stops):
    run, testbed = hacking_run, hacking_run.testbed
    student, oracle, teacher = (
        testbed.student(run).eval(),
        testbed.teacher(run),
        testbed.teacher(run, "imperfect"),
    )
    assert (oracle.config.hidden_size, teacher.config.hidden_size) == (96, 64)
    columns = testbed.evaluate(student, run)
    asked, seen = list(testbed.test["prompt"]), list(testbed.train["prompt"])[:12]
    for name, asked_of in (("golden", "main"), ("proxy", "imperfect")):
        for suffix, prompts in (("", asked), ("_seen", seen)):
            expected = kl_on_samples(run, asked_of, student, prompts)
            assert columns[name + suffix] == pytest.approx(expected, abs=2e-3), name + suffix
        assert columns[name + "_rise"] == [0] * 12
    assert columns["golden"] != columns["proxy"]
    at_itself = testbed.evaluate(teacher, run)
    assert at_itself["proxy"] == pytest.approx([0] * 12, abs=1e-3) and max(at_itself["golden"]) > 0.01


def test_rises_are_counted_from_the_checkpoint_of_the_same_run(hacking_run, stops, trial):
    run, testbed = hacking_run, hacking_run.testbed
    student = testbed.student(run).eval()
    before = testbed.evaluate(student, run)
    testbed.measurements[-1].keep(run, student)
    with torch.no_grad():
        student.lm_head.weight.mul_(1.5)
    after = testbed.evaluate(student, run)
    for name in ("golden", "proxy"):
        expected = np.subtract(after[name], before[name])
        assert after[name + "_rise"] == pytest.approx(expected.tolist(), abs=2e-3)
        assert np.abs(expected).max() > 0.01
    other = trial(testbed, seed=2, **run.spec)
    assert set(testbed.evaluate(snapshot(student), other)["golden_rise"]) == {0}


def test_the_checkpoint_is_kept_at_its_step(hacking_run):
    kept = []
    (callback,) = hacking_run.testbed.callbacks(hacking_run)
    callback.act = kept.append
    for step in range(1, 9):
        callback.on_step_end(None, SimpleNamespace(max_steps=8, global_step=step), None, model=step)
    assert kept == [2]


def test_the_trainer_of_an_arm_keeps_it(hacking_run, stops, trial):
    """A quarter of eight steps: what a run has risen by counts from its own second step."""
    method = canonical_method({"terms": [{"divergence": "forward-kl"}], "teacher": "imperfect"})
    run = trial(hacking_run.testbed, **{**hacking_run.spec, "method": method})
    testbed, measurement = run.testbed, run.testbed.measurements[-1]
    student = train(run)
    before = measurement._kept[1]
    assert measurement._kept[0] is run
    assert not all(torch.equal(a, b) for a, b in zip(before.parameters(), student.parameters(), strict=True))
    assert any(testbed.evaluate(student, run)["golden_rise"])
