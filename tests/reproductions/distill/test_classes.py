"""`kd distill` with `task: classification`: a user's own classifier out of a larger one."""

import csv
import dataclasses
import json
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertConfig

from catalog.errors import CatalogError
from reproductions.distill import training
from reproductions.distill.classes.config import load_classes_config, task_of
from reproductions.distill.classes.data import classes_in, read_labelled
from reproductions.distill.classes.measure import macro_f1
from reproductions.distill.classes.run import distil_classes, summary_of
from reproductions.distill.data.spec import DataSpec
from reproductions.engine.errors import KDError
from tests.methods.conftest import letter_tokenizer, pair_tokenizer
from tools.commands import parser_of
from tools.verbs.own import distill as verb

CLASSES = ["early", "late", "none"]
ROOT = Path(__file__).resolve().parents[3]


def encoder(folder, *, layers, classes=None, seed=0, tokenizer=None):
    torch.manual_seed(seed)
    named = (
        {}
        if classes is None
        else {"id2label": dict(enumerate(classes)), "label2id": {c: n for n, c in enumerate(classes)}}
    )
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=64,
        pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=128, **named,
    )  # fmt: skip
    auto = AutoModel if classes is None else AutoModelForSequenceClassification
    auto.from_config(config).save_pretrained(folder)
    (tokenizer or letter_tokenizer()).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    """Words that begin early or late in the alphabet, or neither; a teacher of 4 layers, an encoder without head."""
    encoder(tmp_path / "teacher", layers=4, classes=CLASSES, seed=1)
    encoder(tmp_path / "plain", layers=2, seed=2)
    draws = random.Random(0)
    with (tmp_path / "words.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["word", "when", "note"])
        for _ in range(240):
            word = "".join(draws.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draws.randint(2, 6)))
            writer.writerow([word, "early" if word[0] < "i" else "late" if word[0] > "r" else "none", "x"])
    return tmp_path


def config_of(
    folder, *, method="word-kd", student="plain", teacher="teacher", steps=4, name="run", extra="", data=None
):
    data = data or "{from: words.csv, columns: {text: word, label: when}}"
    lines = [
        "task: classification",
        f"method: {method}",
        f"student: {student}",
        f"data: {data}",
        f"output: {name}",
        f"budget: {{steps: {steps}, batch_size: 16, learning_rate: 0.003, tokens: 16}}",
        "save_every: 2",
        *([f"teacher: {teacher}"] if teacher else []),
    ]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join([*lines, extra, ""]))
    return path


def made(path, said=None):
    return distil_classes(
        load_classes_config(path), lambda *_: None, (said if said is not None else []).append
    )


