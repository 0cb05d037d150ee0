"""`kd verify` on real results: whatever is taken out, edited or renamed is found, and named."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reproductions.engine.plan.plan import make_plan
from tests.reproductions.recorded import ROOT, raw_figures
from tools import cli


@pytest.fixture
def kd(capsys):
    """Runs `kd verify codi`: exit code, and everything it said on one line."""

    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["verify", *(words or ("codi",))])
        captured = capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())

    return run


@pytest.fixture
def arm(checkout) -> Path:
    """The recorded results of the paper's method."""
    key = make_plan("codi").keys["codi"]
    return checkout / "reproductions" / "results" / "arithmetic" / f"{key}.json"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the JSON of a file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_what_follows_from_the_raw_figures_ends_with_0(checkout, kd):
    code, told = kd()
    assert code == 0 and "what is committed follows from the raw figures" in told
    assert kd()[0] == 0  # and nothing was written
    assert (checkout / "reproductions" / "verdicts" / "codi.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["runs"].pop(3), r"incomplete: codi seed 3"),
        (lambda data: data["runs"].clear(), r"no runs"),
        (lambda data: data["runs"].append(data["runs"][0]), r"seed 0 stands twice"),
        (
            lambda data: data["runs"][1]["metrics"].update(exact_match=99.0),
            r"metrics.exact_match is 99.0, its examples",
        ),
        (lambda data: data["runs"][1]["seconds"].update(train=0.1), r"do not give its digest"),
        (lambda data: data["runs"][1]["tokens"].update(student=1), r"do not give its digest"),
        (lambda data: data["spec"]["training"].update(max_steps=9), r"its spec has the key [0-9a-f]{16}"),
        (lambda data: data.update(key="0" * 16), r"holds results of 0000"),
    ],
)
def test_figures_taken_out_or_edited_are_named(kd, arm, change, message):
    edit(arm, change)
    code, told = kd()
    assert code == 1 and re.search(message, told)
    assert arm.name in told or "results of codi at scale tiny" in told


def test_an_arm_that_is_gone_is_missed(kd, arm):
    arm.unlink()
    code, told = kd()
    assert code == 1 and "incomplete: codi seeds 0, 1, 2, 3, 4" in told


def test_results_that_are_all_gone_are_missed(kd, arm):
    for path in arm.parent.iterdir():
        path.unlink()
    code, told = kd()
    assert code == 1 and re.search(r"committed as reproduced; from the raw figures it is not run", told)


def test_examples_of_another_run_are_found(kd, arm):
    other = next(path for path in sorted(arm.parent.glob("*.parquet")) if path.stem != arm.stem)
    arm.with_suffix(".parquet").write_bytes(other.read_bytes())
    code, told = kd()
    assert code == 1 and "its examples give" in told


def test_a_claim_changed_after_its_first_run_is_named(checkout, kd):
    path = checkout / "reproductions" / "papers" / "codi.yaml"
    text = path.read_text()
    assert "  metric: exact_match\n" in text
    path.write_text(text.replace("  metric: exact_match\n", "  metric: exact_match\n  margin: 0.5\n", 1))
    code, told = kd()
    assert code == 1 and "hidden-states-matter asserts something else than when the first run" in told


def test_every_broken_paper_is_told_not_the_first_alone(checkout, kd, monkeypatch):
    from reproductions.engine.show import gather

    monkeypatch.setattr(gather, "runnable", lambda papers: ["aaa", "codi"])
    code, told = kd("--json")
    plain = json.loads(told)
    assert code == 1 and "no reproduction of a paper" in plain["aaa"]["differs"][0]
    assert plain["codi"]["differs"] == [] and len(plain["codi"]["claims"]) == 4


def test_a_file_that_no_experiment_names_has_to_hold_too(kd, arm):
    stray = arm.with_name("0123456789abcdef.json")
    stray.write_bytes(arm.read_bytes())
    stray.with_suffix(".parquet").write_bytes(arm.with_suffix(".parquet").read_bytes())
    code, told = kd("--json")
    (line,) = json.loads(told)["elsewhere"]["differs"]
    assert code == 1 and line.startswith(
        f"reproductions/results/arithmetic/{stray.name}: holds results of {arm.stem}"
    )
    assert (
        f"{stray.name}: holds results of" in kd("--json")[1] and kd()[0] == 0
    )  # of no paper, so not of this one


