"""The registry: schemas from signatures, one canonical form, errors with the nearest name."""

import ast
import inspect
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from methods import registry
from methods.registry import RegistryError, build, canonical, component, components, find, load


@component("sampler", "test-inner")
class Inner:
    """An inner one."""

    def __init__(self, size: int = 3, *, seed: int = 0):
        self.size, self.seed = size, seed


@component("sampler", "test-outer")
class Outer:
    """One around another."""

    def __init__(self, sampler, *, greedy: bool = False, share: float = 0.5):
        self.sampler, self.greedy, self.share = sampler, greedy, share


@component("divergence", "test-gap")
def gap(block, power: float = 2.0, name: str | None = None):
    """A gap."""
    return block, power, name


@component("term", "test-term")
@dataclass(frozen=True)
class Term:
    """A term."""

    weight: float = 1.0
    mode: str = "a"


def test_one_choice_has_one_form():
    for tree in ("test-gap", {"name": "test_gap"}, {"name": "test-gap", "power": 2}):
        assert canonical("divergence", tree) == {"name": "test-gap"}
    whole, real = (json.dumps(canonical("divergence", {"name": "test-gap", "power": p})) for p in (3, 3.0))
    assert whole == real == '{"name": "test-gap", "power": 3.0}'
    nested = {"name": "test-outer", "sampler": {"name": "test-inner", "size": 3}, "share": 1}
    assert canonical("sampler", nested) == {
        "name": "test-outer",
        "sampler": {"name": "test-inner"},
        "share": 1.0,
    }


@pytest.mark.parametrize(
    ("slot", "tree", "message", "path"),
    [
        ("divergence", "test-gab", 'no divergence "test-gab" (did you mean "test-gap"?)', ("name",)),
        (
            "divergence",
            {"name": "test-gap", "powr": 1},
            'no setting "powr" (did you mean "power"?)',
            ("powr",),
        ),
        (
            "divergence",
            {"name": "test-gap", "power": "two"},
            "\"power\" must be a number, not 'two'",
            ("power",),
        ),
        ("divergence", {"name": "test-gap", "power": True}, '"power" must be a number', ("power",)),
        ("sampler", {"name": "test-outer"}, 'needs a setting "sampler"', ()),
        (
            "sampler",
            {"name": "test-outer", "sampler": {"name": "test-inner", "sze": 1}},
            '"sze"',
            ("sampler", "sze"),
        ),
        ("sampler", 3, "a sampler is a name, or a mapping", ()),
        (
            "sampler",
            {"name": "test-inner", "seed": 3},
            'no setting "seed"',
            ("seed",),
        ),  # context is not a setting
    ],
)
def test_a_wrong_name_or_value_says_where_and_what_is_nearest(slot, tree, message, path):
    with pytest.raises(RegistryError) as error:
        canonical(slot, tree)
    assert message in str(error.value) and error.value.path == path


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "well-formed", "words": ["a", "b"]}, '"words" must be a list of whole numbers, not'),
        ({"name": "well-formed", "words": 3}, '"words" must be a list of whole numbers, not 3'),
        ({"name": "well-formed", "words": [True, 9]}, '"words" must be a list of whole numbers'),
        ({"name": "well-formed", "without": "image"}, "\"without\" must be a list of texts, not 'image'"),
        ({"name": "inject-errors", "kinds": [None]}, '"kinds" must be a list of texts'),
        ({"name": "leaks", "held_out": [3]}, '"held_out" must be text or a list of texts, not [3]'),
        ({"name": "evolve", "operators": "deepen"}, '"operators" must be a list of texts'),
    ],
)
def test_a_list_holds_what_it_says(tree, message):
    with pytest.raises(RegistryError) as error:
        canonical("elicitation", tree)
    assert message in str(error.value) and error.value.path == (
        next(name for name in tree if name != "name"),
    )


def test_every_setting_of_an_elicitation_component_can_be_set():
    """None is taken for what is handed over, by its name alone."""
    for slot, name in components():
        if slot == "elicitation":
            made = inspect.signature(load(slot, name)).parameters.values()
            own = {one.name for one in made if one.kind is one.KEYWORD_ONLY}
            assert own == set(components()[slot, name].parameters), name
    assert canonical("elicitation", {"name": "rank", "window": 4, "step": 2})["window"] == 4


def test_building_hands_over_the_context_and_builds_what_is_inside():
    made = build(
        "sampler", canonical("sampler", {"name": "test-outer", "sampler": "test-inner"}), seed=7, student=None
    )
    assert isinstance(made, Outer) and made.sampler.seed == 7 and made.share == 0.5
    function = build("divergence", canonical("divergence", {"name": "test-gap", "power": 3}))
    assert function("block") == ("block", 3.0, None)
    assert build("term", canonical("term", {"name": "test-term", "mode": "b"})) == Term(mode="b")


def test_what_the_source_says_is_what_python_sees():
    """Names, settings and defaults read from the source are those of the imported objects."""
    for slot, name in components():
        live = registry._made.get((slot, name)) or load(slot, name)
        entry, own = components()[slot, name], registry._from_object
        assert (live.__module__, live.__qualname__) == (entry.module, entry.attribute)
        assert entry.doc.strip(), f"{slot} {name} has no docstring"
        registry._made[slot, name] = live
        seen = own(slot, name).parameters
        assert {n: p.default for n, p in seen.items()} == {
            n: p.default for n, p in entry.parameters.items()
        }, name


def test_looking_things_up_imports_no_torch():
    script = (
        "import sys; from methods import registry; registry.components(); registry.names('sampler');"
        "assert not {'torch', 'transformers', 'trl', 'datasets', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_names_are_kebab_case_and_found_with_underscores():
    for slot, name in components():
        assert name == name.lower() and "_" not in name, (slot, name)
        assert find(slot, name.replace("-", "_")).name == name


def test_a_default_that_is_no_literal_is_refused():
    text = 'SIZE = 3\n@component("sampler", "x")\ndef f(size: int = SIZE):\n    """F."""\n'
    assert ast.parse(text)
    with pytest.raises(Exception, match='the default of "size" is not a literal: SIZE'):
        registry._in_source(text, "methods.x")