def test_a_classifier_learns_from_labels_and_a_smaller_one_from_it(folder):
    """240 words: a classifier is trained, then PKD makes an encoder of half its layers as good, as the table says."""
    large = made(
        config_of(folder, method="sft", student="{model: teacher}", teacher=None, steps=150, name="large")
    )
    assert large["classes"] == CLASSES and large["evaluation"]["student"]["accuracy"]["value"] > 85
    path = config_of(
        folder, method="bert-pkd", student="plain", teacher="large", steps=150, name="small",
        extra="settings: {temperature: 2.0}\nseed: 0",
    )  # fmt: skip
    record = made(path)
    found = record["evaluation"]
    assert found["teacher"]["accuracy"]["value"] > 85
    assert found["student"]["accuracy"]["value"] > found["start"]["accuracy"]["value"] + 10
    assert found["student"]["agreement"]["value"] > 80 and found["teacher"]["agreement"]["value"] == 100
    student = AutoModelForSequenceClassification.from_pretrained(folder / "small")
    assert student.config.num_hidden_layers == 2 and student.config.label2id == {
        "early": 0,
        "late": 1,
        "none": 2,
    }
    tokenizer = AutoTokenizer.from_pretrained(folder / "small")
    with torch.no_grad():
        said = student(**tokenizer(["aaa", "zzz"], return_tensors="pt")).logits.argmax(-1)
    assert [student.config.id2label[int(n)] for n in said] == ["early", "late"]
    text = "\n".join(summary_of(record))
    assert "macro F1" in text and "ms a text" in text
    card = (folder / "small" / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card and "accuracy %" in card and "PKD" in card
    equal = record["rows"].pop("equal_to_evaluated")
    assert record["rows"].pop("evaluation_left_out") == 0
    assert record["rows"] == {
        "read": 240,
        "unreadable": 0,
        "evaluated": 120,
        "trained_on": 120 - equal,
        "cut": 0,
    }


def test_a_student_of_another_tokenizer_gets_a_head_of_the_teachers_classes(folder):
    encoder(folder / "other", layers=2, seed=3, tokenizer=pair_tokenizer())
    record = made(config_of(folder, student="other"))
    student = AutoModelForSequenceClassification.from_pretrained(folder / "run")
    assert [student.config.id2label[n] for n in range(3)] == CLASSES
    assert record["tokens"]["student"] < record["tokens"]["teacher"], (
        "pairs of letters are one token to the student"
    )


def test_three_interrupts_change_nothing(folder, monkeypatch):
    cut = "{model: teacher, layers: 2}"
    straight = made(config_of(folder, steps=7, name="straight", student=cut))
    path = config_of(folder, steps=7, student=cut)
    for stop in (1, 3, 5):
        with monkeypatch.context() as patch:

            class Stopping(training.WatchCallback):
                def on_step_end(self, args, state, control, stop=stop, **kwargs):
                    if state.global_step == stop:
                        raise KeyboardInterrupt

            patch.setattr(training, "WatchCallback", Stopping)
            with pytest.raises(KeyboardInterrupt):
                made(path)
    said = []
    record = made(path, said)
    assert any(sentence == "going on from step 4" for sentence in said)
    assert record["tokens"] == straight["tokens"] and record["steps"] == 7
    one, other = (AutoModelForSequenceClassification.from_pretrained(folder / n) for n in ("run", "straight"))
    assert one.config.num_hidden_layers == 2
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name])
    assert made(path) == record, "what is finished is not made again"


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("tinybert", ""),
        ("minilm", ""),
        ("minilm-v2", "settings: {heads: 4}\n"),
        ("bert-of-theseus", "settings: {until: 0.5}\n"),
        ("pld", ""),
        ("lelp", ""),
    ],
)
def test_a_method_in_phases_makes_a_plain_classifier(folder, method, extra):
    """Inner layers or a hybrid first, predictions or labels then; the student begins as blocks of its teacher."""
    student = "{model: teacher, layers: 2}"
    record = made(config_of(folder, method=method, student=student, steps=8, name="tiny", extra=extra))
    assert record["steps"] == 8 and record["tokens"]["teacher"] > 0
    made_student = AutoModelForSequenceClassification.from_pretrained(folder / "tiny")
    assert made_student.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"method": "tinybert", "extra": "settings: {inner: 1.0}\n"},
            "a phase from 1 to 1 of the training is none",
        ),
        (
            {"method": "tinybert", "extra": "settings: {soft_weight: 0.0}\n"},
            "none of its terms is about the classes",
        ),
    ],
)
def test_a_head_that_nothing_would_teach_is_refused_before_a_model_is_read(folder, given, said):
    with pytest.raises(CatalogError, match=said):
        load_classes_config(config_of(folder, student="{model: teacher, layers: 2}", **given))


def test_a_student_of_one_class_is_warned_of(folder, monkeypatch):
    """Whatever its accuracy: of labels that are nearly all alike it may be high."""

    def said(*classes):
        """What is told of a run whose models say these classes in turn."""
        rows = torch.nn.functional.one_hot(torch.tensor(classes), 3).float()

        def logits_of(model, batches):
            return (rows[torch.arange(len(batch["input_ids"])) % len(rows)] for batch in batches)

        monkeypatch.setattr("reproductions.distill.classes.measure.logits_of", logits_of)
        return summary_of(made(config_of(folder, name=f"says-{len(classes)}")))

    assert any("one class of every held-out text" in line for line in said(1))
    assert not any("one class of every held-out text" in line for line in said(1, 2))


