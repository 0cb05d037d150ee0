"""`kd methods`: every recipe with what it needs, from its tree; costs and verdicts from what is recorded."""

import json

import pytest

from methods.recipe import canonical_method, read_recipe, recipe_ids
from reproductions.engine.show import methods as module
from reproductions.engine.show.methods import methods
from tools.cli import main

KNOWN = {
    "sft": ("none", "one", "the data's", False, ()),
    "seqkd": ("text", "two may differ", "the teacher's", False, ()),
    "word-kd": ("logits", "one", "the data's", False, ()),
    "uld": ("logits", "two may differ", "the teacher's", False, ()),
    "alm": ("logits", "two may differ", "the data's", False, ()),
    "ted": ("logits and hidden states", "one", "the data's", False, ()),
    "gkd": ("logits", "one", "the data's, the student's own", False, ()),
    "tip": ("logits", "one", "the student's own", False, ()),
    "minillm": ("logits", "one", "the student's own", False, ()),
    "kdrl": ("logits", "one", "the student's own", True, ()),
    "rft": ("none", "one", "the student's, checked", True, ()),
    "luffy": ("none", "one", "the data's, the student's own", True, ()),
    "near-future-po": ("none", "one", "a later student's, the student's own", True, ()),
    "ddk": ("logits", "one", "the data's", False, ("domain",)),
    "codi": ("none", "one", "the data's", False, ("thoughts",)),
    "babyllama": ("logits", "one", "the data's", False, ()),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_method_needs(name):
    (one,) = methods([name])
    assert (one.teacher, one.tokenizers, one.answers, one.rewards, one.columns) == KNOWN[name]
    assert one.teachers == {
        "babyllama": 2,
        **dict.fromkeys(("sft", "codi", "rft", "luffy", "near-future-po"), 0),
    }.get(name, 1)


def test_whoever_gives_completions_is_named_before_the_student():
    """Each recipe whose groups hold a text of the data, or of whoever made them, says so."""
    given = [
        name
        for name in recipe_ids()
        if read_recipe(name).method().get("trainer", {}).get("given_completions")
    ]
    assert {"luffy", "near-future-po"} <= set(given)
    for one in methods(given):
        first, _, rest = one.answers.rpartition(", ")
        assert first and rest == "the student's own", one.id


def test_every_recipe_is_listed(capsys):
    assert main(["methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in found] == recipe_ids()
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and lines[0].split()[0] == "method"
    begun = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert begun == recipe_ids(), "each once, with its whole name"
    place = lines.index("ramesh-2025-generalization-fidelity")
    assert lines[place + 1].split()[:3] == ["logits", "same", "data"], "a long name, and the rest of it below"
    (kdrl,) = [n for n, line in enumerate(lines) if line.startswith("kdrl ")]
    assert (
        lines[kdrl].split()[1:4] == ["logits", "same", "student"] and lines[kdrl + 1] == "    needs a reward"
    )
    (ted,) = [line for line in lines if line.startswith("ted ")]
    assert ted.split()[1:4] == ["hidden", "same", "data"]
    assert any(line.split()[1:6] == ["2", "x", "logits", "same", "data"] for line in lines), "babyllama's two"


def test_only_those_that_a_builder_can_use(capsys):
    assert main(["methods", "--teacher", "text", "--json"]) == 0
    asked = {one["id"] for one in json.loads(capsys.readouterr().out)}
    assert {"sft", "seqkd", "rft"} <= asked and "word-kd" not in asked
    assert main(["methods", "--two-tokenizers", "--json"]) == 0
    other = {one["id"] for one in json.loads(capsys.readouterr().out)}
    assert {"alm", "uld", "gold", "seqkd"} <= other and "gkd" not in other and "sft" not in other


def test_one_in_full_and_the_nearest_name(capsys):
    assert main(["methods", "kdrl"]) == 0
    text = capsys.readouterr().out
    assert "needs rows whose" in text and "settings: " in text and "kd show kdrl" in text
    assert main(["methods", "kdlr"]) == 2
    assert 'did you mean "kdrl"' in capsys.readouterr().err


def recorded(folder, bed, method, seconds, **spec):
    """Runs of an arm as results have them, as far as costs read them."""
    tree = canonical_method(read_recipe(method).method())
    data = {
        "testbed": bed,
        "spec": {"method": tree, "training": {"max_steps": 5}, **spec},
        "runs": [{"seconds": {"train": s, "train_cpu": s}} for s in seconds],
    }
    (folder / bed).mkdir(exist_ok=True)
    (folder / bed / f"{method}-{len(list((folder / bed).iterdir()))}.json").write_text(json.dumps(data))


def test_costs_are_medians_over_testbeds_on_which_sft_ran_too(tmp_path):
    recorded(tmp_path, "one", "sft", [1.0, 2.0, 9.0])
    recorded(tmp_path, "one", "gkd", [6.0, 6.0])
    recorded(tmp_path, "two", "sft", [10.0])
    recorded(tmp_path, "two", "gkd", [50.0])
    recorded(tmp_path, "two", "gkd", [900.0], start="sft")  # where SFT was not run so
    recorded(tmp_path, "three", "minillm", [7.0])
    found = {one.id: one for one in methods(["sft", "gkd", "minillm"], tmp_path)}
    assert found["sft"].cost == 1.0 and found["gkd"].cost == 4.0 and found["gkd"].measured == 2
    assert found["minillm"].cost is None


def test_runs_that_were_added_count_in_what_a_method_costs(tmp_path):
    recorded(tmp_path, "one", "sft", [1.0])
    recorded(tmp_path, "one", "gkd", [6.0])
    path = tmp_path / "one" / "gkd-1.json"
    data = json.loads(path.read_text())
    seconds = {"seconds": {"train": 8.0, "train_cpu": 8.0}}
    path.write_text(json.dumps({**data, "runs": [{"seed": 0, **data["runs"][0]}]}))
    path.with_suffix("").mkdir()
    more = dict.fromkeys(("metrics", "claims", "made_with", "shared"), {}) | {
        "runs": [{"seed": 1, **seconds}]
    }
    (path.with_suffix("") / "1.json").write_text(json.dumps(more))
    (found,) = methods(["gkd"], tmp_path)
    assert found.cost == 7.0


def test_what_takes_alike_is_told_from_what_does_not():
    kinds = {name: module._kind(canonical_method(read_recipe(name).method())) for name in recipe_ids()}
    assert kinds["word-kd"] == kinds["akl"], "another divergence takes alike"
    assert len({kinds[name] for name in ("sft", "seqkd", "word-kd", "gkd", "minillm", "ted", "alm")}) == 7
