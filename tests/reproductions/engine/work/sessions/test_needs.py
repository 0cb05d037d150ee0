"""What a first run makes on its way, told from the plan; what the cache holds counts no more."""

from __future__ import annotations

import json
from dataclasses import replace

from reproductions.engine.plan.plan import make_plan
from reproductions.engine.work.artifacts import Artifacts
from reproductions.engine.work.sessions.progress.needs import _needs, to_make


def needed(plan, tasks=None):
    """What these runs need, measured as the plan wants."""
    chosen = plan.tasks if tasks is None else tasks
    return to_make([(plan, (arm, seed), plan.measures[arm]) for arm, seed in chosen])


def test_teachers_starts_and_texts_are_counted_once_for_all_who_need_them(tmp_path):
    plan = make_plan("akl", cache=tmp_path)
    assert needed(plan) == {"teacher": 1, "sft-start": 5, "rows-label": 1}
    sft = [task for task in plan.tasks if task == ("sft", 3)]
    assert needed(plan, sft) == {"sft-start": 1}, "no metric of this paper asks a teacher"
    sizes = make_plan("babyllama", cache=tmp_path)
    assert needed(sizes)["teacher"] > 1


def test_what_is_in_the_cache_need_not_be_made(tmp_path):
    plan = make_plan("akl", cache=tmp_path)
    bed = plan.specs["sft"]["testbed"]
    revision = {"testbed": "pronunciation", "data_revision": bed["revision"]}
    teacher = {name: plan.testbed["teachers"]["main"][name] for name in ("shape", "training")}
    start = {**bed["students"]["main"], "training": plan.specs["sft"]["sft_start"]}
    artifacts = Artifacts(tmp_path)
    artifacts.obtain("teacher", {**teacher, "seed": 0, **revision}, lambda folder: None)
    artifacts.obtain("sft-start", {**start, "seed": 1, **revision}, lambda folder: None)
    artifacts.obtain("sft-start", {**start, "seed": 2, **revision, "data_revision": "x"}, lambda folder: None)
    path, _ = artifacts.obtain("sft-start", {**start, "seed": 3, **revision}, lambda folder: None)
    (path / "meta.json").write_text(json.dumps({"kind": "sft-start"}))  # broken: it is made again
    assert needed(plan) == {"sft-start": 4, "rows-label": 1}


def test_elicited_texts_are_made_for_each_seed_unless_one_draw_serves_all():
    tree = {"elicit": [{"name": "explain"}], "of": {"from": "train", "first": 9}}
    for once, kinds in ((False, 3), (True, 1)):
        data = {**tree, "once": True} if once else tree
        spec = {
            "testbed": {"teachers": {}, "students": {}},
            "method": {"data": {"mix": [{"data": data}, {"data": "train"}]}},
        }
        found = {str((kind, key)) for seed in range(3) for _, kind, key in _needs(spec, seed, {})}
        assert len(found) == kinds and all("rows-elicited" in one for one in found)


def test_a_base_is_made_once_for_all_seeds_of_a_draw(tmp_path):
    drawn = make_plan("coverage", cache=tmp_path)
    sft = [task for task in drawn.tasks if task[0] == "sft"]
    assert needed(drawn, sft) == {"base": 5, "sft-start": 5}, "an oracle is not made"
    once = replace(drawn, testbed={key: value for key, value in drawn.testbed.items() if key != "draws"})
    assert needed(once, sft) == {"base": 1, "sft-start": 5}
    student = drawn.specs["sft"]["testbed"]["students"]["main"]
    Artifacts(tmp_path).obtain("base", {**student, "seed": 0, "data_revision": "x"}, lambda folder: None)
    assert needed(once, sft) == {"sft-start": 5}
    assert needed(drawn, sft) == {"base": 4, "sft-start": 5}
