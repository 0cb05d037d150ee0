"""Pages of testbeds: what a gate came to stands there, also where it failed, is outdated or was never run."""

from dataclasses import replace

import pytest

from reproductions.engine.gate.record import Check, GateRecord, identity_of, write_record
from reproductions.testbeds import list_testbeds, read_testbed
from tools.pages import documents
from tools.pages.testbeds import page

BED = """about: A testbed of a <test>.
stands_in: world
task: {name: pronunciation, train_words: 50}
decoding: {batch: 8}
students: {main: {shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}}}
teachers:
  main: {shape: {layers: 2, hidden: 8, heads: 1, intermediate: 8}, training: {max_steps: 1}}
  huge: {model: someone/huge}
metrics: {answers: {sampled: [rouge_l], greedy: [exact_match]}}
gate: {metric: greedy_exact_match, seeds: 5}
"""


@pytest.fixture
def places(tmp_path):
    """Folders of records and testbeds."""
    (tmp_path / "testbeds").mkdir()
    (tmp_path / "testbeds" / "mine.yaml").write_text(BED)
    return tmp_path / "gates", tmp_path / "testbeds"


def record(places, **changes):
    made = GateRecord(
        testbed="mine",
        metric="greedy_exact_match",
        date="2026-11-28",
        seeds=(1000, 1001, 1002),
        learning_rate=4e-3,
        level=0.95,
        smallest_effect=1.1357,
        figures={"greedy_exact_match": {"baseline": 30.0, "teacher": 52.714}},
        checks=(
            Check("teacher-better", True, "22.7 | [21.9, 23.5]"),
            Check("plateau", True, "moves little"),
            Check("ladder", False, "2 points only"),
        ),
        properties={"headroom": ("teacher-better", "plateau"), "capacity-gap": ("ladder",)},
        arms={"baseline": {"key": "abc", "seeds": [1000]}},
        identity=identity_of(read_testbed("mine", places[1])),
    )
    return replace(made, **changes)


def test_a_passed_gate_says_what_is_judged_and_what_is_not(places):
    write_record(record(places), places[0])
    text = page("mine", *places)
    assert "A testbed of a &lt;test&gt;." in text
    assert "- teacher: `world`, a small model taught a task from scratch" in text
    assert "- task: `pronunciation` (train\\_words: 50)" in text
    assert "`main` layers 2, hidden 8, heads 1, intermediate 8; `huge` someone/huge" in text
    assert "**✅ Passed: claims are judged here that need headroom.**" in text
    assert (
        "3 seeds from 1000 on, learning rate 0.004, 2026-11-28. Intervals are at 95 %; the smallest effect is 1.136."
        in text
    )
    assert "| ✅ teacher-better | 22.7 \\| \\[21.9, 23.5\\] |" in text
    assert "| ❌ ladder | 2 points only |" in text
    assert "- ❌ capacity gap: ladder\n" in text and "- ✅ headroom: teacher-better, plateau\n" in text
    assert "[baseline](../../reproductions/gates/mine/abc.json)" in text
    assert "| exact match, greedy ↑ | `greedy_exact_match` | 30 | 52.71 |" in text
    assert "| ROUGE-L on phonemes, sampled ↑ | `rouge_l` | - | - |" in text


def test_a_failed_gate_is_shown_like_any_other(places):
    checks = (
        Check("teacher-better", False, "2 only"),
        Check("plateau", True, "moves little"),
        Check("ladder", True, "x"),
    )
    write_record(record(places, checks=checks), places[0])
    text = page("mine", *places)
    assert "**❌ Failed (teacher-better): no claim is judged here.**" in text
    assert "| ❌ teacher-better | 2 only |" in text
    assert "- ❌ capacity gap: ladder (not while the headroom is not shown)" in text


def test_outdated_earlier_swept_and_missing_gates_say_so(places):
    text = page("mine", *places)
    assert "Its gate is declared and was not run: no claim is judged here" in text
    assert "`make gate TESTBED=mine` runs it" in text
    swept = {
        "rates": [1e-3],
        "seeds": [900, 901],
        "best": 0.002,
        "figures": {"0.002": {"900": 30.5, "901": 31}},
    }
    earlier = {"date": "2026-11-01", "passed": False, "arms": {}}
    earlier["checks"] = [{"name": "plateau", "passed": False, "measured": "moved by 3"}]
    write_record(record(places, swept=swept, earlier=(earlier,)), places[0])
    text = page("mine", *places)
    assert "seeds 900, 901; the best is 0.002:" in text and "| 0.002 | 30.5 | 31 |" in text
    assert (
        "An earlier state of this testbed, 2026-11-01, failed by plateau:\n\n- ❌ plateau: moved by 3" in text
    )
    (places[1] / "mine.yaml").write_text(BED.replace("train_words: 50", "train_words: 60"))
    assert "**Outdated: the testbed has changed since its gate was recorded" in page("mine", *places)
    (places[1] / "mine.yaml").write_text(BED.split("gate:")[0])
    (places[0] / "mine.json").unlink()
    assert "It declares no gate: no claim is judged here" in page("mine", *places)


def test_a_drawn_task_says_which_draw_a_seed_has():
    (line,) = [line for line in page("mazes").splitlines() if line.startswith("- task:")]
    assert line.endswith(", drawn 20 times: the run of seed s has draw 10 + s mod 20")


def test_the_page_of_every_testbed_is_current():
    texts = documents.beds()
    assert set(texts) == {f"reproductions/testbeds/{name}.md" for name in list_testbeds()}
    wrong = [path for path in documents.differing(texts) if path.startswith("reproductions/testbeds/")]
    assert not wrong, f"run `make readme`: {wrong}"
