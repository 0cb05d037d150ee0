"""Fingerprints of components of elicitation: every setting shows, and so does another prompt."""

import pytest

from methods.elicitation import behaviour, prompting
from methods.elicitation.behaviour import SLOT, figures
from methods.fingerprints import recorded, same
from methods.registry import components, find

NAMES = sorted(name for slot, name in components() if slot == SLOT)
#: Another value where it is no number and no yes or no, or where half or one more does nothing.
OTHERS = {
    ("allocate", "keep"): 1,
    ("best-of", "least"): 0.55,
    ("blend", "prompt"): "answer",
    ("blend", "stop"): ["sea"],
    ("classify", "blank"): "nothing",
    ("classify", "calibrate"): "rows",
    ("classify", "classes"): ["birds", "14"],
    ("classify", "prompt"): "explain/steps",
    ("hand-back", "by"): "random",
    ("hand-back", "column"): "level",
    ("evolve", "operators"): ["widen"],
    ("evolve", "words"): 12,
    ("exact-copies", "column"): "level",
    ("exact-copies", "key"): "equations",
    ("expand", "near"): 0.05,
    ("expand", "prompt"): "answer",
    ("expand", "shots"): [1, 1],
    ("expand", "per_call"): 1,
    ("expand", "wanted"): 2,
    ("explain", "form"): "program",
    ("explain", "gold"): "level",
    ("explain", "hint"): "always",
    ("explain", "prompt"): "answer",
    ("explain", "temperature"): 1.0,
    ("label", "parser"): "verdict",
    ("label", "prompt"): "explain/steps",
    ("jumble", "share"): 0.6,
    ("leaks", "column"): "level",
    ("leaks", "held_out"): ["another text of some words"],
    ("leaks", "words"): 20,
    ("likelihood", "over"): "sum",
    ("likelihood", "column"): "prompt",
    ("likelihood", "behind"): "level",
    ("likelihood", "prompt"): "explain/steps",
    ("majority", "least"): 9,
    ("majority", "share"): 0.9,
    ("near-copies", "column"): "completion",
    ("near-copies", "near"): 1.0,
    ("paraphrase", "prompt"): "answer",
    ("paraphrase", "stop"): ["sea"],
    ("parse", "column"): "prompt",
    ("parse", "into"): "value",
    ("parse", "parser"): "items",
    ("pilot", "by"): "level",
    ("pilot", "measure"): "verified",
    ("pilot", "prompts"): 1,
    ("query", "prompt"): "answer",
    ("rank", "prompt"): "answer",
    ("rate", "prompt"): "criticise",
    ("rate", "temperature"): 1.0,
    ("revise", "criticise_prompt"): "rate",
    ("revise", "prompt"): "rate",
    ("compare", "prompt"): "answer",
    ("criticise", "prompt"): "rate",
    ("select", "by"): "shortest",
    ("select", "column"): "level",
    ("select", "of"): "all",
    ("self-generate", "parser"): "number",
    ("self-generate", "prompt"): "explain/steps",
    ("verify", "check"): "mentions",
    ("verify", "gold"): "level",
    ("well-formed", "column"): "completion",
    ("well-formed", "repeats"): [1, 1],
    ("well-formed", "without"): ["sea"],
    ("well-formed", "words"): [9, 10],
    ("write", "prompt"): "answer",
    ("write", "stop"): ["sea"],
    ("inject-errors", "kinds"): ["number"],
}  # fmt: skip
#: Of the sandbox: the fixed records run no program. The toy finds what stands before a name alike for each name.
NOT_SHOWN = {("verify", "run_programs"), ("verify", "seconds"), ("verify", "memory"), ("classify", "before")}


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_of_a_component_shows(name):
    own, before = behaviour.SETTINGS.get(name, {}), figures(name)
    assert same(before, recorded()[f"{SLOT}/{name}"]), (
        "another behaviour: `kd check --fingerprints --write` if meant"
    )
    assert same(before, figures(name))
    for setting, parameter in find(SLOT, name).parameters.items():
        if (name, setting) in NOT_SHOWN:
            continue
        value = own.get(setting, parameter.default)
        other = OTHERS.get((name, setting))
        if other is None:
            assert isinstance(value, bool | int | float), (
                f"{name} {setting}: OTHERS needs another than {value!r}"
            )
            other = (
                not value
                if isinstance(value, bool)
                else value + 1
                if isinstance(value, int)
                else value / 2 or 0.5
            )
        try:
            now = figures(name, {setting: other})
        except ValueError:
            continue  # it is looked at, and refused
        assert not same(before, now), f"{name} {setting} = {other!r} shows nowhere"


def test_the_exceptions_are_settings_that_there_are():
    known = {(name, setting) for name in NAMES for setting in find(SLOT, name).parameters}
    assert set(OTHERS) <= known and known >= NOT_SHOWN and set(behaviour.SETTINGS) <= set(NAMES)


def test_another_prompt_shows_in_what_asks_by_it(monkeypatch):
    right = prompting.Prompt.fill

    def shouted(self, fields):
        made = right(self, fields)
        if self.name != "criticise":
            return made
        return tuple(type(one)(one.role, one.content + "!") for one in made)

    monkeypatch.setattr(prompting.Prompt, "fill", shouted)
    changed = {name for name in NAMES if not same(figures(name), recorded()[f"{SLOT}/{name}"])}
    assert changed == {"criticise", "revise"}
