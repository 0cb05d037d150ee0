"""What an arm computes, in a line."""

from methods.recipe import canonical_method
from reproductions.engine.show.recipes import recipe_line


def test_elicited_rows_are_told_by_their_components():
    steps = [{"name": "explain", "chains": 4}, "verify"]
    tree = {"terms": [{"term": "next-token"}], "data": {"elicit": steps, "teacher": "large"}}
    told = recipe_line({"method": canonical_method(tree)})
    assert told == "cross entropy; data: explain (chains 4), then verify (teacher large)"
