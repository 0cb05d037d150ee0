"""Drafts for a target: what is accepted is what both models find likely."""

import numpy as np
import pytest
import torch

from reproductions.engine.metrics import values
from reproductions.metrics.decoding import sampling as ev
from tests.reproductions.short import load_short


@pytest.fixture
def draft_run(trial):
    return trial(load_short("pronunciation-drafting", train_words=40, validation_words=12, test_words=12))


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
    samples = testbed.teacher_side(draft_run, "main").samples(prompts)
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
