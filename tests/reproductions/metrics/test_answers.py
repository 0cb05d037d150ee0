"""What is measured of answers: the same for the same seed, whatever the limit; none of it without being named."""

import pytest
import torch

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.metrics.answers import Answers
from reproductions.testbeds import load_testbed
from tests.reproductions.short import load_short, short


@pytest.fixture(scope="module")
def testbed():
    return load_short("pronunciation", test_words=40)


@pytest.fixture
def run(testbed, trial):
    return trial(testbed)


def test_evaluation_is_the_same_for_the_same_seed(testbed, run):
    model = testbed.sft_start(run)
    torch.manual_seed(0)
    first = testbed.evaluate(model, run)
    torch.manual_seed(99)
    testbed._sides = None  # as in another process
    assert testbed.evaluate(model, run) == first
    assert {len(column) for column in first.values()} == {40}
    wanted = {column for metric in testbed.metrics.values() for column in metric.columns}
    assert wanted == set(first)
    assert values(testbed.metrics, first)["excess_error"] != 0
    run.seed = 5
    assert testbed.evaluate(model, run)["rouge_l"] != first["rouge_l"]


def test_the_first_words_score_the_same_whatever_the_limit(testbed, run):
    model = testbed.student(run)
    few, more = (testbed.evaluate(model, run, limit=n)["greedy_exact_match"] for n in (10, 30))
    assert more[:10] == few


def test_figures_are_the_tasks_scores_of_what_is_said(testbed, run):
    """Two samples a word count half each; the greedy answer, its probability with EOS, by a loop without a cache."""
    model, task = testbed.sft_start(run).eval(), testbed.task
    columns = testbed.evaluate(model, run, limit=3)
    prompts, references = list(testbed.test["prompt"])[:3], task.references("test")[:3]
    drawn = testbed.decoder.sampled(model, run, prompts, 2).answers(testbed.decoder.eos_ids)
    for name, score in task.scores.items():
        halves = [score.function(drawn[:3], references), score.function(drawn[3:], references)]
        assert columns[name] == pytest.approx((sum(halves) / 2).round(score.digits).tolist())
    for place, prompt in enumerate(prompts):
        said, probability = testbed.tokenizer(prompt)["input_ids"], 1.0
        start = len(said)
        for _ in range(testbed.max_completion_tokens):
            with torch.no_grad():
                p = model(torch.tensor([said])).logits[0, -1].softmax(-1)
            said.append(int(p.argmax()))
            probability *= float(p.max())
            if said[-1] == testbed.tokenizer.eos_token_id:
                break
        answer = [token for token in said[start:] if token != testbed.tokenizer.eos_token_id]
        assert columns["correct"][place] == float(answer == references[place])
        assert columns["confidence"][place] == pytest.approx(probability, abs=1e-3)


def test_only_what_is_named_is_measured_and_no_teacher_is_asked_in_vain(trial):
    spec = short("pronunciation")
    spec["metrics"] = {"answers": {"greedy": ["exact_match"]}}
    testbed = load_testbed(spec)
    run = trial(testbed)
    assert list(testbed.evaluate(testbed.student(run), run)) == ["greedy_exact_match"]
    assert list(testbed.metrics) == ["greedy_exact_match"]
    assert not run.shared.used, "a teacher was made"


def test_a_learning_curve_chooses_no_temperatures(trial):
    """That takes the whole validation split at every temperature of the grid, at every point of the curve."""
    testbed = load_short("words", test_words=10)
    matched = {name for name in testbed.metrics if name.startswith(("matched_", "temperature_"))}
    assert matched and matched.isdisjoint(testbed.cheap) and "greedy_exact_match" in testbed.cheap


def test_unknown_scores_and_calibrations_name_the_nearest(testbed):
    with pytest.raises(KDError, match='no score "rouge" .did you mean "rouge_l"'):
        Answers(sampled=["rouge"]).metrics(type(testbed.task))
    with pytest.raises(KDError, match="answer or token"):
        Answers(calibration="word")
