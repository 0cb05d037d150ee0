"""A beam of five against greedy decoding."""

from methods.elicitation.labelling import beam_search
from reproductions.models.training import fine_tune
from tests.reproductions.short import SHORT, load_short


def test_the_gain_is_the_beams_right_answers_less_the_greedy_ones(trial):
    testbed = load_short("pronunciation-beams", test_words=30)
    run = trial(testbed)
    # A student that knows half of the words well, so that there are right and wrong answers.
    known = testbed.test.select(range(15))
    training = SHORT | {"max_steps": 150, "per_device_train_batch_size": 15, "learning_rate": 1e-2}
    student = fine_tune(
        testbed.student(run), known, testbed.tokenizer, run, training, max_tokens=32, phase="test"
    )
    columns = testbed.evaluate(student, run)
    found, _ = beam_search(
        student, testbed.tokenizer, list(testbed.test["prompt"]), beams=5, max_new_tokens=11, batch_size=7
    )
    gold = testbed.test["completion"]
    right = [
        100.0 * bool(best and f" {best[0].strip()}" == text) for best, text in zip(found, gold, strict=True)
    ]
    assert 300 <= sum(right) < 3000
    assert columns["beam_exact_match"] == right
    gain = [b - 100 * c for b, c in zip(right, columns["correct"], strict=True)]
    assert columns["beam_gain"] == gain
    mode = testbed.metrics["mode_probability"]
    assert mode.columns == ("confidence",) and 0.2 < sum(columns["confidence"]) / 30 < 1
