"""The gallery of components: from signatures and docstrings."""

from __future__ import annotations

import re

from methods import fingerprints
from methods.recipe import recipe_ids
from methods.registry import SLOTS, Component, Parameter, components
from tools.pages import gallery

ENTRY = Component(
    slot="divergence",
    name="adaptive-kl",
    module="methods.losses.divergences",
    attribute="adaptive_kl",
    parameters={
        "head_mass": Parameter("head_mass", 0.5, False, "float"),
        "share": Parameter("share", None, True, "float"),
    },
    doc="Forward KL on the head,\nreverse on the tail.\n\nShapes: (N, V).\n\nSource: Wu et al., 2404.02657, eq. 5.",
    line=12,
)


def test_an_entry_has_name_settings_summary_source_and_link():
    text = gallery.page([ENTRY])
    assert "## divergence" in text and "**`adaptive-kl`** `head_mass=0.5, share (required)`" in text
    source = "[`losses/divergences.py: adaptive_kl`](losses/divergences.py#L12)"
    assert f"Forward KL on the head, reverse on the tail. {source}" in text
    assert "<sub>Recipes: [akl](recipes/akl.yaml)." in text
    assert "*Wu et al., 2404.02657, eq. 5.*" in text
    assert "## sampler" not in text


def test_every_component_of_the_library_is_in_it_with_its_fingerprint_and_a_file_that_is_there():
    text, recorded = gallery.page(), fingerprints.recorded()
    for slot, name in components():
        assert slot in SLOTS
        entry = text.split(f'<a id="{slot}-{name}"></a>**`{name}`**')[1].split("\n- ")[0]
        path = re.search(r"\]\(([^)]+\.py)#L\d+\)", entry)
        assert path and (gallery.ROOT / path[1]).is_file()
        if f"{slot}/{name}" in recorded:
            assert f"Fingerprint `{fingerprints.fingerprint(recorded[f'{slot}/{name}'])}`." in entry


def test_recipes_are_named_so_far_and_then_counted():
    every = [recipe for recipes in gallery.used_by().values() for recipe in recipes]
    assert set(every) == set(recipe_ids())
    text = gallery.page()
    assert re.search(r"Recipes: (\[[^\]]+\]\([^)]+\), ){7}\[[^\]]+\]\([^)]+\) and \d+ more\.", text)
