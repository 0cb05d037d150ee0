"""Who teaches and who learns: what each is made of, and when two testbeds share it."""

import pytest
import torch

from reproductions.engine.errors import KDError
from reproductions.testbeds import changed, load_testbed, read_testbed
from reproductions.testbeds import testbed as testbeds
from tests.reproductions.short import SHORT, load_short, short

SHORTER = {"max_steps": 1, "per_device_train_batch_size": 2}


def folder_of(testbed, trial, make, **settings):
    """The name in the cache of what `make(run)` asks for first; nothing is made."""
    run = trial(testbed, **settings)

    class Asked(Exception):
        pass

    def obtain(kind, key, build, waiting=None):
        raise Asked(run.artifacts.path(kind, key).name)

    run.artifacts.obtain = obtain
    with pytest.raises(Asked) as asked:
        make(run)
    return str(asked.value)


START = read_testbed("pronunciation")["defaults"]["sft_start"]


@pytest.mark.parametrize(
    ("name", "teacher", "folder"),
    [
        ("pronunciation", "main", "teacher-ae689a0099bbe57e"),
        ("pronunciation", "small", "teacher-08e5fe12de6f8de2"),
        ("pronunciation", "large", "teacher-3fc2097777e07377"),
        ("pronunciation-domains", "main", "teacher-9476e35578caba01"),
        ("pronunciation-sizes", "matched", "teacher-21f7368e8cd8a8aa"),
        ("pronunciation-fidelity", "untuned", "teacher-47888f0fcc147fab"),
        ("pronunciation-tokenizers", "other", "teacher-other-tokens-1160b661aa203945"),
        ("pronunciation-sizes", "student-sized", "teacher-ac66ce944aa0b3e5"),
        ("pronunciation-corpus", "six", "teacher-34a51c3783536233"),
        ("pronunciation-corpus", "twelve", "teacher-dc3da8cf9e0dd901"),
    ],
)
def test_names_in_the_cache_stay(name, teacher, folder, trial):
    """Another name makes every teacher again, on every machine."""
    testbed = load_testbed(name)
    assert folder_of(testbed, trial, lambda run: testbed.teacher(run, teacher)) == folder


@pytest.mark.parametrize(
    ("name", "size", "folder"),
    [
        ("pronunciation", "main", "sft-start-89fb6bcc8db59256"),
        ("pronunciation-fidelity", "large", "sft-start-9d119f95acaf6aae"),
    ],
)
def test_names_of_starts_stay(name, size, folder, trial):
    testbed = load_testbed(name)
    assert folder_of(testbed, trial, lambda run: testbed.sft_start(run, size), sft_start=START) == folder


FAMILY = ("risks", "beams", "drafting", "sizes", "fidelity", "hacking", "tokenizers")


@pytest.mark.parametrize("variant", FAMILY)
def test_variants_share_teachers_and_starts(variant, trial):
    plain, other = load_testbed("pronunciation"), load_testbed(f"pronunciation-{variant}")
    for make in (
        lambda testbed: lambda run: testbed.teacher(run),
        lambda testbed: lambda run: testbed.teacher(run, "large"),
        lambda testbed: lambda run: testbed.sft_start(run),
    ):
        assert folder_of(plain, trial, make(plain)) == folder_of(other, trial, make(other))


def test_what_is_trained_on_other_rows_is_another(trial):
    """Fewer words in the file: neither teachers nor starts may come from the cache of the whole."""
    plain = load_testbed("pronunciation")
    fewer = load_testbed(changed(read_testbed("pronunciation"), {"task": {"train_words": 6_000}}))
    standard = load_testbed(changed(read_testbed("pronunciation"), {"task": {"train_words": 12_000}}))
    rows = load_testbed(changed(read_testbed("pronunciation"), {"teachers": {"main": {"rows": "train"}}}))
    start = [folder_of(t, trial, t.sft_start) for t in (plain, fewer, standard)]
    assert start[0] != start[1]
    teacher = [folder_of(t, trial, t.teacher) for t in (plain, fewer, standard, rows)]
    assert len(set(teacher)) == 4 - 1 and teacher[0] == teacher[2]
    assert start[0] == folder_of(standard, trial, standard.sft_start)


