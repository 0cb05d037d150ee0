"""What runs have of their teachers once and for all: the same figures with it and without, within a bound on disk."""

import pytest
import torch

from methods.recipe import canonical_method
from reproductions.engine.work import surroundings
from reproductions.engine.work.artifacts import Artifacts
from reproductions.engine.work.surroundings import train
from reproductions.metrics.decoding.decoder import TeacherSide
from tests.reproductions.short import SHORT, load_short

TRAINING = {**SHORT, "max_steps": 6, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def testbed():
    return load_short("pronunciation", test_words=20)


def weights(run):
    return torch.cat([p.detach().flatten() for p in train(run).parameters()])


def kinds(run):
    return [entry["kind"] for entry in run.shared.used.values()]


def test_a_teachers_answers_are_drawn_once_for_all_arms_of_a_seed(testbed, trial, monkeypatch):
    run = trial(testbed)
    model = testbed.sft_start(run)
    first = testbed.evaluate(model, run)
    assert kinds(run).count("teacher-answers") == 1
    drawn = []
    draw = TeacherSide._draw
    monkeypatch.setattr(TeacherSide, "_draw", lambda side, asked: drawn.append(1) or draw(side, asked))
    monkeypatch.setattr(testbed, "_known", {})  # as in another process
    again = trial(testbed)
    assert testbed.evaluate(model, again) == first and not drawn
    assert kinds(again).count("teacher-answers") == 1, "the record does not say that it was used"
    other = trial(testbed, seed=2)
    assert testbed.evaluate(model, other)["kl_teacher_contexts"] != first["kl_teacher_contexts"] and drawn
    folder = next(run.artifacts.root.glob("teacher-answers-*"))
    rows, tokens = 20, testbed.max_completion_tokens
    assert sum(file.stat().st_size for file in folder.iterdir()) < rows * tokens * 9 + 3000


def test_a_teachers_states_are_computed_once_and_change_nothing(testbed, trial, monkeypatch):
    made = {"method": fixed_data(), "training": TRAINING}
    first, second = trial(testbed, **made), trial(testbed, **made)
    with_table = weights(first)
    assert "teacher-states" in kinds(first)
    asked = []
    monkeypatch.setattr(
        "methods.teachers.remembered.hidden_states", lambda *a: asked.append(1) or pytest.fail("asked again")
    )
    assert torch.equal(weights(second), with_table)
    table = next(first.artifacts.root.glob("teacher-states-*"))
    hidden = testbed.spec["teachers"]["main"]["shape"]["hidden"]
    tokens = sum(len(text.split()) + 1 for text in testbed.train["completion"])
    assert (table / "tensors.safetensors").stat().st_size <= 4 * hidden * tokens + 24 * 64 + 1000
    monkeypatch.setattr(surroundings, "LARGEST_TABLE", 0)
    without = trial(testbed, **made)
    start = torch.cat([p.detach().flatten() for p in testbed.sft_start(without).parameters()])
    plain = weights(without)
    assert "teacher-states" not in kinds(without)
    assert (plain - with_table).norm() < 1e-4 * (plain - start).norm()
    assert without.budget.tokens() == first.budget.tokens(), "what the teacher reads counts either way"


def fixed_data():
    """Word-level KD, which asks the teacher about the data's own rows."""
    return canonical_method({"teacher": "main", "terms": [{"divergence": "forward_kl"}]})


def test_rows_that_a_run_writes_itself_are_not_kept(testbed, trial):
    terms = [{"divergence": "reverse_kl"}]
    method = canonical_method({"teacher": "main", "sampler": "on-policy", "terms": terms})
    run = trial(testbed, method=method, training=TRAINING)
    weights(run)
    assert "teacher-states" not in kinds(run)


def test_of_a_kind_the_oldest_go_first(tmp_path):
    artifacts = Artifacts(tmp_path)
    folders = []
    for n in range(4):
        folder, _ = artifacts.obtain(
            "table", {"n": n}, lambda folder: (folder / "data").write_bytes(b"x" * 1000) and None
        )
        folders.append(folder)
    other, _ = artifacts.obtain("model", {}, lambda folder: (folder / "data").write_bytes(b"x") and None)
    artifacts.prune("table", 2500, keep=folders[0])
    assert [folder.exists() for folder in folders] == [True, False, False, True] and other.exists()
    again, _ = artifacts.obtain(
        "table", {"n": 1}, lambda folder: (folder / "data").write_text("new") and None
    )
    assert (again / "data").read_text() == "new"
