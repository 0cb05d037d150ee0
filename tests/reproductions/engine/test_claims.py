import json
import subprocess
import sys

import pytest

from reproductions.engine.claims import judge, load_claims
from reproductions.engine.errors import KDError
from reproductions.engine.experiment import PAPERS_ROOT, config, config_hash, load_experiment
from reproductions.engine.judge import judge_claims, judge_values
from reproductions.engine.metrics import values
from reproductions.engine.results import dumps

from .conftest import change


def results(papers, errors, scale="tiny", curves=None):
    """Results of the toy paper in which each arm has these per-example errors: {arm: (seeds, examples)}."""
    experiment = load_experiment("toy", papers)
    testbed = experiment.load_testbed(scale)
    runs = []
    for arm, rows in errors.items():
        for seed, row in enumerate(rows):
            examples = {"error": row, "correct": [1.0] * len(row), "confidence": [1.0] * len(row)}
            runs.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "metrics": values(testbed.metrics, examples),
                    "examples": examples,
                    "curve": curves[arm] if curves else [],
                    "seconds": {"train": 1.0, "evaluate": 1.0, "total": 2.0},
                    "tokens": {"student": 1, "teacher": 0, "generated": 0},
                    "rollouts": {"completions": 4, "truncated": 1, "empty": 0},
                }
            )
    made = {
        "schema": 1,
        "paper": "toy",
        "scale": scale,
        "testbed": "line",
        "config_hash": config_hash(experiment, scale),
        "config": config(experiment, scale),
        "data_revision": "revision-1",
        "environment": {},
        "metrics": {name: metric.as_dict() for name, metric in testbed.metrics.items()},
        "shared": {},
        "runs": runs,
    }
    return json.loads(dumps(made))


def levels(*means):
    """Rows of 20 examples around these means, one row a seed; the examples differ, the seeds little."""
    return [
        [mean + 0.01 * (place % 5) + 0.003 * seed for place in range(20)] for seed, mean in enumerate(means)
    ]


def test_all_four_verdicts_come_out_of_the_figures(papers):
    claims = load_claims(papers / "toy" / "claims.yaml")
    apart = {
        "method": levels(1, 1, 1),
        "baseline": levels(2, 2.01, 2.02),
        "method-no-teacher": levels(1, 1.2, 0.8),
    }
    words = {item.claim: item.verdict for item in judge_claims(claims, "tiny", results(papers, apart))}
    assert words == {"teacher-helps": "reproduced", "noise-helps": "not reproduced"}
    mixed = {"method": levels(1, 3, 1), "baseline": levels(2, 1, 2)}
    words = {item.claim: item.verdict for item in judge_claims(claims, "tiny", results(papers, mixed))}
    assert words == {"teacher-helps": "inconclusive", "noise-helps": "not run"}


def test_the_verdict_follows_the_margin_in_the_file(papers):
    figures = {"method": levels(1, 1, 1), "baseline": levels(2, 2.01, 2.02)}
    for margin, word in ((0, "reproduced"), (0.5, "reproduced"), (1.5, "not reproduced")):
        text = (papers / "toy" / "claims.yaml").read_text()
        (papers / "toy" / "claims.yaml").write_text(text.replace("margin: 0", f"margin: {margin}", 1))
        claims = load_claims(papers / "toy" / "claims.yaml")
        assert claims.claims[0].margin == margin
        assert judge_claims(claims, "tiny", results(papers, figures))[0].verdict == word
        (papers / "toy" / "claims.yaml").write_text(text)


def test_a_verdict_has_no_place_in_the_file(papers):
    change(papers, "    margin: 0\n", "    margin: 0\n    verdict: reproduced\n", "claims.yaml")
    with pytest.raises(KDError, match='unknown field "verdict"'):
        load_claims(papers / "toy" / "claims.yaml")


def test_p_values_are_corrected_over_the_claims_judged(papers):
    claims = load_claims(papers / "toy" / "claims.yaml")
    rows = {
        "method": levels(1, 1, 1),
        "baseline": levels(2, 2.4, 1.5),
        "method-no-teacher": levels(1, 1.2, 0.8),
    }
    first, second = judge_claims(claims, "tiny", results(papers, rows))
    smaller, larger = sorted([first, second], key=lambda item: item.p)
    assert smaller.p_holm == pytest.approx(min(1, 2 * smaller.p))
    assert larger.p_holm == pytest.approx(max(smaller.p_holm, larger.p))