def test_teachers_differ_by_what_they_say_and_by_nothing_else(trial):
    testbed = load_short("pronunciation-sizes")
    run = trial(testbed)
    widths = {"main": 96, "small": 64, "large": 160, "matched": 80, "student-sized": 48}
    for name, width in widths.items():
        model = testbed.teacher(run, name)
        assert model.config.hidden_size == width
        assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert len(run.shared.used) == len(widths)
    testbed.teacher(run, "small", {"learning_rate": 2e-3})
    assert len(run.shared.used) == len(widths) + 1


def test_a_teacher_may_see_no_more_than_the_first_rows(trial):
    testbed = load_short("pronunciation-corpus", training=SHORTER)
    run = trial(testbed)
    six, twelve = (testbed.teacher(run, name) for name in ("six", "twelve"))
    assert (six.config.hidden_size, twelve.config.hidden_size) == (96, 144)
    keys = [item["key"] for item in run.shared.used.values()]
    assert [(key["words"], key["seed"]) for key in keys] == [(30, 1), (30, 2)]
    rows = testbed.models._rows(testbed.spec["teachers"]["six"], "train", run)
    assert rows["prompt"][:] == testbed.train["prompt"][:30]


def test_a_second_hand_teacher_learns_what_another_wrote(trial, stops):
    testbed = load_short("pronunciation-hacking")
    run = trial(testbed)
    tree = testbed.spec["teachers"]["imperfect"]
    rows = testbed.models._rows(tree, "train", run)
    assert 0 < len(rows) <= 20 and set(rows["prompt"]) <= set(testbed.train["prompt"][-20:])
    key = testbed.teacher_key(run, "imperfect")
    assert key["answers"]["of"] == testbed.teacher_key(run)
    better = load_testbed(changed(testbed.spec, {"teachers": {"main": {"training": {"max_steps": 3}}}}))
    assert better.teacher_key(run, "imperfect") != key, "a teacher of another oracle is another"


def test_students_differ_by_seed_and_size_only(trial):
    testbed = load_short("pronunciation-fidelity")
    run = trial(testbed)
    torch.manual_seed(3)
    first = testbed.student(run).state_dict()
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
    again = testbed.student(run).state_dict()
    run.seed = 2
    other = testbed.student(run).state_dict()
    name = "model.embed_tokens.weight"
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first[name], other[name])
    small, large = testbed.sft_start(run), testbed.sft_start(run, "large")
    assert [testbed.models.size_of(model) for model in (small, large)] == ["main", "large"]
    assert testbed.models.size_of(testbed.teacher(run)) == "main"
    assert large.num_parameters() > 2 * small.num_parameters()


def test_students_from_scratch_need_a_start_and_unknown_models_name_the_nearest(trial):
    testbed = load_short("pronunciation")
    run = trial(testbed, sft_start=None)
    with pytest.raises(KDError, match="need sft_start"):
        testbed.sft_start(run)
    with pytest.raises(KDError, match='no teacher "larg" .did you mean "large"'):
        testbed.teacher(run, "larg")
    with pytest.raises(KDError, match='no student "tiny"; it has main'):
        testbed.student(run, "tiny")


def test_a_published_teacher_without_training_is_as_it_was_published(mirrors, trial):
    testbed = load_testbed(short("ultrachat"))
    run = trial(testbed)
    assert testbed.teacher(run).config.hidden_size == 32 and not run.shared.used
    assert testbed.teacher_key(run) == {"model": "stabilityai/stablelm-zephyr-3b"}
    trained = load_testbed(short("ultrachat", {"teachers": {"main": {"training": SHORT}}}))
    assert trained.teacher_key(run)["training"] == SHORT


