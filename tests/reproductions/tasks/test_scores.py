"""Scores of answers, against hand-computed figures and the package."""

import numpy as np
import pytest
from rouge_score import rouge_scorer

from reproductions.tasks import scores

PAIRS = [
    ("a b c d", "a b c d", 0, 1),
    ("a c d", "a b c d", 1, 0),
    ("a x c d d", "a b c d", 2, 0),
    ("x", "a b", 2, 0),
    ("b a", "a b", 2, 0),
    ("a", "a a a", 2, 0),
]


@pytest.mark.parametrize(("answer", "reference", "edits", "exact"), PAIRS)
def test_sequence_scores(answer, reference, edits, exact):
    a, b = ([ord(c) for c in text.split()] for text in (answer, reference))
    assert scores.edit_distance([a], [b]).tolist() == [edits]
    assert scores.error_rate([a], [b]).tolist() == [100 * edits / len(b)]
    assert scores.exact_match([a], [b]).tolist() == [exact]


def test_rouge_l_agrees_with_the_package():
    generator = np.random.default_rng(0)
    words = ["aa", "bb", "cc", "dd", "ee"]
    pairs = [
        (
            generator.integers(0, 5, generator.integers(1, 9)),
            generator.integers(0, 5, generator.integers(1, 9)),
        )
        for _ in range(60)
    ]
    got = scores.rouge_l([a.tolist() for a, _ in pairs], [b.tolist() for _, b in pairs])
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    text = lambda ids: " ".join(words[i] for i in ids)  # noqa: E731
    expected = [100 * scorer.score(text(b), text(a))["rougeL"].fmeasure for a, b in pairs]
    assert got.tolist() == pytest.approx(expected)


def test_an_empty_answer_scores_zero():
    assert scores.rouge_l([[], [3]], [[3], [3]]).tolist() == [0, 100]
    assert scores.error_rate([[]], [[3, 4]]).tolist() == [100]


def test_of_several_right_answers_the_best_counts():
    """Each row's figure is the best of those over its answers alone; a row of one answer may be a list of it."""
    generator = np.random.default_rng(1)
    row = lambda: generator.integers(0, 4, generator.integers(1, 6)).tolist()  # noqa: E731
    said = [row() for _ in range(80)]
    known = [[row() for _ in range(generator.integers(1, 4))] for _ in said]
    for score, best in (
        (scores.rouge_l, max),
        (scores.exact_match, max),
        (scores.percent_right, max),
        (scores.error_rate, min),
        (scores.edit_distance, min),
    ):
        each = [
            [float(score([one], [answer])[0]) for answer in answers]
            for one, answers in zip(said, known, strict=True)
        ]
        assert score(said, known).tolist() == [best(figures) for figures in each]
        assert any(best(figures) != figures[0] for figures in each), "the first answer is always the best"
    alone = [answers[0] for answers in known]
    mixed = [[answer] if n % 2 else answer for n, answer in enumerate(alone)]
    assert scores.rouge_l(said, mixed).tolist() == scores.rouge_l(said, alone).tolist()
