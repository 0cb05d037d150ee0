"""Excess error and risks: zero beside oneself, and by hand beside another."""

import pytest
import torch

from methods.losses.divergences import DIVERGENCES
from tests.reproductions.short import load_short


@pytest.fixture(scope="module")
def testbed():
    return load_short("pronunciation-risks", test_words=12)


def test_a_teacher_has_no_excess_error_and_finds_its_own_words_as_likely_as_they_are(testbed, trial):
    run = trial(testbed)
    teacher = testbed.teacher(run)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    columns = testbed.evaluate(teacher, run)
    assert columns["kl_student_contexts"] == pytest.approx([0] * 12, abs=0.01)
    assert columns["kl_teacher_contexts"] == pytest.approx([0] * 12, abs=0.01)


def test_both_sides_by_hand(testbed, trial):
    """One word at a time, without padding, batches or a cache."""
    run = trial(testbed)
    student, teacher = testbed.student(run).eval(), testbed.teacher(run)
    columns = testbed.evaluate(student, run)
    prompts = list(testbed.test["prompt"])
    own = testbed.decoder.sampled(student, run, prompts, 2).rows(slice(12))
    theirs = testbed.teacher_side(run, "main").samples(prompts)
    both = (
        (own, "kl_student_contexts", "likelihood_risk"),
        (theirs, "kl_teacher_contexts", "coverage_risk"),
    )
    for place in (0, 5, 11):
        for samples, kl, risk in both:
            prompt = testbed.tokenizer(prompts[place])["input_ids"]
            answer = samples.ids[place][samples.mask[place]]
            with torch.no_grad():
                q, p = (
                    m(torch.tensor([[*prompt, *answer.tolist()]])).logits[0, len(prompt) - 1 : -1].double()
                    for m in (student, teacher)
                )
            expected = float(DIVERGENCES["forward_kl"](q, p).sum())
            assert columns[kl][place] == pytest.approx(expected, abs=1e-2)
            side = p if risk == "likelihood_risk" else q
            nll = -side.log_softmax(-1).gather(1, answer[:, None]).mean()
            assert columns[risk][place] == pytest.approx(float(nll), abs=1e-2)


def test_on_the_first_rows_the_figures_are_those_of_all_rows(trial):
    """`examples` leaves out rows and changes no other; the student then answers no more than those."""
    whole, part = ({"excess-error": settings, "answers": None} for settings in ({}, {"examples": 5}))
    columns = []
    for metrics in (whole, part):
        testbed = load_short("pronunciation", {"metrics": metrics}, test_words=12)
        run = trial(testbed)
        columns.append(testbed.evaluate(testbed.sft_start(run), run))
    for name in ("kl_student_contexts", "kl_teacher_contexts"):
        assert columns[1][name] == pytest.approx(columns[0][name][:5], abs=0.011)
        assert len(columns[0][name]) == 12
