"""What a plan refuses."""

import pytest

from catalog.errors import CatalogError


def test_a_claim_of_an_arm_against_itself_is_an_error(toy):
    """LUFFY's ablation came out as LUFFY, and its claim as no difference, 0.0 [0, 0]."""
    assert toy.plan().keys["again"] == toy.plan().keys["ablation"], (
        "which is no error where nobody compares them"
    )
    toy.change("better: baseline, worse: method}", "better: again, worse: ablation}")
    with pytest.raises(
        CatalogError,
        match=r"toy\.yaml:16: claim noise-helps: at scale tiny the arm ablation is the arm again",
    ):
        toy.plan()
