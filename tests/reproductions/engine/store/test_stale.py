"""Recorded runs that today's code would make otherwise: found by fingerprint, said with a reason or an error."""

import json
import subprocess
import sys

import pytest

from catalog.errors import CatalogError
from methods import fingerprints
from methods.recipe import canonical_method
from reproductions.engine.errors import KDError
from reproductions.engine.show import gather
from reproductions.engine.store import stale

METHOD = canonical_method({"terms": [{"divergence": "forward-kl"}, {"term": "next-token"}]})
FIGURES = {
    "divergence/forward-kl": [[1.0, -0.5, 0.25]],
    "term/next-token": [[2.0, 1.0, 0.5]],
    "trainer/distillation": [[3.0, 1.0, 1.0]],
}


def test_no_recorded_run_is_stale_unsaid():
    assert stale.problems() == []


@pytest.fixture
def world(tmp_path):
    """A results folder with an arm of two seeds, made with the figures that stand in `figures`."""

    class World:
        root, figures = tmp_path / "results", tmp_path / "fingerprints.json"
        file = root / "pronunciation" / "0123456789abcdef.json"

        def record(self, **noted):
            made = {"a": {"fingerprints": fingerprints.recorded_for(METHOD, self.figures)}, **noted}
            runs = [
                {"seed": seed, "made_with": name}
                for name, seeds in (("a", (0, 1)), ("b", (2,)))
                for seed in seeds
            ]
            runs = [run for run in runs if run["made_with"] in made]
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps({"spec": {"method": METHOD}, "made_with": made, "runs": runs}))

        def mutate(self, name):
            before = fingerprints.recorded_for(METHOD, self.figures)[name]
            changed = {
                **FIGURES,
                name: [[value * 1.01 for value in FIGURES[name][0][:1]] + FIGURES[name][0][1:]],
            }
            fingerprints.write(changed, self.figures)
            return before

        def say(self, text):
            (self.root / stale.SAID).write_text(text)

        def problems(self):
            return stale.problems(self.root, self.figures)

        def notes(self):
            return stale.notes([self.file], self.root, self.figures)

    made = World()
    fingerprints.write(FIGURES, made.figures)
    made.record()
    made.say("{}\n")
    return made


def test_a_run_made_by_equal_code_is_not_stale(world):
    assert world.problems() == [] and world.notes() == []
    fingerprints.write(
        {name: [[v * (1 + 1e-6) for v in part] for part in f] for name, f in FIGURES.items()}, world.figures
    )
    assert world.problems() == []


def test_a_change_names_file_seeds_component_and_what_to_do(world):
    before = world.mutate("divergence/forward-kl")
    assert world.problems() == [
        f"{world.file}: seeds 0, 1: made before divergence/forward-kl behaved as now; make them again, or say in "
        f"stale.yaml why they stay: divergence/forward-kl: {{'{before}': <the reason>}}"
    ]


def test_what_is_said_is_no_problem_and_stands_with_the_results(world):
    before = world.mutate("divergence/forward-kl")
    world.say(f'divergence/forward-kl:\n  "{before}": its slope was wrong\n')
    assert world.problems() == []
    assert world.notes() == [
        "1 arm recorded before divergence/forward-kl behaved as now (its slope was wrong)"
    ]


def test_a_reason_covers_one_change_only(world):
    before = world.mutate("divergence/forward-kl")
    world.say(f'divergence/forward-kl:\n  "{before}": its slope was wrong\n')
    world.mutate("term/next-token")
    fingerprints.write(
        {**fingerprints.recorded(world.figures), "divergence/forward-kl": [[5.0, 1.0, 1.0]]}, world.figures
    )
    (found,) = world.problems()
    assert "term/next-token" in found and "<the reason>" in found


def test_runs_that_were_added_are_stale_too(world):
    more = {name: {} for name in ("metrics", "claims", "shared")}
    more |= {"made_with": {"b": {"torch": "2"}}, "runs": [{"seed": 5, "made_with": "b"}], "more": []}
    world.file.with_suffix("").mkdir()
    (world.file.with_suffix("") / "1.json").write_text(json.dumps(more))
    ((found,), other) = stale.stale_results(world.root, world.figures), world.problems()
    assert (found.file, found.seeds, set(found.components)) == (world.file, (5,), set(FIGURES))
    assert len(other) == 1 and other[0].startswith(f"{world.file}: seed 5: made before")


def test_a_reason_that_no_run_needs_is_named_with_its_line(world):
    world.say("# a comment\ndivergence/forward-kl:\n  deadbeef: long gone\n")
    (found,) = world.problems()
    assert found.startswith(f"{world.root / stale.SAID}:3:") and "take it out" in found


def test_a_run_without_fingerprints_is_stale_beside_those_with(world):
    world.record(b={"torch": "2"})
    assert [
        (item.seeds, sorted(item.components)) for item in stale.stale_results(world.root, world.figures)
    ] == [((2,), sorted(FIGURES))]
    assert set(stale.stale_in(world.file, world.figures)[0].components.values()) == {stale.NONE}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forward-kl:\n  deadbeef: x\n", ":1: .*no component.*slot/name"),
        ("divergence/forward-kl: because\n", ":1: .*needs lines of"),
        ('divergence/forward-kl:\n  deadbeef: ""\n', ":2: .*needs a reason"),
        ("divergence/forward-kl:\n  12345678: x\n", ":2: .*quotes"),
    ],
)
def test_what_is_said_wrongly_is_named_with_its_line(world, text, message):
    world.say(text)
    with pytest.raises(CatalogError, match=message):
        stale.said(world.root)


def test_a_file_that_is_no_arm_is_named(world):
    world.file.write_text("{}")
    with pytest.raises(KDError, match="0123456789abcdef.json: not the results of an arm"):
        world.problems()


def test_a_view_says_so_and_is_another_view_then(world, monkeypatch):
    """The committed view of a paper is stale as soon as something is said of its runs."""
    results = ["results/pronunciation/0123456789abcdef.json"]
    monkeypatch.setattr(gather, "ROOT", world.root.parent)
    monkeypatch.setattr(gather, "RESULTS", world.root)
    monkeypatch.setattr(fingerprints, "FILE", world.figures)
    before = gather.digests("akl", results)
    shown = world.mutate("divergence/forward-kl")
    assert gather.digests("akl", results) == before  # nothing is said yet; `kd check` says what is missing
    world.say(f'divergence/forward-kl:\n  "{shown}": its slope was wrong\n')
    after = gather.digests("akl", results)
    assert after[0] == before[0] and after[1] != before[1]
    assert gather._stale(results) == world.notes()


def test_looking_for_them_needs_no_torch():
    code = "import sys; from reproductions.engine.store import stale; stale.problems(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
