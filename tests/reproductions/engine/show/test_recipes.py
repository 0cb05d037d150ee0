"""What an arm computes, in a line."""

from methods.recipe import canonical_method
from reproductions.engine.show.recipes import recipe_line


def test_elicited_rows_are_told_by_their_components():
    steps = [{"name": "explain", "chains": 4}, "verify"]
    tree = {"terms": [{"term": "next-token"}], "data": {"elicit": steps, "teacher": "large"}}
    told = recipe_line({"method": canonical_method(tree)})
    assert told == "cross entropy; data: explain (chains 4), then verify (teacher large)"


def test_where_a_student_begins_is_told_by_what_it_is():
    method = canonical_method({"terms": [{"term": "next-token"}]})
    told = {
        name: recipe_line({"method": method, "start": "pretrained", "testbed": {"students": {"main": tree}}})
        for name, tree in (
            ("drawn", {"shape": {"layers": 2}}),
            ("taught", {"shape": {"layers": 2}, "base": {"rows": "retellings"}}),
            ("published", {"model": "sentence-transformers/all-MiniLM-L6-v2", "layers": [0]}),
        )
    }
    assert told["drawn"] == "cross entropy; from the untrained start"
    assert told["taught"] == told["published"] == "cross entropy; from the pretrained model"
