"""Every testbed says what plays the teacher; that is no part of what a run follows from."""

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.show.view import STANDS_IN
from reproductions.testbeds import identity, list_testbeds, read_testbed

PLAIN = """about: a testbed of a test
stands_in: WORD
task: {name: pronunciation}
decoding: {batch: 8}
students: {main: {shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}}}
metrics: {answers: {sampled: [rouge_l]}}
"""


@pytest.mark.parametrize("name", list_testbeds())
def test_every_testbed_says_what_plays_the_teacher(name):
    testbed = read_testbed(name)
    assert testbed["stands_in"] in STANDS_IN
    assert "stands_in" not in identity(testbed, teachers=list(testbed["teachers"]))


def test_another_word_is_refused_with_line_and_nearest(tmp_path):
    (tmp_path / "mine.yaml").write_text(PLAIN.replace("WORD", "wolrd"))
    with pytest.raises(
        KDError, match=r'mine.yaml:2: nothing stands in as "wolrd" \(did you mean "world"\?\)'
    ):
        read_testbed("mine", tmp_path)
