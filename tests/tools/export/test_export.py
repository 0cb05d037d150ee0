"""`kd export`: what `datasets` reads again is what the catalog and the committed results say."""

from __future__ import annotations

import json
from collections import Counter

import datasets
import pytest
import yaml

from reproductions.engine.show import files
from tools.cli import main
from tools.export import card, write
from tools.export.columns import TABLES
from tools.pages.atlas import atlas
from tools.paths import ROOT

NAMES = [table.name for table in TABLES]


@pytest.fixture(scope="module")
def shown():
    return atlas()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, shown):
    out = tmp_path_factory.mktemp("export") / "data"
    write.export(out, atlas=shown)
    return out


@pytest.fixture(scope="module")
def load(exported, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return lambda name: datasets.load_dataset(str(exported), name, split="train", cache_dir=str(cache))


def committed(path):
    """A committed file of verdicts or of the atlas: the line above the data is its digest."""
    return json.loads((ROOT / path).read_text(encoding="utf-8").partition("\n")[2])


def test_every_record_comes_back_with_its_axes(load, capsys):
    assert main(["browse", "--json"]) == 0
    told = {paper["id"]: paper for paper in json.loads(capsys.readouterr().out)}
    rows = {row["id"]: row for row in load("records")}
    assert len(rows) == len(load("records")) == len(told) > 1000
    for name, paper in told.items():
        row = rows[name]
        assert all(row[axis] == list(values) for axis, values in paper["taxonomy"].items())
        for field in ("title", "arxiv", "status", "scope", "distils", "code", "method", "external"):
            assert row[field] == paper[field] or (paper[field] == "" and row[field] is None), (name, field)
    gkd = rows["gkd"]
    assert gkd["status"] == "judged" and gkd["file"] == "catalog/papers/gkd.yaml"


def test_claims_are_those_of_the_committed_verdicts(load, shown):
    rows = [row for row in load("claims") if not row["ours"]]
    counts = Counter((row["scale"], row["verdict"]) for row in rows if row["scale"])
    told: Counter[tuple[str, str]] = Counter()
    for name in shown.views:
        told.update(
            {
                (scale, word): n
                for scale, found in (files.read(name) or shown.views[name]).tally().items()
                for word, n in found.items()
            }
        )
    assert counts == told and sum(counts.values()) > 100
    for scale, evidence in shown.evidence.items():
        judged = Counter({word: counts[scale, word] for word in evidence.verdicts})
        assert judged == Counter(evidence.verdicts)
        found = {(row["paper"], row["claim"]): row["q"] for row in rows if row["q"] and row["scale"] == scale}
        assert found == pytest.approx({place: q for place, q in evidence.q.items() if q})


def test_one_verdict_by_hand(load):
    view = committed("reproductions/verdicts/akl.json")
    claim = next(one for one in view["claims"] if one["id"] == "beats-sft")
    outcome = next(one for one in claim["outcomes"] if one["scale"] == "tiny")
    (row,) = [
        row
        for row in load("claims")
        if (row["paper"], row["claim"], row["scale"]) == ("akl", "beats-sft", "tiny")
    ]
    assert row["difference"] == outcome["difference"] and [row["low"], row["high"]] == outcome["interval"]
    assert row["told"].startswith(row["verdict"]) and outcome["verdict"].startswith(row["verdict"])
    assert (row["smallest_effect"], row["seeds"], row["p"]) == tuple(
        outcome[name] for name in ("effect", "seeds", "p")
    )
    assert row["statement"] == claim["statement"] and row["file"] == "reproductions/verdicts/akl.json"
    scale = next(one for one in view["scales"] if one["name"] == "tiny")
    assert (row["testbed"], row["stands_in"], row["made"]) == tuple(
        scale[name] for name in ("testbed", "stands_in", "made")
    )


def test_arms_and_leagues_are_whole(load, shown):
    leagues = committed("reproductions/atlas.json")["tables"]
    assert len(load("league")) == sum(len(row["cells"]) for table in leagues for row in table["rows"]) > 100
    arms = [row for row in load("arms") if row["paper"] == "akl" and row["arm"] == "sft"]
    view = committed("reproductions/verdicts/akl.json")
    told = {
        (scale["name"], figure["metric"]): figure
        for scale in view["scales"]
        for arm in scale["arms"]
        if arm["name"] == "sft"
        for figure in arm["figures"]
    }
    assert {(row["scale"], row["metric"]) for row in arms} == set(told)
    for row in arms:
        figure = told[row["scale"], row["metric"]]
        assert row["mean"] == figure["mean"] and row["by_seed"] == figure["by_seed"]
        assert (ROOT / row["file"]).is_file() and row["seeds"] == len(row["by_seed"])
    former = sum(len(attempt.claims) for view in shown.views.values() for attempt in view.attempts)
    assert sum((ROOT / row["file"]).is_file() for row in load("attempts")) == len(load("attempts")) >= former


@pytest.mark.parametrize("name", NAMES)
def test_the_card_describes_the_files_as_they_are(exported, load, name):
    text = (exported / card.CARD).read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert [config["config_name"] for config in head["configs"]] == NAMES and head["license"] == "apache-2.0"
    info = next(one for one in head["dataset_info"] if one["config_name"] == name)
    found = load(name)
    assert datasets.Features._from_yaml_list(info["features"]) == found.features
    stored = datasets.Dataset.from_parquet(str(exported / card.file_of(name)))
    assert stored.features == found.features
    section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert f"{len(found):,} rows." in section
    described = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert described == found.column_names
    assert all(len(column.says) > 6 for table in TABLES for column in table.columns)
    assert len(set(found.unique("commit"))) == 1 and all(found["file"])


def test_the_same_atlas_gives_the_same_bytes(exported, shown):
    def content():
        return {path.name: path.read_bytes() for path in exported.rglob("*") if path.is_file()}

    first = content()
    write.export(exported, atlas=shown)
    assert content() == first
    text = b"".join(first.values())
    assert str(ROOT).encode() not in text and not list(exported.parent.glob(".made-*"))


def test_a_folder_with_anything_else_is_refused(exported, shown, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(["export", str(tmp_path)]) == 2
    assert "holds files that are not an export's; name a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (exported / "notes.md").write_text("mine")
    assert main(["export", str(exported)]) == 2
    assert "notes.md: is not of the export in data" in capsys.readouterr().err
    assert (exported / "notes.md").read_text() == "mine"
    (exported / "notes.md").unlink()
    assert main(["export", str(tmp_path / "thesis.tex")]) == 2


def test_the_verb_says_what_it_wrote(tmp_path, shown, monkeypatch, capsys):
    monkeypatch.setattr(write, "read_atlas", lambda: shown)
    assert main(["export", str(tmp_path / "made"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["rows"]) == NAMES and told["rows"]["records"] == len(shown.papers)
    assert main(["export", str(tmp_path / "made"), "--logbook", "gdk"]) == 2
    assert 'no judged paper "gdk"' in capsys.readouterr().err


def test_a_logbook_is_read_by_trackio(tmp_path, shown):
    logbook = pytest.importorskip("trackio.logbook")
    write.export(tmp_path / "made", ["akl"], atlas=shown)
    (project,) = (tmp_path / "made" / "logbooks" / "akl").iterdir()
    pages = {page["title"]: page["slug"] for page in logbook.list_pages(project)}
    assert {"Claims", "Intervals", "Arms at scale tiny"} <= set(pages)
    outline = logbook.read_page_outline(project, pages["Claims"])
    titles = [cell["title"] for cell in outline["cells"]]
    assert titles == ["About", *(claim.id for claim in shown.views["akl"].claims)]
    text = (project / "logbook" / "pages" / pages["Claims"] / "page.md").read_text(encoding="utf-8")
    for claim in shown.views["akl"].claims:
        assert all(outcome.told in text for outcome in claim.outcomes)
    files_of_it = [path for path in project.rglob("*") if path.suffix in (".md", ".json")]
    assert not any(str(tmp_path.parent) in path.read_text() for path in files_of_it)


def test_logbooks_without_trackio_are_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tools.export.logbook.find_spec", lambda name: None)
    assert main(["export", str(tmp_path / "made"), "--logbook", "akl"]) == 2
    assert "--logbook needs the package trackio" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
