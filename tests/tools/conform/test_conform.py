"""`kd conform`: the diagnosis in words, exit codes, nearest names, and the table of other libraries."""

import json

import pytest

from tools.cli import main
from tools.conform.peers import SHOWN, table
from tools.pages import benchmarks
from tools.paths import ROOT

LOSSES = """
import torch
import torch.nn.functional as F

LIMIT = 3

def good(student_logits, teacher_logits, mask, temperature=1.0):
    log_q = F.log_softmax(student_logits / temperature, -1)
    p = F.softmax(teacher_logits / temperature, -1)
    values = F.kl_div(log_q, p, reduction="none").sum(-1)
    return (values * mask).sum() / mask.sum() * temperature**2

def careless(student_logits, teacher_logits, temperature=1.0):
    log_p = F.log_softmax(teacher_logits / temperature, -1)
    q = F.softmax(student_logits / temperature, -1)
    return F.kl_div(log_p, q, reduction="none").sum(-1).mean()

def cold(student_logits, teacher_logits, mask):
    return good(student_logits, teacher_logits, mask)

def unknown(student_logits, teacher_logits, mask):
    return good(student_logits, teacher_logits, mask) * 1.1
"""


@pytest.fixture
def kd(tmp_path, monkeypatch, capsys):
    """`kd conform` in a folder with losses of somebody: exit code, stdout, stderr."""
    (tmp_path / "somebodys_losses.py").write_text(LOSSES)
    (tmp_path / "broken_losses.py").write_text("import somebodys_lossses")
    (tmp_path / "raising_losses.py").write_text("raise RuntimeError('no GPU')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words):
        code = main(["conform", *words])
        said = capsys.readouterr()
        assert all(len(line) <= 80 for line in said.out.splitlines() if not line.startswith(("{", " ")))
        return code, said.out, said.err

    return run


def test_a_loss_that_is_as_expected(kd):
    code, out, _ = kd("somebodys_losses:good", "--expect", "forward-kl,T^2,token-mean,ignored")
    assert code == 0 and "one convention matches everywhere" in out
    assert "KL(teacher || student), mode-covering" in out
    [line] = [line for line in out.splitlines() if line.startswith("warm")]
    assert "forward-kl, both, T^2, token-mean, ignored" in line
    assert float(line.split()[-1]) < 1e-12 and float(line.split()[-2]) < 1e-12
    assert "larger-teacher  refused: RuntimeError" in out


def test_every_fault_is_said_by_name(kd):
    code, out, _ = kd("somebodys_losses.py:careless", "--expect", "forward-kl,T^2,ignored")
    said = " ".join(out.split())
    assert code == 1
    assert "reverse-kl where forward-kl was expected: KL(student || teacher)" in said
    assert "T^0 where T^2 was expected: not multiplied by T^2" in said
    assert "included where ignored was expected: padding is averaged in like any token" in said


def test_what_cannot_be_seen_is_not_confirmed(kd):
    code, out, _ = kd("somebodys_losses:cold", "--expect", "T^2")
    assert code == 1 and "T^2 cannot be seen: the function takes no temperature" in out
    code, out, _ = kd("somebodys_losses:cold")
    assert code == 0 and "not seen" in out
    assert "not asked, as the function has no such setting: skew, temperature, top_k" in " ".join(out.split())


def test_nothing_that_is_known(kd):
    code, out, _ = kd("somebodys_losses:unknown")
    assert code == 1 and "no one convention matches everywhere" in out
    assert "nothing; nearest forward-kl" in out and "off by 1e-01" in out


def test_for_a_program(kd):
    code, out, _ = kd("somebodys_losses:careless", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["convention"] == {
        "divergence": "reverse-kl",
        "temperature": "both",
        "factor": "T^0",
        "reduction": "token-mean",
        "padding": "included",
    }
    refused = {one["vectors"] for one in found["vectors"] if one["refused"]}
    assert refused == {"larger-teacher", "larger-student"}
    assert found["takes"] == {"temperature": "temperature"} and found["left_out"]["top-k"] == "top_k"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "MODULE:FUNCTION is missing"),
        (["somebodys_losses"], "is not MODULE:FUNCTION"),
        (["somebodys_losses:god"], 'has no "god" (did you mean "good"?)'),
        (["somebodys_losses:LIMIT"], "is a int, not a function"),
        (["somebodys_loses:good"], 'no module "somebodys_loses" (did you mean "somebodys_losses"?)'),
        (["somebodys_loses.py:good"], 'no file somebodys_loses.py (did you mean "somebodys_losses.py"?)'),
        (["methods.losses.divergence:forward_kl"], '(did you mean "methods.losses.divergences"?)'),
        (["broken_losses:good"], 'imports "somebodys_lossses", which is not installed'),
        (["raising_losses:good"], "importing raising_losses raised RuntimeError: no GPU"),
        (["somebodys_losses:good", "--expect", "forwrd-kl"], '(did you mean "forward-kl"?)'),
        (["somebodys_losses:good", "--expect", "T^1,T^2"], "are both a factor"),
        (["somebodys_losses:good", "--set", "scale"], "write NAME=VALUE"),
        (["somebodys_losses:good", "--set", "temprature=2"], '(did you mean "temperature"?)'),
        (["somebodys_losses:good", "--record"], "--record goes with --peers"),
        (["somebodys_losses:good", "--peers"], "--peers goes with no function"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_2(kd, words, message):
    code, out, err = kd(*words)
    assert code == 2 and out == ""
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.fixture(scope="module")
def found():
    return table()


def test_the_recorded_table_is_what_the_installed_libraries_do(found):
    recorded = json.loads((ROOT / "benchmarks" / "conformance.json").read_text(encoding="utf-8"))
    assert recorded == found, "run `kd conform --peers --record`"


def test_the_table_says_what_is_known_of_the_libraries(found):
    rows = {one["implementation"]: one for one in found["rows"]}
    assert len(rows) == len(SHOWN) and not any(one.get("missing") for one in rows.values())
    gkd = rows["TRL GKDTrainer.generalized_jsd_loss"]
    assert gkd["convention"]["divergence"] == "jsd-kl-ends" and gkd["convention"]["factor"] == "T^0"
    assert rows["torch F.kl_div, batchmean"]["convention"]["padding"] == "included"
    assert rows["torch F.kl_div, mean"]["convention"]["reduction"] == "element-mean"
    assert rows["TRL IWOPDTrainer, beta 0, no tail"]["edges"]["top-k"] == "teacher:renormalise"
    ours = [one for name, one in rows.items() if name.startswith("KD Atlas")]
    assert not any(one["broken"] for one in ours)


def test_the_page_shows_the_table(tmp_path, found):
    assert benchmarks.convention_table(tmp_path) == []
    (tmp_path / "conformance.json").write_text(json.dumps(found))
    text = benchmarks.page(tmp_path)
    assert "\n## Conventions\n" in text and f"trl {found['versions']['trl']}:" in text
    assert (
        "| TRL GKDTrainer.generalized\\_jsd\\_loss | jsd-kl-ends | T^0 | token-mean | ignored | refused |"
        in text
    )
    assert "| renormalised (teacher's larger), refused (student's) |" in text