def test_the_verb_knows_the_task(folder, capsys):
    path = config_of(folder)
    assert task_of(path) == "classification"
    assert verb.main(parser_of("distill").parse_args([str(path)])) == 0
    out = capsys.readouterr().out
    assert "accuracy %" in out and f"classifier and tokenizer: {folder / 'run'}" in out
    assert verb.main(parser_of("distill").parse_args([str(path), "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "classification"


def examples():
    """Whatever the pages show of classifiers."""
    pages = [ROOT / "README.md", ROOT / "reproductions" / "distill" / "DISTIL.md"]
    found = [
        block for page in pages for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    return [block for block in found if "task: classification" in block]


@pytest.mark.parametrize("block", examples(), ids=["README", "page"])
def test_the_examples_work_from_a_fresh_folder(tmp_path, block):
    encoder(tmp_path / "my-reviews", layers=4, classes=["1", "5"])
    rows = [
        "review,stars",
        *(f"{word}{letter},{n}" for word, n in (("good", 5), ("bad", 1)) for letter in "abcdefgh"),
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "my-run.yaml").write_text(block)
    config = load_classes_config(tmp_path / "my-run.yaml")
    few = dataclasses.replace(config, budget={**config.budget, "steps": 2})
    assert distil_classes(few, lambda *_: None, lambda _: None)["steps"] == 2
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "my-small-reviews")
    assert student.config.num_hidden_layers == 2


def test_a_plan_reads_no_weights(folder, capsys):
    (folder / "teacher" / "model.safetensors").unlink()
    path = config_of(folder, student="{model: teacher, layers: 2}", steps=100)
    assert verb.main(parser_of("distill").parse_args([str(path), "--plan"])) == 0
    out = capsys.readouterr().out
    assert "classes: early " in out and "100 steps of 16 texts" in out
    assert verb.main(parser_of("distill").parse_args([str(path), "--plan", "--json"])) == 0
    found = json.loads(capsys.readouterr().out)
    sizes = found["parameters"]
    assert (
        sizes["student"] < sizes["teachers"][0]
        and sum(found["classes"].values()) == found["rows"]["trained_on"]
    )
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        ({"method": "gkd"}, 2, "gkd is not for classes: its student learns from what is written"),
        ({"method": "ted"}, 2, "its filters learn from next tokens first"),
        ({"method": "minillm"}, 2, "its trainer, minillm"),
        ({"method": "word-kdd"}, 2, 'no method "word-kdd" (did you mean "word-kd"'),
        ({"teacher": "teachr"}, 8, 'no folder'),
        ({"extra": "evaluate: {row: 3}"}, 9, 'unknown "row" (did you mean "rows"'),
        ({"extra": "evaluate: true"}, 9, '"evaluate" must be a mapping such as {rows: 200}'),
        ({"extra": "accept_teacher_terms: yes please"}, 9, '"accept_teacher_terms" must be true or false'),
        ({"extra": "teacher_terms: 3"}, 9, '"teacher_terms" must be the name of an entry'),
        ({"extra": "lora: {}"}, 9, 'unknown field "lora"'),
        ({"extra": "precision: fp8"}, 9, 'precision "fp8"'),
        ({"data": "{from: words.csv, columns: {text: wrd, label: when}}"}, 4, 'no column "wrd" (did you mean "word"'),
        ({"data": "{from: words.csv, columns: {texts: word}}"}, 4, '"texts" is not read'),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_line(folder, change, line, said):
    with pytest.raises(CatalogError) as error:
        made(config_of(folder, **change))
    assert error.value.line == line and said in str(error.value)


@pytest.mark.parametrize("whose", ["teacher", "plain"])
def test_texts_longer_than_a_model_has_positions_for(folder, whose):
    """They were cut at the limit that the config gives, and the first long one ended a training in an IndexError."""
    path = config_of(
        folder, method="sft" if whose == "plain" else "word-kd", teacher="" if whose == "plain" else "teacher"
    )
    path.write_text(path.read_text().replace("tokens: 16", "tokens: 256"))
    with pytest.raises(
        CatalogError, match=rf"run.yaml:6: budget: .* 256 tokens, and .*{whose} has positions for 128"
    ):
        made(path)


def test_another_task_is_none(folder):
    path = config_of(folder)
    path.write_text(path.read_text().replace("classification", "clasification"))
    with pytest.raises(CatalogError, match='no task "clasification"'):
        task_of(path)


def test_labels_that_the_teacher_does_not_know_are_told_with_their_place(folder):
    with (folder / "words.csv").open("a") as file:
        file.write("word,lat,x\n")
    with pytest.raises(KDError, match=r'words.csv:242: no class "lat" \(did you mean "late"'):
        made(config_of(folder))


@pytest.mark.parametrize(("row", "why"), [("   ,early,x", "is no text"), ("word,,x", "is no label")])
def test_rows_that_cannot_be_read_are_refused_or_counted(folder, row, why):
    with (folder / "words.csv").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(KDError, match=f"words.csv:242: .*{why}"):
        made(config_of(folder))
    skipped = "{from: words.csv, columns: {text: word, label: when}, bad_rows: skip}"
    record = made(config_of(folder, data=skipped))
    assert sum(record["bad_rows"].values()) == record["rows"]["unreadable"] == 1


def test_rows_of_the_evaluation_that_cannot_be_read_are_counted(folder):
    (folder / "held.csv").write_text("word,when\naaa,early\nzzz,late\n,late\nppp,\n")
    skipped = "{from: words.csv, columns: {text: word, label: when}, bad_rows: skip}"
    record = made(config_of(folder, data=skipped, extra="evaluate: {data: held.csv}"))
    assert record["rows"]["evaluated"] == record["rows"]["evaluation_left_out"] == 2
    assert "2 of the evaluation's own left out" in "\n".join(summary_of(record))


def test_texts_that_are_cut_are_told_for_each_who_reads_them(folder):
    encoder(folder / "other", layers=2, seed=3, tokenizer=pair_tokenizer())
    path, said = config_of(folder, student="other"), []
    path.write_text(path.read_text().replace("tokens: 16", "tokens: 5"))
    record = made(path, said)
    cuts = [sentence for sentence in said if "are cut for" in sentence]
    assert [cut.rpartition("cut for ")[2] for cut in cuts] == ["the student", "teacher 1"]
    assert record["rows"]["cut"] == int(cuts[0].split()[1]) < int(cuts[1].split()[1])


def test_no_text_of_the_evaluation_is_trained_on(folder):
    with (folder / "words.csv").open("a") as file:
        file.write("twice,none,x\n" * 40)
    record = made(config_of(folder))
    rows = record["rows"]
    assert (
        rows["equal_to_evaluated"] > 5
        and rows["trained_on"] + rows["evaluated"] + rows["equal_to_evaluated"] == 280
    )
    assert record["told"]["repeated rows"] >= 39


def test_a_text_with_several_labels_is_counted_and_numbers_are_classes(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in (("a", 10), ("a", 2), ("b", 2)))
    )
    rows = read_labelled(DataSpec(tmp_path / "rows.jsonl"), KDError)
    assert rows.told["texts with several labels"] == 1 and classes_in(rows) == ["2", "10"]


def test_macro_f1_by_hand():
    """Class 0: precision 1/2, recall 1; class 1: precision 1, recall 1/2; class 2 neither said nor right."""
    assert macro_f1([0, 0, 1], [0, 1, 1]) == pytest.approx(100 * (2 / 3 + 2 / 3) / 2)
    assert macro_f1([2, 0], [0, 0]) == pytest.approx(100 * (2 / 3 + 0) / 2)
