import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.experiment import config_hash, list_papers, load_experiment

from .conftest import change


def test_the_toy_paper_loads_from_its_root(papers):
    experiment = load_experiment("toy", papers)
    assert list(experiment.arms) == ["baseline", "method", "method-no-teacher"]
    assert experiment.scale("tiny").seeds == (0, 1, 2)
    assert list_papers(papers) == ["toy"]


def test_a_folder_with_underscores_is_a_paper_with_hyphens(papers):
    (papers / "toy").rename(papers / "toy_paper")
    assert list_papers(papers) == ["toy-paper"]
    with pytest.raises(KDError, match='says paper "toy", its folder says "toy-paper"'):
        load_experiment("toy-paper", papers)


def test_unknown_names_are_answered_with_the_nearest(papers):
    with pytest.raises(KDError, match='no reproduction of a paper "toi".*did you mean "toy"'):
        load_experiment("toi", papers)
    experiment = load_experiment("toy", papers)
    with pytest.raises(KDError, match='no scale "tine".*did you mean "tiny"'):
        experiment.scale("tine")
    with pytest.raises(KDError, match='no arm "methods".*did you mean "method"'):
        experiment.arm("methods")


@pytest.mark.parametrize(
    "old, new, changes",
    [
        ('"steps": 40', '"steps": 41', True),
        ("(0, 1, 2)", "(0, 1, 3)", True),
        ('"method-no-teacher": Arm', '"method-without": Arm', True),
        ("    testbeds=", "    method_version=2,\n    testbeds=", True),
        ("Labels with less noise", "Another title", False),
        ('"ablation"),', '"baseline"),', False),
        ("minutes=0.1", "minutes=7", False),
    ],
)
def test_the_hash_covers_what_can_change_a_figure_and_nothing_else(papers, tmp_path, old, new, changes):
    before = config_hash(load_experiment("toy", papers), "tiny")
    assert len(before) == 12
    change(papers, old, new)
    moved = papers.rename(
        tmp_path / "moved"
    )  # a loaded module is kept: look at the edited one under another path
    assert (config_hash(load_experiment("toy", moved), "tiny") != before) is changes


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"baseline"),', '"base"),', 'role "base"'),
        ("(0, 1, 2)", "(0, 0)", "seeds that are all different"),
        ('"device": "cpu"}, minutes', '"device": {1}}, minutes', "not plain JSON data"),
        ('"method": Arm', '"Method/x": Arm', "it names a file"),
        ("EXPERIMENT = Experiment(", "EXPERIMENT = dict(", "declares no EXPERIMENT"),
    ],
)
def test_a_wrong_declaration_names_the_file(papers, old, new, message):
    change(papers, old, new)
    with pytest.raises(KDError) as error:
        load_experiment("toy", papers)
    assert "toy/experiment.py" in str(error.value) and message in str(error.value)