def test_equal_seconds_stops_the_slower_arm_at_the_faster_ones_time(papers):
    claims = load_claims(papers / "toy" / "claims.yaml")
    fast = [{"step": n, "train_seconds": 1.0 * n, "metrics": {"error": 3.0 - n}} for n in range(3)]
    slow = [{"step": n, "train_seconds": 8.0 * n, "metrics": {"error": 3.0 - 2 * n}} for n in range(3)]
    rows = {"method": levels(-1, -1, -1), "baseline": levels(1, 1, 1)}
    made = results(papers, rows, curves={"method": slow, "baseline": fast})
    equal = judge_claims(claims, "tiny", made)[0].equal_seconds
    # After 2 s the fast arm is at 1, the slow one a quarter of the way from 3 to 1: at equal steps it won by 2.
    assert equal["difference"] == pytest.approx(1.0 - 2.5)
    assert equal["seconds"] == 2 and equal["seeds"] == 3
    slow_start = [{"step": 1, "train_seconds": 4.0, "metrics": {"error": 1.0}}]
    made = results(papers, rows, curves={"method": slow_start, "baseline": fast})
    assert judge_claims(claims, "tiny", made)[0].equal_seconds is None


def test_values_are_judged_at_scale_paper_only_and_only_when_verified(papers):
    claims = load_claims(papers / "toy" / "claims.yaml")
    rows = {"method": levels(1, 1.01), "baseline": levels(2, 2)}
    assert judge_values(claims, "tiny", results(papers, rows)) == []
    found = {
        item.value: item.verdict for item in judge_values(claims, "paper", results(papers, rows, "paper"))
    }
    assert found == {"method-error": "reproduced", "method-accuracy": "not reproduced"}


def test_without_results_claims_are_not_run(papers):
    assert {item.verdict for item in judge("toy", "tiny", papers_root=papers)} == {"not run"}


def test_broken_or_foreign_results_are_an_error_that_names_the_file(papers):
    path = papers / "toy" / "results" / "tiny.json"
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(KDError, match=r"results/tiny.json:1: not JSON"):
        judge("toy", "tiny", papers_root=papers)
    made = results(papers, {"method": levels(1, 1), "baseline": levels(2, 2)})
    path.write_text(dumps({**made, "config_hash": "0123456789ab"}))
    with pytest.raises(KDError, match=r"tiny.json: made with config 0123456789ab, the experiment is now"):
        judge("toy", "tiny", papers_root=papers)


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "metric: error\n    better",
            "metric: eror\n    better",
            ':5: unknown metric "eror" (did you mean "error"?)',
        ),
        ("better: method\n", "better: methud\n", ':6: unknown arm "methud" (did you mean "method"?)'),
        ("scales: [tiny, paper]", "scales: [tinny]", ':9: unknown scale "tinny" (did you mean "tiny"?)'),
        ("margin: 0\n    scales: [tiny, paper]", "margn: 0\n    scales: [tiny]", ':8: unknown field "margn"'),
        ("margin: 0\n    scales: [tiny, paper]", "scales: [tiny]", ':2: "margin" is missing'),
        (
            "margin: 0\n    scales: [tiny, paper]",
            "margin: zero\n    scales: [tiny]",
            '"margin" must be a number',
        ),
        (
            "margin: 0\n    scales: [tiny, paper]",
            "margin: -1\n    scales: [tiny]",
            '"margin" must be 0 or more',
        ),
        ("worse: baseline", "worse: method", '"better" and "worse" are both method'),
        ("id: noise-helps", "id: teacher-helps", 'id "teacher-helps" stands twice'),
        ("    better: method\n", "    better: method\n    better: method\n", '"better" stands twice'),
        ("claims:", "claims: !!python/object:os.system", "the tag"),
        (
            'arxiv: "0000.00000", version: 1, where: "Table 1"',
            "arxiv: 1, version: 1, where: x",
            '"arxiv" must be text',
        ),
        (
            "values:",
            "findings: [{claim: teacher-help, scale: tiny, explanation: x}]\nvalues:",
            "did you mean",
        ),
    ],
)
def test_a_wrong_claims_file_gives_one_message_with_file_and_line(papers, old, new, message):
    text = (papers / "toy" / "claims.yaml").read_text()
    assert old in text
    (papers / "toy" / "claims.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        load_claims(papers / "toy" / "claims.yaml")
    assert "claims.yaml:" in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_findings_explain_a_claim_at_a_scale(papers):
    change(papers, "values:", "findings:\n  - {claim: noise-helps, scale: tiny, explanation: It is false.}\nvalues:",
           "claims.yaml")  # fmt: skip
    claims = load_claims(papers / "toy" / "claims.yaml")
    assert claims.explanation("noise-helps", "tiny") == "It is false."
    assert claims.explanation("teacher-helps", "tiny") == ""


@pytest.mark.parametrize("path", sorted(PAPERS_ROOT.glob("*/claims.yaml")), ids=lambda path: path.parent.name)
def test_every_claims_file_reads(path):
    assert load_claims(path).claims


def test_judging_never_imports_torch():
    code = (
        "import sys\n"
        "from reproductions.engine.claims import judge, load_claims\n"
        "from reproductions.engine.experiment import load_experiment\n"
        "from reproductions.engine.results import list_results\n"
        "from reproductions.engine.runner import reproduce\n"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
