"""The schemas for editors: current, and of one mind with the strict readers about every committed file."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml

from catalog.errors import CatalogError
from catalog.model import Paper
from catalog.schema import HERE, load_paper, load_taxonomy, load_teachers
from methods.recipe import recipe_ids
from reproductions.distill import config as distill
from reproductions.distill.classes import config as classes
from reproductions.elicit import config as elicit
from tests.tools.schemas.validate import errors
from tools.paths import ROOT
from tools.schemas import build

CONFIGS = [("distill", distill), ("distill-classes", classes), ("elicit", elicit)]
SCHEMAS = build.schemas()
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path):
    return yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)


def test_the_files_are_current():
    texts = build.documents()
    assert {path.name for path in (ROOT / build.FOLDER).iterdir()} == {path.split("/")[1] for path in texts}
    for path, text in texts.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path}: run `kd readme`"


@pytest.mark.parametrize("name", [name for name, files in build.FILES.items() if files])
def test_every_committed_file_is_valid(name):
    paths = sorted(ROOT.glob(build.FILES[name]))
    assert len(paths) > 15
    wrong = {path.name: found for path in paths if (found := errors(read(path), SCHEMAS[name]))}
    assert not wrong


@pytest.mark.parametrize("name", [name for name, files in build.FILES.items() if files])
def test_a_misspelt_field_fails_at_every_level(name):
    """Each key of the closed mappings of one file, one at a time."""
    example = {"paper": "minillm", "experiment": "gkd", "recipe": "gkd", "testbed": "pronunciation"}[name]
    tree = read(ROOT / build.FILES[name].replace("*", example))
    for key in tree:
        misspelt = {other if other != key else f"{key}x": value for other, value in tree.items()}
        assert any(f"no field '{key}x'" in one for one in errors(misspelt, SCHEMAS[name])), key


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("paper", lambda tree: tree["external"][0].update(sais="x")),
        ("paper", lambda tree: tree["taxonomy"]["skill"].update({"instruction-folowing": "listed"})),
        ("paper", lambda tree: tree["taxonomy"]["skill"].update({"code": "guessed"})),
        ("paper", lambda tree: tree.update(basis="rumour")),
        ("paper", lambda tree: tree.update(arxiv="2306.8543v2")),
        ("paper", lambda tree: tree.pop("adds")),
        ("experiment", lambda tree: tree["arms"]["sft"].update(methd="sft")),
        ("experiment", lambda tree: tree["arms"]["sft"].update(role="control")),
        ("experiment", lambda tree: tree["arms"]["fkl"].update(terms=[{"divergence": "forwrd-kl"}])),
        ("experiment", lambda tree: tree["scales"]["tiny"].update(testbd="words")),
        ("experiment", lambda tree: tree["scales"]["tiny"].pop("seeds")),
        ("experiment", lambda tree: next(iter(tree["claims"]["orderings"].values())).update(beter="x")),
        ("experiment", lambda tree: tree["claims"].update(ordering={})),
        ("recipe", lambda tree: tree["terms"][0].update(temprature=2.0)),
        ("recipe", lambda tree: tree.update(terms=[{"divergence": "adaptive-kl", "head_mas": 0.5}])),
        ("recipe", lambda tree: tree.update(sampler={"name": "studnt"})),
        ("testbed", lambda tree: tree["decoding"].update(batches=2)),
        ("testbed", lambda tree: tree["students"]["main"].update(shpe={})),
    ],
)
def test_a_mistake_further_in_fails(name, change):
    example = {"paper": "minillm", "experiment": "gkd", "recipe": "gkd", "testbed": "pronunciation"}[name]
    tree = read(ROOT / build.FILES[name].replace("*", example))
    assert errors(tree, SCHEMAS[name]) == []
    change(tree)
    assert errors(tree, SCHEMAS[name])


def test_the_fields_of_a_record_are_those_that_the_reader_takes(tmp_path):
    schema = SCHEMAS["paper"]
    assert set(schema["properties"]) == {one.name for one in dataclasses.fields(Paper)}
    taxonomy, teachers = load_taxonomy(HERE / "taxonomy.yaml"), load_teachers(HERE / "teachers.yaml")
    tree = read(HERE / "papers" / "minillm.yaml")
    path = tmp_path / "minillm.yaml"
    for field in tree:
        path.write_text(
            yaml.safe_dump({name: tree[name] for name in tree if name != field}, allow_unicode=True)
        )
        try:
            load_paper(path, taxonomy, teachers)
            missing = False
        except CatalogError as error:
            missing = f'"{field}" is missing' in str(error) or ("url" in str(error) and field == "arxiv")
        assert missing == (field in schema["required"] or field == "arxiv") or field == "basis", field


@pytest.mark.parametrize(("name", "module"), CONFIGS)
def test_a_config_has_the_readers_fields(name, module):
    schema = SCHEMAS[name]
    assert list(schema["properties"]) == [*module.REQUIRED, *module.OPTIONAL]
    assert schema["required"] == list(module.REQUIRED)


def test_the_configs_of_the_docstrings_are_valid_and_their_misspellings_are_not():
    for name, module in CONFIGS:
        blocks = re.findall(r"(?:^    .*\n)+", module.__doc__, re.M)
        [first, *_] = [yaml.safe_load(block) for block in blocks]
        assert errors(first, SCHEMAS[name]) == []
        for field in first:
            wrong = {(f"{key}s" if key == field else key): value for key, value in first.items()}
            if f"{field}s" not in SCHEMAS[name]["properties"]:
                assert errors(wrong, SCHEMAS[name]), field
    assert errors({"student": "a", "data": "b", "output": "c", "budget": {"stps": 3}}, SCHEMAS["distill"])
    assert errors({"student": "a", "data": "b", "output": "c", "budget": {"steps": 0}}, SCHEMAS["distill"])
    assert errors({"student": "a", "data": {"from": "b", "splt": "x"}, "output": "c"}, SCHEMAS["distill"])
    assert errors({"student": "a", "data": "b", "output": "c", "method": "gdk"}, SCHEMAS["distill"])
    served = {"model": "a", "answers": {"in": "b", "srver": "c"}}
    assert errors({"student": "a", "data": "b", "output": "c", "teacher": served}, SCHEMAS["distill"])
    assert errors({"student": {"model": "a", "layer": 3}, "data": "b", "output": "c"}, SCHEMAS["distill"])
    ours = {"seeds": "a", "output": "b", "steps": [{"name": "lable"}]}
    assert errors(ours, SCHEMAS["elicit"]) and "gkd" in recipe_ids()
