"""What a gate declares: planned as runs of its own, and one clear message with file and line for anything else."""

import re

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.gate.runs import plan_of
from reproductions.engine.gate.spec import gate_of
from reproductions.testbeds import list_testbeds, read_testbed

LADDER = """gate:
  metric: greedy_exact_match
  seeds: 4
  baseline: {method: sft}
  learning_rate: 4.0e-3
  checks:
    teacher-better: {points: 5}
    baseline-between: {}
    same-arm-twice: {}
    must-exist:
      better: {method: sft}
      worse: {method: sft, training: {max_steps: 24}}
      because: ten times the steps
    plateau: {}
    ladder: {teachers: [small, main, large]}
  covers:
    headroom: [teacher-better, baseline-between, same-arm-twice, must-exist, plateau]
    capacity-gap: [ladder]
"""


@pytest.fixture
def folder(tmp_path):
    """The atlas's pronunciation with a gate."""
    from reproductions.testbeds import ROOT

    text = (ROOT / "pronunciation.yaml").read_text().split("\ngate:")[0] + "\n"
    (tmp_path / "spelling.yaml").write_text(text + LADDER)
    return tmp_path


def test_every_gate_of_the_atlas_can_be_planned():
    for name in list_testbeds():
        gate = gate_of(name)
        assert (gate is None) == ("gate" not in read_testbed(name))


def test_a_gate_plans_its_arms_with_seeds_that_no_paper_has(folder):
    gate = gate_of("spelling", folder)
    plan = plan_of(gate, gate.rates[0], folder / "cache")
    assert plan.arms == (
        *("baseline", "teacher-main", "must-exist-better", "must-exist-worse", "baseline-doubled"),
        *("teacher-small", "teacher-large"),
    )
    assert gate.seeds == (1000, 1001, 1002, 1003) and gate.second == (1004, 1005, 1006, 1007)
    assert plan.seeds_of("baseline") == (*gate.seeds, *gate.second)
    assert plan.seeds_of("teacher-main") == gate.seeds
    steps = {arm: spec["training"]["max_steps"] for arm, spec in plan.specs.items()}
    assert (steps["baseline"], steps["baseline-doubled"], steps["must-exist-worse"]) == (240, 480, 24)
    assert {spec["training"]["learning_rate"] for spec in plan.specs.values()} == {4e-3}
    assert plan.specs["teacher-large"]["method"]["trainer"]["name"] == "teacher-alone"
    assert plan.keys["must-exist-better"] == plan.keys["baseline"]  # made once
    assert len(plan.runs) == 8 + 4 * 5
    assert gate.smallest is None and gate.teacher == "main"


def test_a_testbed_that_is_like_another_has_its_gate_and_may_change_or_drop_it(folder):
    (folder / "other.yaml").write_text(
        "like: spelling\ngate: {seeds: 7, checks: {baseline-between: {low: 10}}}\n"
    )
    gate = gate_of("other", folder)
    assert len(gate.seeds) == 7 and gate.checks["baseline-between"].low == 10
    (folder / "none.yaml").write_text("like: spelling\ngate: null\n")
    assert gate_of("none", folder) is None
    (folder / "bad.yaml").write_text("like: spelling\ngate: {metric: rouge}\n")
    with pytest.raises(
        KDError, match=r'bad\.yaml:2: the testbed has no metric "rouge" \(did you mean "rouge_l"\?\)'
    ):
        gate_of("bad", folder)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("metric:", "metrik:", "  metrik:", 'a gate has no "metrik" (did you mean "metric"?)'),
        ("  seeds: 4\n", "", "gate:", 'a gate needs "seeds"'),
        ("greedy_exact_match\n  seeds", "greedy_match\n  seeds", "  metric:", 'has no metric "greedy_match" (did you'),
        ("seeds: 4", "seeds: 2", "  seeds:", '"seeds" is how many, 3 or more'),
        ("{method: sft}\n  learning", "{method: sftt}\n  learning", "  baseline:",
         'no method "sftt" (did you mean "sft"?'),
        ("{method: sft}\n  learning", "{metod: sft}\n  learning", "  baseline:",
         'an arm has no "metod" (did you mean'),
        ("4.0e-3\n  checks", "0\n  checks", "  learning_rate: 0", '"learning_rate" is a number above 0'),
        ("4.0e-3\n  checks", "[1.0e-3, 2.0e-3]\n  checks", "  learning_rate: [", "a sweep takes three rates or more"),
        ("4.0e-3\n  checks", "4.0e-3\n  smallest_effect: -1\n  checks", "  smallest", '"smallest_effect" is a number'),
        ("4.0e-3\n  checks", "4.0e-3\n  teacher: man\n  checks", "  teacher: man",
         'no teacher "man" (did you mean "main"?)'),
        ("plateau: {}", "plato: {}", "    plato", 'no check is called "plato"'),
        ("plateau: {}", "plateau: {steps: 3}", "    plateau", 'check plateau has no setting "steps"'),
        ("plateau: {}", "plateau: 3", "    plateau", "a check is a mapping of settings: {} for none"),
        ("{points: 5}", "{points: many}", "    teacher-better", '"points" is a number of 0 or more'),
        ("[small, main, large]", "[small, man]", "    ladder", 'no teacher "man" (did you mean "main"?)'),
        ("max_steps: 24", "max_step: 24", None, None),  # TrainingArguments are checked by the run
        ("{method: sft, training", "{method: sff, training", "      worse", 'no method "sff" (did you mean "sft"?)'),
        ("capacity-gap: [ladder]", "capacity-gap: [lader]", "    capacity",
         'the gate has no check "lader" (did you mean'),
        ("capacity-gap:", "Capacity:", "    Capacity", "a property's name has a-z"),
        ("    capacity-gap: [ladder]\n", "", "    ladder", "no property is covered by it"),
        ("headroom:", "room:", "  covers", '"headroom" is missing: every claim needs it'),
        (", plateau]", "]", "    headroom", "plateau is missing"),
        ("because: ten times the steps", "because: ''", "      because", '"because" says in a sentence'),
    ],
)  # fmt: skip
def test_anything_else_is_said_with_file_and_line(folder, old, new, line, message):
    path = folder / "spelling.yaml"
    before, gate = path.read_text().split("gate:\n")
    gate = "gate:\n" + gate
    assert gate.count(old) == 1 or old == "metric:"
    text = before + gate.replace(old, new, 1)
    path.write_text(text)
    if message is None:
        gate_of("spelling", folder)
        return
    number = 1 + next(
        n for n, words in enumerate(text.splitlines()) if words.startswith(line) and n >= before.count("\n")
    )
    with pytest.raises(KDError) as found:
        gate_of("spelling", folder)
    assert re.match(rf".*spelling\.yaml:{number}: ", str(found.value)), found.value
    assert message in str(found.value)


def test_a_testbed_without_teachers_needs_a_smallest_effect_and_no_teacher_better(place):
    gate = place.gate()
    assert gate.teacher is None and "teacher-better" not in gate.checks
    place.change("  smallest_effect: 0.6\n", "")
    with pytest.raises(KDError, match='write "smallest_effect"'):
        place.gate()
