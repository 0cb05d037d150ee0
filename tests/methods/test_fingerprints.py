"""The recorded behaviour of every component is that of the code, and a change of it names what is stale."""

import json
import subprocess
import sys

import pytest

from methods import fingerprints
from methods.behaviour import measured
from methods.recipe import canonical_method, components_of, read_recipe, recipe_ids

METHOD = canonical_method({"terms": [{"divergence": "forward-kl"}, {"term": "next-token"}]})
FIGURES = {
    "divergence/forward-kl": [[1.0, -0.5, 0.25], [], [80.0, 80.0]],
    "term/next-token": [[2.0, 1.0, 1e-3], [0.1, 0.2, 0.3], [80.0, 0.0]],
    "trainer/distillation": [[3.0, 1.0, 1.0], [], [80.0, 80.0]],
}


def test_recorded_behaviour_is_that_of_the_code():
    found = fingerprints.differing(measured())
    assert not found, (
        f"{found} behave otherwise than recorded; `kd check --fingerprints --write` if that is meant"
    )


def test_every_component_of_every_recipe_has_a_fingerprint():
    for recipe in recipe_ids():
        method = canonical_method(read_recipe(recipe).method())
        assert list(fingerprints.recorded_for(method)) == [f"{slot}/{n}" for slot, n in components_of(method)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "fingerprints.json"
    fingerprints.write(FIGURES, path)
    return path


def with_figure(name, group, place, factor):
    made = {key: [list(part) for part in value] for key, value in FIGURES.items()}
    made[name][group][place] *= factor
    return made


@pytest.mark.parametrize(
    ("name", "group", "place", "factor", "change"),
    [
        ("divergence/forward-kl", 0, 0, 1 + 1e-6, False),  # another processor
        ("divergence/forward-kl", 0, 0, 1.01, True),
        ("divergence/forward-kl", 2, 0, 81 / 80, True),  # a token more is counted
        ("term/next-token", 0, 2, 1.01, False),  # nothing beside the length of the way
        ("term/next-token", 1, 0, 1.01, True),  # a small group has its own size
    ],
)
def test_what_counts_as_a_change(file, name, group, place, factor, change):
    now = with_figure(name, group, place, factor)
    before, then = file.read_text(), fingerprints.recorded_for(METHOD, file)
    assert fingerprints.differing(now, file) == ([name] if change else [])
    assert fingerprints.write(now, file) == ([name] if change else [])
    assert (file.read_text() != before) == change
    assert fingerprints.stale(then, METHOD, file) == ([name] if change else [])


def test_what_is_small_everywhere_is_seen_by_its_own_size():
    tiny = [[1e-6, 2e-7, 0.0], [], [5.0]]
    assert not fingerprints.same(tiny, [[1.01e-6, 2e-7, 0.0], [], [5.0]])
    assert fingerprints.same(tiny, [[1.000001e-6, 2e-7, 1e-12], [], [5.0]])
    assert not fingerprints.same(tiny, [[1e-6, 2e-7, 0.0], [1.0], [5.0]])


def test_new_and_gone_components_differ_and_their_runs_are_stale(file):
    then = fingerprints.recorded_for(METHOD, file)
    less = {name: figures for name, figures in FIGURES.items() if name != "term/next-token"}
    assert fingerprints.differing(less, file) == ["term/next-token"]
    fingerprints.write(less, file)
    assert fingerprints.stale(then, METHOD, file) == ["term/next-token"]
    assert fingerprints.differing(FIGURES, file) == ["term/next-token"]
    fingerprints.write(FIGURES, file)
    assert fingerprints.stale(then, METHOD, file) == []
    assert fingerprints.stale({}, METHOD, file) == sorted(then)  # nothing was noted


def test_a_line_a_component(file):
    lines = file.read_text().splitlines()
    assert len(lines) == len(FIGURES) + 2 and json.loads(file.read_text()) == FIGURES


def test_asking_for_fingerprints_needs_no_torch():
    code = (
        "import sys; from methods import fingerprints; fingerprints.recorded(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
