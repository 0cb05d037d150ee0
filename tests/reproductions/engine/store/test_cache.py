import json
import os

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.store.arm import arm_of, digest_of, same_figures
from reproductions.engine.store.cache import add_measures, forget_run, keep_run, read_run, why_not

from .made import METRICS, levels, made_run

KEY = "0123456789abcdef"
MADE_WITH = {
    "python": "3.11.7",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "trl": "1.16.0",
    "datasets": "5.2.0",
    "device_type": "cpu",
    "data_revision": "revision-1",
    "fingerprints": {"divergence/forward-kl": "ab12", "trainer/distillation": "cd34"},
    "cpu": "some",
}


def keep(root, seed=0, made_with=MADE_WITH, errors=None, **changes):
    run = made_run(seed, errors or levels(0.98)[0])
    record = {
        **{
            name: getattr(run, name) for name in ("seed", "metrics", "curve", "seconds", "tokens", "rollouts")
        },
        "examples": {name: column.tolist() for name, column in run.columns.items()},
        "shared": {"teacher-1": {"kind": "teacher", "seconds": 2.0}},
    }
    return keep_run(
        root,
        KEY,
        {**record, **changes},
        made_with=made_with,
        metrics=METRICS,
        started="then",
        finished="later",
    )


def test_a_finished_run_comes_back_as_it_was(tmp_path):
    assert read_run(tmp_path, KEY, 0, MADE_WITH) is None and why_not(tmp_path, KEY, 0, MADE_WITH) is None
    keep(tmp_path)
    found = read_run(tmp_path, KEY, 0, MADE_WITH)
    assert same_figures(found, made_run(0, levels(0.98)[0])) and found.digest == digest_of(found)
    assert (found.started, found.finished, found.made_with) == ("then", "later", MADE_WITH)
    assert found.shared == {"teacher-1": {"kind": "teacher", "seconds": 2.0}} and found.definitions == METRICS
    assert arm_of(KEY, {"spec": 1}, "line", [found]).data_revision == "revision-1"
    assert read_run(tmp_path, KEY, 1, MADE_WITH) is None and read_run(tmp_path, "other", 0, MADE_WITH) is None
    assert why_not(tmp_path, KEY, 0, MADE_WITH) is None


HOW = {"error": "aaaa", "accuracy": "bbbb", "ece": "cccc"}
STUDENT = "5" * 64


def only(*names):
    """A record of a run with these metrics alone."""
    metrics = {name: METRICS[name] for name in names}
    run = made_run(0, levels(0.98)[0], metrics=metrics)
    record = {
        name: getattr(run, name) for name in ("seed", "metrics", "curve", "seconds", "tokens", "rollouts")
    }
    examples = {name: column.tolist() for name, column in run.columns.items()}
    return record | {"examples": examples, "shared": {}, "student": STUDENT}


def test_metrics_are_added_to_a_kept_run_and_those_measured_otherwise_do_not_count(tmp_path):
    about = {"made_with": MADE_WITH, "metrics": METRICS, "how": HOW, "testbed": "line"}
    keep_run(tmp_path, KEY, only("error"), started="then", finished="later", **about)
    add_measures(tmp_path, KEY, only("error", "accuracy"), date="much later", **about)
    found = read_run(tmp_path, KEY, 0, MADE_WITH, how=HOW, testbed="line")
    assert set(found.metrics) == {"error", "accuracy"} and found.digest == digest_of(found)
    assert [(part["metrics"], part["date"]) for part in found.made] == [
        ({"error": "aaaa"}, "later"),
        ({"accuracy": "bbbb"}, "much later"),
    ]
    assert (found.started, found.finished) == ("then", "later")
    otherwise = read_run(tmp_path, KEY, 0, MADE_WITH, how={**HOW, "error": "dddd"}, testbed="line")
    assert set(otherwise.metrics) == set(otherwise.columns) - {"correct"} | {"accuracy"}
    assert [part["metrics"] for part in otherwise.made] == [{"accuracy": "bbbb"}]
    assert read_run(tmp_path, KEY, 0, MADE_WITH, how=HOW, testbed="another") is None
    with pytest.raises(KDError, match="metrics of another student cannot be added"):
        add_measures(tmp_path, KEY, {**only("ece"), "student": "6" * 64}, date="then", **about)
    with pytest.raises(KDError, match="nothing is kept that metrics could be added to"):
        add_measures(tmp_path, KEY, {**only("ece"), "seed": 1}, date="then", **about)


@pytest.mark.parametrize(
    "change, why",
    [
        ({"torch": "2.14.0"}, "torch 2.13.0, now 2.14.0"),
        ({"device_type": "cuda"}, "device_type cpu, now cuda"),
        ({"data_revision": "revision-2"}, "data_revision revision-1, now revision-2"),
        (
            {"fingerprints": {"divergence/forward-kl": "ff99", "trainer/distillation": "cd34"}},
            "other fingerprints: divergence/forward-kl",
        ),
        ({"fingerprints": {"divergence/forward-kl": "ab12"}}, "other fingerprints: trainer/distillation"),
    ],
)
def test_a_run_made_under_another_environment_is_made_again_and_both_are_kept(tmp_path, change, why):
    keep(tmp_path)
    now = {**MADE_WITH, **change}
    assert read_run(tmp_path, KEY, 0, now) is None and why_not(tmp_path, KEY, 0, now) == why
    keep(tmp_path, made_with=now, errors=levels(1.1)[0])
    assert read_run(tmp_path, KEY, 0, now).metrics != read_run(tmp_path, KEY, 0, MADE_WITH).metrics
    forget_run(tmp_path, KEY, 0)
    assert read_run(tmp_path, KEY, 0, now) is None and read_run(tmp_path, KEY, 0, MADE_WITH) is None


def test_what_decides_no_figure_makes_no_difference_and_unknown_fields_may_be_anything(tmp_path):
    keep(tmp_path)
    assert read_run(tmp_path, KEY, 0, {**MADE_WITH, "cpu": "another"}) is not None
    assert read_run(tmp_path, KEY, 0, {**MADE_WITH, "data_revision": None}) is not None
    path = keep(tmp_path, made_with={**MADE_WITH, "data_revision": "revision-2"}, errors=levels(1.1)[0])
    os.utime(path, (2e9, 2e9))
    newest = read_run(tmp_path, KEY, 0, {**MADE_WITH, "data_revision": None})
    assert newest.made_with["data_revision"] == "revision-2"


def edited(text):
    return json.dumps({**json.loads(text), "started": "earlier"})


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: "{}", lambda text: "[]", edited])
def test_a_file_that_is_not_whole_is_set_aside(tmp_path, damage):
    path = keep(tmp_path)
    path.write_text(damage(path.read_text()))
    assert read_run(tmp_path, KEY, 0, MADE_WITH) is None
    assert not path.exists() and path.with_suffix(".broken").exists()


def test_a_run_whose_figures_do_not_belong_together_is_not_kept(tmp_path):
    with pytest.raises(KDError, match=f"run {KEY}, seed 0: metrics.error is 9"):
        keep(tmp_path, metrics={"error": 9.0})
    assert not list(tmp_path.rglob("*.json"))
