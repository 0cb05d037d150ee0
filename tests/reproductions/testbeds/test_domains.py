"""The four domains and the teachers of more sizes: rows, splits, cache keys."""

import pytest

from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.engine.run import make_run
from reproductions.testbeds import load_testbed, pronunciation
from reproductions.testbeds.domains import DOMAINS, PronunciationDomains, by_domain
from reproductions.testbeds.more_teachers import SHAPES, PronunciationSizes
from reproductions.testbeds.pronunciation import load


@pytest.fixture(scope="module")
def domains():
    return load(PronunciationDomains)


def test_a_domain_says_what_is_asked(domains):
    rows = {name: part[0] for name, part in by_domain(domains._rows(["cat"] * 4)).items()}
    assert rows["say"]["prompt"] == "<say> c a t |" and rows["say"]["completion"] == " K AE1 T"
    assert rows["say-backwards"]["completion"] == " T AE1 K"
    assert rows["spell"]["prompt"] == "<spell> K AE1 T |" and rows["spell"]["completion"] == " c a t"
    assert rows["spell-backwards"]["completion"] == " t a c"


def test_domains_are_balanced_and_fit(domains):
    assert [len(s) for s in (domains.train, domains.validation, domains.test)] == [24_000, 500, 600]
    for split in (domains.train, domains.validation, domains.test):
        sizes = {len(part) for part in by_domain(split).values()}
        assert len(sizes) == 1 and len(by_domain(split)) == len(DOMAINS)
        prompts, answers = (domains.tokenizer(list(split[c]))["input_ids"] for c in ("prompt", "completion"))
        assert max(map(len, prompts)) <= domains.max_prompt_tokens
        assert max(map(len, answers)) < domains.max_completion_tokens
        pad = domains.tokenizer.pad_token_id
        assert not any(pad in ids for ids in (*prompts, *answers)), "a token is not in the vocabulary"


def test_it_is_another_testbed(domains):
    plain = load_testbed("pronunciation")
    assert domains.name != plain.name and domains.revision != plain.revision
    assert set(domains.tokenizer.get_vocab()) - set(plain.tokenizer.get_vocab()) == {
        f"<{n}>" for n in DOMAINS
    }


def test_teachers_of_everybody_keep_their_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(pronunciation, "TEACHER_TRAINING", {"max_steps": 1, "per_device_train_batch_size": 2})
    bed = load(PronunciationSizes)
    bed.teacher_train = bed.train = bed.validation
    scale = Scale("pronunciation-sizes", (0, 1), {"curve_points": 0})
    arm = Arm("teacher", lambda run: run.testbed.teacher(run), "baseline")
    experiment = Experiment("trial", "a trial", {"a": arm}, {"tiny": scale}, ("rouge_l",))
    run = make_run(experiment, "a", 1, "tiny", testbed=bed, cache=tmp_path)
    folders = []
    for size in ("medium", "matched", "student"):
        model = bed.teacher(run, size)
        assert model.config.hidden_size == SHAPES[size]["hidden"]
        assert not any(p.requires_grad for p in model.parameters())
        folders.append(list(run.shared)[-1])
    plain = load()
    plain.teacher_train = plain.train = bed.validation
    other = make_run(experiment, "a", 1, "tiny", testbed=plain, cache=tmp_path)
    plain.teacher(other)
    assert list(other.shared) == folders[:1], "the medium teacher is the one that is there"
    few = bed.validation.select(range(50))
    training = {"max_steps": 1, "per_device_train_batch_size": 2}
    bed.corpus_teacher(run, few, shape="medium", seed=1, training=training)
    assert len(set(run.shared)) == 4