def drawn(**own):
    spec = read_testbed("pronunciation")
    return changed(spec, {"teachers": {"main": {"draws": 3, **own}}})


def test_a_run_learns_from_the_draw_of_its_seed(trial):
    testbed = testbeds.Testbed(drawn())
    folders = []
    for seed in range(4):
        run = trial(testbed, seed=seed)
        assert testbed.teacher_key(run)["seed"] == seed % 3
        # What is made on the way, with a seed of its own, is made from the draw of the run that asks for it.
        assert testbed.teacher_key(run.apart(0)) == testbed.teacher_key(run)
        folders.append(testbed.models.draws(run))
    assert folders == [{"main": 0}, {"main": 1}, {"main": 2}, {"main": 0}]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"draws": 0}, "whole number"),
        ({"draws": "five"}, "whole number"),
        ({"draws": 2, "seed": 1}, "take the place"),
    ],
)
def test_draws_are_checked(own, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "about: x\ntask: {name: pronunciation}\ndecoding: {batch: 8}\n"
        "students: {main: {shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}}}\n"
        "metrics: {answers: {greedy: [exact_match]}}\nteachers:\n  main: "
        + str(
            {
                "shape": {"layers": 1, "hidden": 8, "heads": 1, "intermediate": 8},
                "training": {"max_steps": 1},
                **own,
            }
        )
    )
    with pytest.raises(KDError, match=rf"mine.yaml:\d+.*{message}"):
        read_testbed("mine", tmp_path)


def test_a_base_is_made_once_and_every_seed_starts_from_it(trial):
    testbed = load_short("navigate", {"gate": None})
    runs = [trial(testbed, seed=seed) for seed in (1, 2)]
    one, other = (testbed.student(run).state_dict() for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [item["kind"] for item in runs[0].shared.used.values()] == ["base"]
    assert runs[0].shared.used == runs[1].shared.used
    plain = load_short("navigate", {"gate": None, "students": {"main": {"base": None}}})
    fresh = plain.student(trial(plain)).state_dict()
    assert any(not torch.equal(one[name], fresh[name]) for name in one)
    starts = [testbed.sft_start(run).state_dict() for run in runs]  # its seed is the run's again
    assert any(not torch.equal(starts[0][name], starts[1][name]) for name in one)


def test_what_a_base_was_trained_on_is_part_of_its_start(trial):
    testbed = load_short("navigate", {"gate": None})
    other = load_short("navigate", {"gate": None, "students": {"main": {"base": {"seed": 1}}}})
    longer = {"training": {**SHORT, "max_steps": 3}}
    third = load_short("navigate", {"gate": None, "students": {"main": {"base": longer}}})
    keys = [one.models.student_key() for one in (testbed, other, third)]
    assert keys[0] != keys[1] != keys[2] != keys[0]
    assert "base" not in load_testbed("pronunciation").models.student_key()


def test_an_oracle_is_the_tasks_own_and_is_kept_by_its_settings(trial):
    testbed = load_short("navigate", {"gate": None})
    run = trial(testbed)
    oracle, astray = (testbed.teacher(run, name) for name in ("main", "astray"))
    assert not oracle.training and not any(p.requires_grad for p in oracle.parameters())
    assert run.shared.used == {}
    assert testbed.teacher_key(run, "astray") == {"oracle": {"slip": 0.3, "uniform": 0.0}}
    prompt = torch.tensor([testbed.tokenizer(testbed.test["prompt"][0])["input_ids"]])
    said = [model(prompt).logits[0, -1].exp() for model in (oracle, astray)]
    assert said[0].sum() == pytest.approx(1, abs=1e-5) and said[1].sum() == pytest.approx(1, abs=1e-5)
    assert said[0].min() == pytest.approx(0.001 / len(testbed.tokenizer)) and said[1].min() < 1e-20
