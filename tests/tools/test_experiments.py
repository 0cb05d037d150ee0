"""What may be named to `kd reproduce`, `kd tune` and `kd plan`."""

import pytest

from catalog.errors import CatalogError
from tools.experiments import experiment_id


def test_a_paper_of_the_catalog_or_a_question_of_our_own():
    assert experiment_id("minillm") == "minillm"
    assert experiment_id("coverage") == "coverage"
    with pytest.raises(CatalogError, match='did you mean "minillm"'):
        experiment_id("minillmm")
