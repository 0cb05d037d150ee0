"""The gallery of components: from signatures and docstrings."""

from __future__ import annotations

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
    assert "## divergence" in text and "- **`adaptive-kl`** `head_mass=0.5, share (required)`" in text
    assert "Forward KL on the head, reverse on the tail. [source](losses/divergences.py#L12)" in text
    assert "*Wu et al., 2404.02657, eq. 5.*" in text
    assert "## sampler" not in text


def test_every_component_of_the_library_is_in_it():
    text = gallery.page()
    for slot, name in components():
        assert slot in SLOTS and f"- **`{name}`**" in text
