"""Two papers with the same baseline train it once; anything that could change a figure makes another run."""

from dataclasses import replace
from functools import partial

from reproductions import arms
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.engine.sharing import find, keep, shared_key
from reproductions.settings import tiny

SETUP = {
    "data_revision": "abc",
    "metrics": {"rouge_l": {}},
    "environment": {"torch": "2.13.0", "device": "cpu", "threads": 1},
}


def paper(name, train, *, rate=4e-3, testbed="pronunciation", title="an arm", **settings):
    scale = Scale(testbed, seeds=(0, 1), settings=tiny({"arm": rate}, **settings))
    return Experiment(name, name, {"arm": Arm(title, train, "baseline")}, {"tiny": scale}, ("rouge_l",))


def key(experiment, seed=0, setup=SETUP):
    return shared_key(experiment, "tiny", "arm", seed, setup)


def test_the_same_baseline_has_one_key_in_every_paper():
    one = paper("one", partial(arms.divergence, name="forward_kl"))
    other = paper("other", partial(arms.divergence, name="forward_kl"), title="KD", replay={"start": 0.1})
    assert key(one) is not None and key(one) == key(other)


def test_whatever_changes_a_figure_changes_the_key(monkeypatch):
    train = partial(arms.divergence, name="forward_kl")
    first = paper("one", train)
    keys = [
        key(first),
        key(paper("one", partial(arms.divergence, name="reverse_kl"))),
        key(paper("one", train, rate=2e-3)),
        key(paper("one", train, testbed="pronunciation-risks")),
        key(paper("one", train, training={"max_steps": 1})),
        key(paper("one", arms.sft)),
        key(first, seed=1),
        key(first, setup={**SETUP, "data_revision": "abd"}),
        key(first, setup={**SETUP, "metrics": {}}),
        key(first, setup={**SETUP, "environment": {"torch": "2.14.0"}}),
        key(replace(first, method_version=2)),
    ]
    monkeypatch.setattr(arms, "VERSION", arms.VERSION + 1)
    keys.append(key(first))
    assert None not in keys and len(set(keys)) == len(keys)


def test_an_arm_of_a_paper_s_own_is_not_shared():
    assert key(paper("one", lambda run: None)) is None
    assert key(paper("one", partial(arms.divergence, name=object()))) is None


def test_a_kept_run_is_found_with_the_paper_it_was_made_for(tmp_path):
    keep(tmp_path, "0123", "one", {"arm": "sft", "seed": 0})
    keep(tmp_path, "0123", "two", {"arm": "sft", "seed": 0})
    assert find(tmp_path, "0123") == {"arm": "sft", "seed": 0, "made_for": "one"}
    assert find(tmp_path, "4567") is None and find(tmp_path, None) is None
    (tmp_path / "runs" / "shared" / "4567.json").write_text("{")
    assert find(tmp_path, "4567") is None
