import io

from PIL import Image
from rich.console import Console

from reproductions.engine import report
from reproductions.engine.claims import load_claims
from reproductions.engine.judge import judge_claims, judge_values
from reproductions.engine.plots import plot

from .conftest import change
from .test_claims import levels, results

CURVE = [
    {"step": step, "train_seconds": 0.5 * step, "metrics": {"error": 3 - step, "accuracy": 0.5, "ece": 0.1}}
    for step in range(3)
]


def made(papers, scale="tiny", curves=True, **rows):
    rows = rows or {
        "method": levels(1, 1, 1),
        "baseline": levels(2, 2.01, 2.02),
        "method-no-teacher": levels(1, 1.2, 0.8),
    }
    claims = load_claims(papers / "toy" / "claims.yaml")
    found = results(papers, rows, scale, curves=dict.fromkeys(rows, CURVE) if curves else None)
    return report.Report(
        claims=claims,
        results=found,
        rows=tuple(report.rows(claims, found)),
        headline=("error", "accuracy", "ece"),
        judgements=tuple(judge_claims(claims, scale, found)),
        values=tuple(judge_values(claims, scale, found)),
    )


def shown(a_report, width=80):
    stream = io.StringIO()
    report.show(a_report, "results: here", Console(file=stream, width=width))
    return stream.getvalue()


def test_the_terminal_shows_means_intervals_papers_numbers_verdicts_and_budgets_in_80_columns(papers):
    text = shown(made(papers))
    assert all(len(line) <= 80 for line in text.splitlines())
    lines = [line.split() for line in text.splitlines()]
    assert ["method", "1.023", "1", "0"] in lines
    assert ["paper", "0.4", "paper", "7"] in lines  # the paper's table; figures nobody saw in it are left out
    assert ["paper", "1.5"] not in lines, "what a claim quotes stands with the claim, in its own setting"
    assert ["reproduced", "teacher-helps"] in lines and ["not", "reproduced", "noise-helps"] in lines
    assert ["error:", "method", "1.023,", "baseline", "2.033"] in lines
    assert "paper: 0.5, 1.5 (a line)" in text and "at equal seconds: +0 (0 to 0)" in text
    assert ["method", "1", "0", "0", "1.0", "s", "1.0", "s", "25.0%", "0.0%"] in lines
    assert text.rstrip().endswith("results: here")


def test_values_of_the_paper_stand_beside_ours_at_its_scale(papers):
    text = shown(made(papers, "paper", method=levels(1, 1.01), baseline=levels(2, 2)))
    assert "method-error: paper 0.4 ± 2, ours 1.0" in text


def test_an_arm_that_was_not_run_leaves_no_row(papers):
    text = shown(made(papers, method=levels(1, 1.01)))
    assert not any(line.startswith("baseline") for line in text.splitlines())
    assert "error: method and baseline were not both run" in text


def test_many_metrics_are_split_over_tables_that_fit(papers):
    assert report._groups(["a", "b", "c", "d", "e"], 80) == [["a", "b", "c"], ["d", "e"]]
    assert report._groups(["a", "b", "c", "d", "e"], 130) == [["a", "b", "c", "d", "e"]]


def test_markdown_escapes_what_comes_from_files(papers):
    change(papers, "A teacher's targets give", "<b>|A [x](javascript:y) `z`", "claims.yaml")
    text = report.markdown(made(papers), "tiny.png")
    assert "<b>" not in text and "\\<b\\>\\|A \\[x\\](javascript:y) \\`z\\`" in text
    assert "![figures per seed and learning curves](tiny.png)" in text
    assert "- **reproduced**:" in text and "https://arxiv.org/abs/0000.00000v1" in text


def test_the_picture_is_small_and_needs_neither_display_nor_curves(papers, tmp_path):
    for name, curves in (("with.png", True), ("without.png", False)):
        plot(made(papers, curves=curves), tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.width > (900 if curves else 300)
        assert (tmp_path / name).stat().st_size < 200_000
