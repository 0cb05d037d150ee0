"""`kd reproduce`: what is typed reaches the engine as one plan, and its outcome the shell."""

from __future__ import annotations

import pytest

from reproductions.engine import reproduce as engine
from reproductions.engine.reproduce import Outcome
from tools import cli


@pytest.fixture
def handed(monkeypatch):
    """What the engine was handed; it answers with `code`."""
    seen: dict[str, object] = {"code": 0}

    def reproduce(plan, **options):
        seen.update(plan=plan, **options)
        return Outcome(seen["code"], "done")

    monkeypatch.setattr(engine, "reproduce", reproduce)
    return seen


def test_everything_that_is_typed_arrives(handed):
    words = [
        "--scale",
        "tiny",
        "--seeds",
        "2",
        "--arms",
        "sft,minillm",
        "--workers",
        "3",
        "--fresh",
        "--json",
    ]
    assert cli.main(["reproduce", "minillm", *words]) == 0
    plan = handed["plan"]
    assert (plan.paper, plan.scale.name, plan.seeds, plan.arms) == (
        "minillm",
        "tiny",
        (0, 1),
        ("sft", "minillm"),
    )
    assert (handed["workers"], handed["fresh"], handed["record"], handed["as_json"]) == (3, True, False, True)
    assert not plan.complete


def test_a_whole_plan_is_what_is_recorded(handed):
    assert cli.main(["reproduce", "minillm", "--record", "--no-resume"]) == 0
    assert handed["record"] is True and handed["fresh"] is True and handed["plan"].complete
    assert handed["workers"] is None and handed["as_json"] is False


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_exit_code_is_the_outcomes(handed, code):
    handed["code"] = code
    assert cli.main(["reproduce", "minillm"]) == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["minillm", "--replace"], 'unknown option "--replace"'),
        (["minillm", "--scale", "tinny"], 'no scale "tinny" (did you mean "tiny"?)'),
        (["minillm", "--arms", "minilm"], 'no arm "minilm" (did you mean "minillm"?)'),
        (["minillm", "--seeds", "41"], "so 1 to 40"),
        (["orca"], 'no reproduction of a paper "orca"'),
    ],
)
def test_what_cannot_be_planned_is_one_line(handed, capsys, words, message):
    assert cli.main(["reproduce", *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and "plan" not in handed


def test_a_part_of_a_scale_is_never_recorded(capsys):
    part = ["--scale", "small", "--seeds", "1"]  # whose rates are declared, so that no sweep has to be there
    assert cli.main(["reproduce", "minillm", "--record", *part]) == 2
    assert "--record is for all arms and seeds" in capsys.readouterr().err


def test_help_says_what_is_written_and_what_the_exit_codes_mean(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--record" in told and "nothing else writes there" in told
    assert "0 every verdict is the recorded one" in told and "130 interrupted" in told
