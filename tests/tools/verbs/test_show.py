"""`kd show`: from an id to record, recipe, experiment, results; what each arm computes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from catalog.schema import External, load_catalog
from tools import cli
from tools.paths import ROOT
from tools.verbs import show


@pytest.fixture
def kd(capsys, monkeypatch):
    """Runs `kd show` 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> str:
        assert cli.main(["show", *words]) == 0
        return capsys.readouterr().out

    return run


def test_an_id_leads_to_every_file_of_a_paper(kd):
    out = kd("distillm-2")
    for path in (
        "catalog/papers/distillm-2.yaml",
        "methods/recipes/distillm-2.yaml",
        "reproductions/papers/distillm-2.yaml",
        "reproductions/testbeds/words.yaml",
        "reproductions/papers/distillm-2.md",
    ):
        assert path in out and (ROOT / path).exists()
    assert out.count("methods/recipes/distillm-2.yaml") == 2  # as a place, and over its text
    arms = out.split("\narms  (tiny scale, testbed words)\n")[1]
    assert "gkd: jensen-shannon (teacher_weight 0.9); sequences: on-policy" in arms
    assert "(teacher-share) skew-forward-kl" in arms and "the teacher is a small model taught" in arms


def test_recorded_results_are_among_the_places(kd, checkout):
    out = kd("codi")
    assert "reproductions/results/arithmetic/" in out and "reproductions/papers/codi.md" in out


@pytest.mark.parametrize("paper", [paper.id for paper in load_catalog().papers.values() if paper.method])
def test_the_recipe_that_is_printed_is_the_file_and_fits(monkeypatch, paper):
    monkeypatch.setenv("COLUMNS", "80")
    record = load_catalog().papers[paper]
    printed = "\n".join(show._recipe(record))
    assert yaml.safe_load(printed) == yaml.safe_load(
        (ROOT / f"methods/recipes/{record.method}.yaml").read_text()
    )
    assert max(map(len, printed.splitlines())) <= 80


def test_json_holds_recipe_and_what_each_arm_computes(kd):
    plain = json.loads(kd("distillm-2", "--json"))
    assert plain["method"] == "distillm-2" and yaml.safe_load(plain["recipe"])["title"] == "DistiLLM-2"
    tiny = plain["scales"][0]
    assert tiny["stands_in"] == "world" and all(
        arm["recipe"] and len(arm["key"]) == 16 for arm in tiny["arms"]
    )
    assert json.loads(kd("orca", "--json"))["recipe"] is None


def test_what_others_found_is_told_and_fits(kd):
    paper = load_catalog().papers["sdft"]
    out = kd("sdft")
    part = out.split("\nwhat others found  (it decides no verdict here)\n")[1].split("\n\n")[0]
    told = " ".join(part.split())
    for entry in paper.external:
        assert f"{entry.kind}, {entry.date}, {entry.stance}:" in told
        assert f"{entry.says} {entry.url} (seen {entry.seen})" in told
    assert all(len(line) <= 80 for line in out.splitlines() if "https://" not in line)
    assert [entry["agrees"] for entry in json.loads(kd("sdft", "--json"))["external"]] == [
        entry.agrees for entry in paper.external
    ]
    assert "what others found" not in kd("orca")


def test_what_others_found_cannot_steer_a_terminal(monkeypatch):
    evil = External("https://x.org/\x1b[2J", "2026-04", "issue", "a\x1b[31m\u202eb", None, "2026-11-28")
    lines = show._external(replace(load_catalog().papers["sdft"], external=(evil,)))
    assert not set("\x1b\u202e") & set("".join(lines)) and "<U+202E>" in "".join(lines)
