"""The notebook of DISTIL.md, from its first cell to its last, with a small model in the place of the hub's."""

import json
import string
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from safetensors.torch import load_file

from tests.methods.conftest import letter_tokenizer, make_model

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOK = ROOT / "reproductions" / "distill" / "distil_your_own.ipynb"
METHODS = ("sft", "word-kd", "gkd")


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def run(book, folder, monkeypatch):
    """Every cell in a kernel of this environment, in a folder of its own, without the network."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("KD_MODEL_DIR", str(folder / "models"))
    NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


def outputs(book):
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.slow
def test_every_cell_runs_and_makes_what_it_says(tmp_path, monkeypatch):
    book = read()
    (named,) = [
        line for line in "\n".join(cell.source for cell in book.cells).splitlines() if "MODEL =" in line
    ]
    place = tmp_path / "models" / named.split('"')[1]
    make_model(layers=4, vocabulary=100, width=32).save_pretrained(place)
    letter_tokenizer("".join(sign for sign in string.printable[:97] if sign != "|")).save_pretrained(place)
    run(book, tmp_path, monkeypatch)

    made = tmp_path / "my-distillation"
    weights = {name: load_file(made / "students" / name / "model.safetensors") for name in METHODS}
    teacher = load_file(made / "teacher" / "model.safetensors")
    for name, found in weights.items():
        record = json.loads((made / "students" / name / "kd-distill.json").read_text())
        assert record["method"] == name and record["steps"] == 60 and record["evaluation"]
        assert set(found) < set(teacher)  # half of its layers
        assert not any(found[key].equal(teacher[key]) for key in found if key.endswith("q_proj.weight"))
    first = next(key for key in weights["sft"] if key.endswith("q_proj.weight"))
    assert not any(weights["sft"][first].equal(weights[other][first]) for other in METHODS[1:])

    said = "".join(output["text"] for output in outputs(book) if output.output_type == "stream")
    table = {
        line.split()[0]: line
        for line in said.splitlines()
        if line.startswith(("start ", "teacher ", *METHODS))
    }
    assert {"start", "teacher", *METHODS} <= set(table) and "exact match %" in said
    pictures = [output for output in outputs(book) if "image/png" in output.get("data", {})]
    assert len(pictures) == 1 and len(pictures[0]["data"]["image/png"]) > 5000
    asked, answer = said.splitlines()[-2:]
    assert (
        asked == "Date: 24 December 1986"
        and answer.startswith("ISO:")
        and answer.endswith(("(sft)", "(word-kd)", "(gkd)"))
    )


def test_no_output_is_committed():
    book = read()
    nbformat.validate(book)
    assert not outputs(book)
    assert not any(cell.execution_count for cell in book.cells if cell.cell_type == "code")
    assert NOTEBOOK.name in (NOTEBOOK.parent / "DISTIL.md").read_text(encoding="utf-8")
