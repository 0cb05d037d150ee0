"""The table of small encoders: sizes with cost and accuracies, the best of its league; gaps where nothing is known."""

import json
from types import SimpleNamespace

import pytest

from reproductions.engine.show.view import ArmRow, Figure, ScaleRow
from tools.pages.evidence import encoders


def figure(mean):
    return Figure("accuracy", mean, (mean - 1, mean + 1), None)


@pytest.fixture
def atlas():
    arms = (
        ArmRow("sft-one", "one block, fine-tuned", "baseline", figures=(figure(50.0),)),
        ArmRow("kd-one", "one block, distilled", "method", figures=(figure(52.0),)),
        ArmRow("kd", "three blocks, distilled", "method", figures=(figure(60.0),)),
        ArmRow("sft-two", "two blocks, fine-tuned", "baseline"),
    )
    view = SimpleNamespace(scales=(ScaleRow("tiny", "topics", 1, 5, arms),))

    def league(student, *rows):
        made = [SimpleNamespace(title=title, cells=(SimpleNamespace(mean=mean),)) for title, mean in rows]
        return SimpleNamespace(student=student, testbeds=("topics",), rows=made)

    many = league("main", ("PKD", 63.0), ("KD", 60.0), ("SFT", 58.0))
    few = league("one", ("KD", 52.0), ("SFT", 50.0))
    elsewhere = SimpleNamespace(student="main", testbeds=("words",), rows=[None] * 9)
    record = SimpleNamespace(tables=(elsewhere, many, few))
    return SimpleNamespace(questions={encoders.QUESTION: SimpleNamespace(view=view)}, record=record)


def test_sizes_have_their_costs_and_accuracies_and_the_best_of_their_league(atlas, tmp_path):
    path = tmp_path / "encoders-cpu.json"
    cost = {"weights": 2e6, "beside_words": 1e6, "milliseconds_alone": 1.5, "milliseconds_together": 0.25}
    path.write_text(json.dumps({"sizes": [{"blocks": 1, **cost}]}))
    made = encoders.rows(atlas, path)
    assert [len(row) for row in made] == [len(encoders.HEAD)] * 4
    assert made[0] == ["1", "2.0", "1.0", "1.50", "0.25", "50 [49, 51]", "52 [51, 53]", ""]
    assert made[1] == ["2", "", "", "", "", "", "", ""]
    assert made[2][5:] == ["", "60 [59, 61]", "63, PKD"]


def test_nothing_is_shown_before_anything_was_recorded(atlas, tmp_path):
    atlas.questions[encoders.QUESTION].view.scales = (
        ScaleRow("tiny", "topics", 1, 5, (ArmRow("sft", "", ""),)),
    )
    assert encoders.rows(atlas, tmp_path / "none.json") == []
    atlas.questions = {}
    assert encoders.rows(atlas) == []