def test_a_parquet_that_nothing_lists_and_a_file_that_was_changed_are_named(checkout, kd, arm):
    """What an interrupted write left, and a byte that no figure depends on."""
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", "-C", str(checkout), *words], check=True, capture_output=True)
    assert kd("--json")[0] == 0 and kd("--since", "HEAD")[0] == 0
    arm.with_suffix("").mkdir()
    (arm.with_suffix("") / "1.parquet").write_bytes(arm.with_suffix(".parquet").read_bytes())
    where = f"reproductions/results/arithmetic/{arm.stem}"
    assert f"{where}/1.parquet: has no JSON beside it" in kd("--json")[1]
    assert kd("--since", "HEAD")[0] == 0, "nothing of then is another"
    arm.write_text(arm.read_text() + "\n")
    for words in (["--json"], ["--since", "HEAD"]):
        code, told = kd(*words)
        assert code == 1 and f"{where}.json: is not what was committed" in told
    plain = json.loads(kd("--since", "HEAD", "--json")[1])
    assert plain["lost"] == [] and plain["runs"] == 5 and len(plain["changed"]) == 1


@pytest.fixture
def tried(checkout) -> Path:
    """The paper was judged before, as its attempt in this repository says, and its pages list that."""
    from catalog.schema import load_catalog
    from reproductions.engine.atlas import record
    from reproductions.engine.atlas.compute import compute
    from reproductions.engine.show import files, gather
    from tools.pages import documents
    from tools.pages.atlas import Atlas

    path = checkout / "reproductions" / "attempts" / "codi.1.json"
    path.parent.mkdir()
    shutil.copy(ROOT / "reproductions" / "attempts" / path.name, path)
    for name in raw_figures(path):  # under the keys that they were recorded with, and stay
        shutil.copy(ROOT / name, checkout / name)
    view = gather.gather("codi")
    files.write(view)
    record.write(compute(checkout), checkout)
    documents.write(documents.own(Atlas(load_catalog(), {"codi": view})), checkout)
    return path


def test_an_earlier_attempt_is_recomputed_and_counted(tried, kd):
    code, told = kd()
    assert code == 0
    assert (
        "attempt 1, tiny, engine 1: 1 reproduced, 1 not reproduced, 2 inconclusive; 4 of 4 differences"
        in told
    )


def test_a_difference_that_its_raw_figures_do_not_give_is_named(tried, kd):
    edit(tried, lambda data: data["claims"][1].update(difference=7.0))
    code, told = kd()
    where = "reproductions/attempts/codi.1.json: the raw figures of hidden-states-matter do not give its difference"
    assert code == 1 and where in told and "3 of 4 differences" in told


def test_raw_figures_of_an_earlier_attempt_that_are_gone_are_named(tried, kd):
    key = {"codi": "0" * 16, "no-cot": "1" * 16}
    edit(tried, lambda data: data["claims"][0].update(keys=key))
    code, told = kd()
    assert code == 1 and "codi.1.json: the raw figures of beats-silent-answers are gone" in told


def test_results_of_an_earlier_attempt_belong_to_somebody(tried):
    from tools.checks import results

    edit(tried, lambda data: data["claims"][0].update(keys={"codi": "0" * 16, "no-cot": "1" * 16}))
    names = {path.stem for path in results.attempted(["codi"])}
    assert {"0" * 16, "1" * 16} < names and all(re.fullmatch("[0-9a-f]{16}", name) for name in names)


def test_what_the_papers_say_together_is_computed_again(checkout, kd):
    from dataclasses import replace

    from reproductions.engine.atlas import record

    kept = record.read(checkout)
    assert kept is not None and [table.name for table in kept.tables] == ["arithmetic"]
    assert kd()[0] == 0
    table = kept.tables[0]
    record.write(replace(kept, tables=(replace(table, apart=table.apart + 1),)), checkout)
    code, told = kd("--json")
    assert code == 1
    assert json.loads(told)["elsewhere"]["differs"] == [
        "reproductions/atlas.json: says else than the raw figures give now; `kd readme --fresh` writes it"
    ]
    path = checkout / record.FILE
    path.write_text(path.read_text().replace("arithmetic", "arithmetics", 1))
    code, told = kd("--json")
    assert code == 1 and "was edited by hand" in json.loads(told)["elsewhere"]["differs"][0]
