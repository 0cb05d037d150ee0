"""`kd distill --plan`, `kd compare` and what is seen of a training: told beforehand, side by side, line by line."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from transformers import AutoModelForCausalLM

from catalog.schema import HERE, load_teachers
from methods.errors import MethodError
from methods.recipe import recipe_ids
from reproductions.distill.config import load_config
from reproductions.distill.evaluate import run as evaluation
from reproductions.distill.evaluate.compare import compare, configs_of, league, lines_of
from reproductions.distill.evaluate.run import FILE
from reproductions.distill.plan import lines_of as lines_of_plan
from reproductions.distill.plan import plan_of
from reproductions.distill.watch import progress
from reproductions.distill.watch.curve import log_of, picture_of
from reproductions.distill.watch.push import push
from reproductions.engine.errors import KDError
from reproductions.engine.show.methods import methods
from tests.methods.conftest import LETTERS, letter_tokenizer, make_model

from .conftest import CLASSIFIERS_ALONE, config_of

SILENT = (lambda *_: None, lambda _: None)


@pytest.fixture
def unloaded(monkeypatch):
    monkeypatch.setattr("reproductions.distill.models.load_pretrained", None)  # no weight is loaded


def planned(path):
    return plan_of(load_config(path), load_teachers(HERE / "teachers.yaml"), lambda _: None)


def test_a_plan_by_hand(folder, unloaded):
    plan = planned(config_of(folder, "gkd", extra="teacher_terms: open-weights\nevaluate: {rows: 2}\n"))
    count = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder / "student").parameters())
    theirs = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder / "teacher").parameters())
    assert plan["rows"] == {"read": 8, "too_long": 0, "held_out": 0, "evaluated": 2, "trained_on": 6}
    assert plan["sequences"] == 16 and plan["epochs"] == round(16 / 6, 3)
    # 31 letters twice, 8 bars, 8 ends over 8 rows: 9.75 tokens a row on average
    letters = sum(map(len, ("ab", "hello", "x", "distil", "teach", "loss", "token", "kd")))
    each = (2 * letters + 16) / 8
    assert plan["tokens"] == {
        "student": round(16 * each),
        "teacher": round(16 * each),
        "generated at most": 16 * 12,
    }
    read = round(2 * each)
    assert plan["evaluation"] == {"rows": 2, "models": 3, "read": read, "written at most": 2 * 12}
    evaluation = 2 * (2 * count + theirs) * (read + 3 * 24)
    training = 16 * each * (6 * count + 2 * theirs) + 2 * 3 * count * 16 * 12
    share = plan["seconds_of_the_evaluation"][0] / plan["seconds"][0]
    assert share == pytest.approx(evaluation / (evaluation + training), rel=0.1), "two digits of each"
    memory = plan["memory_bytes"]
    assert memory["student"] == 4 * count and memory["gradients and Adam"] == 12 * count
    assert memory["teachers"] == 4 * theirs
    assert plan["teachers"][0]["allows_training"] == "yes" and plan["cost_beside_sft"] > 1
    text = "\n".join(lines_of_plan(plan))
    for said in (
        "4 steps of 4 sequences: 2.667 epochs",
        "generated at most 192",
        "answers: 50 % ",
        "time: very roughly",
        " for the evaluation; ",
        "evaluation: 3 models read",
    ):
        assert said in text
    assert not (folder / "run").exists(), "nothing is left behind"


def test_a_student_that_teaches_itself_is_told_with_what_it_reads(folder, unloaded):
    extra = 'settings: {reads: "{completion}{prompt}"}\n'
    plan = planned(config_of(folder, "opsd", teacher=None, extra=extra))
    count = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder / "student").parameters())
    assert (
        plan["memory_bytes"]["the student before the training"] == 4 * count
        and not plan["memory_bytes"]["teachers"]
    )
    prompt, answer = plan["first"]
    assert plan["teacher_reads"] == answer + prompt and plan["tokens"]["teacher"] == plan["tokens"]["student"]
    assert f"before the same answer the teacher reads: {answer + prompt!r}" in lines_of_plan(plan)
    assert planned(config_of(folder, "gkd"))["teacher_reads"] is None


def test_a_sibling_that_is_not_written_yet_keeps_its_place(folder, unloaded):
    extra = 'settings: {reads: "{sibling}|{prompt}", num_generations: 4, reward: shared-beginning}\n'
    plan = planned(config_of(folder, "sdpo", teacher=None, extra=extra))
    assert plan["teacher_reads"] == "{sibling}|" + plan["first"][0]
    assert not [name for name in plan["memory_bytes"] if "reference" in name]


def test_half_the_bytes_and_fewer_parameters(folder, unloaded):
    whole = planned(config_of(folder))
    less = planned(
        config_of(
            folder, teacher="{model: teacher, dtype: bf16}", extra="lora: {rank: 2, targets: [q_proj]}\n"
        )
    )
    assert less["memory_bytes"]["teachers"] * 2 == whole["memory_bytes"]["teachers"]
    # two layers, 16 -> 16: 2 x (16 + 16) each, Adam and gradients 12 bytes
    assert less["memory_bytes"]["gradients and Adam"] == 12 * 2 * 2 * 32


@pytest.mark.parametrize("method", [name for name in recipe_ids() if name not in CLASSIFIERS_ALONE])
def test_every_recipe_is_planned_without_a_weight(folder, unloaded, method):
    """On rows that have every column; what a method needs beyond them is one line with the row's place."""
    tokenizer = letter_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    for name in ("student", "teacher", "second"):
        make_model(vocabulary=len(tokenizer)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    more = {"thoughts": "ab", "domain": "x", "pass_rate": 0.5}
    rows = [{"prompt": f"{a}|", "completion": a, **more, "domain": a} for a in "ab" for _ in range(4)]
    rows += [{**row, "prompt": "c" + row["prompt"]} for row in rows]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (one,) = methods([method])
    teacher = [None, "teacher", "[teacher, second]"][one.teachers]
    steps = {"num_generations": 4} if "num_generations" in one.settings else {}
    extra = f"settings: {json.dumps(steps)}\n" if steps else ""
    plan = planned(config_of(folder, method, teacher=teacher, extra=extra))
    writes = any(word in one.answers for word in ("student's own", "fresh"))
    assert ("generated at most" in plan["tokens"]) == writes
    assert (plan["tokens"]["teacher"] > 0) == one.teacher.startswith(("logits", "itself"))
    assert len(lines_of_plan(plan)) > 8
    if one.columns:
        bare = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
        with pytest.raises(KDError, match=rf'data.jsonl:1: "{one.columns[0]}" must be .*; {method} needs '):
            planned(config_of(folder, method, teacher=teacher, extra=extra))


@pytest.mark.parametrize("method", ["word-kd", "minillm", "thinking-machines-opd"])
def test_a_teacher_of_other_tokens_is_refused_before_a_weight_is_loaded(folder, unloaded, method):
    letter_tokenizer(LETTERS[::-1]).save_pretrained(folder / "teacher")
    with pytest.raises(MethodError, match="id 3 is 'a' for the student and 'z' for the teacher"):
        planned(config_of(folder, method))
    assert planned(config_of(folder, "uld"))["method"] == "uld", "a method for two tokenizers takes it"


@pytest.mark.parametrize(
    ("method", "settings", "wanted"),
    [
        ("minillm", {}, "16 (batch size 4 x 4"),
        ("kdrl", {"num_generations": 4, "reward": "exact-answer"}, None),
    ],
)
def test_too_few_prompts_for_a_generation_are_refused_before_a_weight_is_loaded(
    folder, unloaded, method, settings, wanted
):
    path = config_of(folder, method, extra=f"settings: {json.dumps(settings)}\n")
    if wanted is None:
        assert planned(path)["tokens"]["generated at most"] == 16 * 12
        path.write_text(path.read_text().replace("batch_size: 4", "batch_size: 36"))
        wanted = "9 (batch size 36 x 1"
    with pytest.raises(
        MethodError, match=re.escape(f"8 prompts do not fill one generation batch of {wanted}")
    ):
        planned(path)


def test_methods_side_by_side_at_equal_budget(folder):
    path = config_of(
        folder, extra="settings: {temperature: 2.0}\nevaluate: {rows: 3, answers: 2}\n", steps=12
    )
    found = configs_of([path], ["sft", "word-kd"])
    assert found["sft"].teachers == () and found["word-kd"].settings["temperature"] == 2.0
    assert found["sft"].output == folder / "run" / "sft"
    said = []
    table = compare(found, lambda *_: None, said.append)
    assert {"start", "teacher", "sft", "word-kd"} == set(table["figures"]) and said[0] == "sft:"
    order = [name for name in table["figures"] if name in found]
    assert table["figures"][order[0]]["loss"]["value"] <= table["figures"][order[1]]["loss"]["value"]
    gap = table["beside"]["sft"]["word-kd"]["loss"]["value"]
    values = [table["figures"][name]["loss"]["value"] for name in ("word-kd", "sft")]
    assert gap == pytest.approx(values[0] - values[1], abs=1e-3)
    text = "\n".join(lines_of(table))
    assert "beside sft, intervals that hold together (95.0% each)" in text and "one training each" in text
    assert compare(found, *SILENT) == table, "what is there is not made again"


def test_start_and_teacher_are_measured_once_for_all_methods(folder, monkeypatch):
    asked = []
    measured = evaluation.measure
    monkeypatch.setattr(
        evaluation, "measure", lambda model, *rest, **how: (asked.append(1), measured(model, *rest, **how))[1]
    )
    path = config_of(folder, extra="evaluate: {rows: 3}\n")
    table = compare(configs_of([path], ["sft", "word-kd", "seqkd"]), *SILENT)
    assert len(asked) == 2 + 3, "start, teacher, three students"
    own = [
        json.loads((folder / "run" / name / FILE).read_text())["models"]
        for name in ("sft", "word-kd", "seqkd")
    ]
    assert own[0]["start"] == own[1]["start"] == own[2]["start"] and own[1]["teacher"] == own[2]["teacher"]
    assert set(table["figures"]) == {"start", "teacher", "sft", "word-kd", "seqkd"}
    # another teacher is not taken for this one
    asked.clear()
    two = config_of(folder, name="two", teacher="second", extra="evaluate: {rows: 3}\n")
    one = config_of(folder, name="one", extra="evaluate: {rows: 3}\n")
    compare(configs_of([one, two]), *SILENT)
    assert len(asked) == 1 + 2 + 2, "one start, two teachers, two students"


def test_what_is_not_equal_is_not_compared(folder):
    evaluate = "evaluate: {rows: 3}\n"
    one = config_of(folder, "sft", teacher=None, name="one", extra=evaluate)
    other = config_of(folder, name="other", extra=evaluate, steps=5)
    with pytest.raises(KDError, match="one and other differ in budget"):
        configs_of([one, other])
    with pytest.raises(KDError, match="one and seeded differ in seed"):
        configs_of([one, config_of(folder, name="seeded", extra=evaluate + "seed: 1\n")])
    with pytest.raises(KDError, match="nothing to compare"):
        configs_of([one])
    with pytest.raises(KDError, match=r'ddk: .*:1: "domain" must be text; ddk needs rows with a column'):
        compare(configs_of([other], ["word-kd", "ddk"]), *SILENT)
    assert not (folder / "other").exists(), "no method is trained where another cannot be"


def test_intervals_of_a_league_hold_together():
    """Two comparisons: each interval at 97.5 %, and the same rows for everybody."""
    figures = {
        name: {
            "rows": 3, "answers": 0, "tokens": [1, 1, 1], "clusters": [0, 1, 2], "prompts": [],
            "models": {"start": {"nats": [3.0, 4.0, 5.0], "scores": {}}, "student": {"nats": own, "scores": {}}},
        }
        for name, own in (("a", [3.0, 3.5, 4.0]), ("b", [2.0, 2.4, 3.1]), ("c", [1.0, 1.3, 2.2]))
    }  # fmt: skip
    records = {name: {"steps": 1, "seconds": 1.0, "tokens": {"student": 5}} for name in figures}
    found = league(records, figures)
    assert found["level"] == 0.975 and list(found["figures"]) == ["start", "c", "b", "a"]
    assert found["beside"]["a"]["c"]["loss"]["decided"] is True
    figures["b"]["tokens"] = [1, 1, 2]
    with pytest.raises(KDError, match="a and b were not measured on the same rows"):
        league(records, figures)


def test_progress_without_a_terminal_is_lines(monkeypatch):
    clock, said = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    lines = progress.PlainLines(said.append)
    for step in range(6):
        clock[0] += 4.0
        lines("sft", step, 5, {"loss": 2.3456, "tokens_per_second": 1234.4, "seconds_left": 200.0})
    assert said == [
        f"sft: {step} of 5, loss 2.346, 1,234 tokens/s, about 3 min left" for step in (0, 3, 5)
    ], "at once, every ten seconds, and at the end"
    assert [progress.duration(s) for s in (40, 600, 9000)] == ["40 s", "10 min", "2.5 h"]


def test_the_loss_as_a_picture_and_as_lines():
    history = [{"step": 1, "loss": 4.0, "grad_norm": 1.0}, {"step": 3, "loss": 2.0}, {"step": 5, "loss": 3.0}]
    assert picture_of(history[:1], "x") is None
    picture = picture_of([*history, {"step": 5, "train_runtime": 1.0}], "a < b")
    root = ElementTree.fromstring(picture)
    (line,) = [one for one in root.iter() if one.tag.endswith("polyline")]
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert len(points) == 3 and points[0][1] < points[2][1] < points[1][1], "a smaller loss lies lower"
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2)
    assert [json.loads(text) for text in log_of(history).splitlines()][0] == {
        "step": 1,
        "loss": 4.0,
        "grad_norm": 1.0,
    }


def test_only_a_finished_student_is_pushed(tmp_path, monkeypatch):
    with pytest.raises(KDError, match="no kd-distill.json; run `kd distill` to its end first"):
        push(tmp_path, "org/name")
    (tmp_path / "kd-distill.json").write_text("{}")
    seen = {}

    class Api:
        def create_repo(self, name, **how):
            seen["private"] = how["private"]

        def upload_folder(self, **what):
            seen.update(what)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert push(tmp_path, "org/name") == "https://huggingface.co/org/name"
    assert seen["private"] and "evaluation.json" in seen["ignore_patterns"], "rows of the user's stay at home"


def test_no_config_takes_the_place_of_another_of_its_name(folder):
    one = config_of(folder, name="one")
    (folder / "other").mkdir()
    same = folder / "other" / "one.yaml"
    same.write_text(one.read_text())
    for paths, names, told in (
        ([one, same, config_of(folder, name="two")], [], "one is given twice"),
        ([one], ["sft", "word-kd", "sft"], "sft is given twice"),
        ([one, same], ["sft", "word-kd"], "2 configs with --methods"),
    ):
        with pytest.raises(KDError, match=told):
            configs_of(paths, names)
