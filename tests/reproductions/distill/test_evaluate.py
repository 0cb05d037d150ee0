"""The evaluation of `kd distill`: figures against transformers itself, intervals by hand, the same after a kill."""

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from catalog.errors import CatalogError
from reproductions.distill.config import load_config
from reproductions.distill.evaluate.measure import exact_match, measure, rouge_of_words
from reproductions.distill.evaluate.run import FILE
from reproductions.distill.evaluate.spec import Evaluation
from reproductions.distill.evaluate.table import difference, lines_of, rows_of, summary
from reproductions.distill.record import summary as lines_of_record
from reproductions.distill.training import RECORD
from reproductions.distill.watch.card import CARD
from reproductions.distill.watch.curve import LOG, PICTURE
from reproductions.engine.errors import KDError
from tests.methods.conftest import letter_tokenizer, make_model

from .conftest import WORDS, config_of, made

WANTED = Evaluation(rows=8, data=None, answers=8, scores=("exact-match", "rouge-l"), batch_size=3)


def rows():
    return Dataset.from_list([{"prompt": f"{word}|", "completion": word[::-1]} for word in WORDS])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_losses_are_those_of_transformers_row_by_row(kind):
    """In float64, without padding: one row at a time through the model's own logits."""
    model, tokenizer = make_model(kind).eval(), letter_tokenizer()
    found = measure(model, tokenizer, rows(), WANTED, 6)
    double = model.double()
    for row, nats in zip(rows(), found.nats, strict=True):
        asked = tokenizer(row["prompt"])["input_ids"]
        said = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = double(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1]
        expected = -sum(float(logits[n].log_softmax(-1)[token]) for n, token in enumerate(said))
        assert nats == pytest.approx(expected, rel=1e-5)


def test_answers_are_greedy_ones_scored_against_the_rows():
    model, tokenizer = make_model(seed=3).eval(), letter_tokenizer()
    model.generation_config.eos_token_id = [1, 5, 9]
    found = measure(model, tokenizer, rows(), WANTED, 6)
    for row, said in zip(rows(), found.said, strict=True):
        asked = tokenizer(row["prompt"], return_tensors="pt")
        made = model.generate(**asked, max_new_tokens=6, do_sample=False, pad_token_id=0)[0]
        assert said == " ".join(
            tokenizer.decode(made[asked["input_ids"].shape[1] :], skip_special_tokens=True).split()
        )
    assert len(found.scores["exact-match"]) == 8 and 0 <= found.cut <= 8


def test_scores_by_hand():
    assert exact_match(["a b", "a"], ["a b", "b"]).tolist() == [100.0, 0.0]
    # "the cat sat" and "the cat": two words in order of three and two; two letters of three and two of three
    assert rouge_of_words(["The cat, sat"], ["the cat"]) == pytest.approx([100 * 2 * 2 / 5])
    assert rouge_of_words(["日本語"], ["日本人"]) == pytest.approx([100 * 2 * 2 / 6])
    assert rouge_of_words([""], ["a"]) == pytest.approx([0.0])


def test_a_difference_of_single_rows_is_the_paired_t_interval():
    draws = np.random.default_rng(0)
    ours, theirs = draws.normal(size=20), draws.normal(size=20)
    found = difference(ours, theirs, np.ones(20), range(20))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    wider = difference(ours, theirs, np.ones(20), range(20), 0.99)
    assert wider.low < found.low and wider.value == found.value


def test_turns_of_a_conversation_are_one_draw_by_loops():
    draws = np.random.default_rng(1)
    ours, theirs, sizes = draws.normal(size=12), draws.normal(size=12), draws.integers(1, 9, size=12)
    clusters = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4]
    value = sum(a - b for a, b in zip(ours, theirs, strict=True)) / sum(sizes)
    sums = [0.0] * 5
    for a, b, size, cluster in zip(ours, theirs, sizes, clusters, strict=True):
        sums[cluster] += a - b - value * size
    error = math.sqrt(5 / 4 * sum(one**2 for one in sums)) / sum(sizes)
    found = difference(ours, theirs, sizes, clusters)
    assert found.value == pytest.approx(value)
    assert found.high - found.value == pytest.approx(float(stats.t.ppf(0.975, 4)) * error)


def test_nothing_is_decided_by_one_conversation_or_by_rows_that_all_move_alike():
    assert difference([1.0, 2.0], [0.0, 0.0], [1, 1], [0, 0]).low is None
    assert not difference([100.0] * 4, [0.0] * 4, [1] * 4, range(4)).decided


def test_start_teacher_and_student_are_set_side_by_side(folder):
    path = config_of(folder, extra="evaluate: {rows: 3, answers: 2}\n", steps=30)
    record = made(path)
    found = record["evaluation"]
    assert list(found) == ["start", "teacher", "student"]
    assert record["rows"]["evaluated"] == 3 and record["rows"]["trained_on"] == 5
    kept = json.loads((folder / "run" / FILE).read_text())
    held = Dataset.from_dict({"prompt": kept["prompts"], "completion": kept["references"]})
    for who, name in (("start", "student"), ("teacher", "teacher"), ("student", "run")):
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        again = measure(model, AutoTokenizer.from_pretrained(folder / name), held, WANTED, 12)
        assert kept["models"][who]["nats"] == pytest.approx(again.nats, rel=1e-5)
        loss = sum(again.nats) / sum(kept["tokens"])
        assert found[who]["loss"]["value"] == pytest.approx(loss, rel=1e-4)
    gap = found["student"]["loss"]["difference"]
    assert gap == pytest.approx(found["student"]["loss"]["value"] - found["start"]["loss"]["value"], rel=1e-3)
    lines = lines_of_record(record)
    head = next(n for n, line in enumerate(lines) if line.split()[:1] == ["loss"])
    assert lines[head + 3].startswith("student") and f"({gap:+.3f}" in lines[head + 3]
    assert max(map(len, lines[head:])) <= 80 and "ROUGE-L" in "".join(lines[head:])
    card = (folder / "run" / CARD).read_text()
    assert "| student |" in card and "## Before and after" in card and str(folder) not in card
    assert not any(word in card for word in kept["references"] if len(word) > 2), (
        "no row of the user's is in it"
    )


def test_an_evaluation_does_not_move_the_training(folder):
    (folder / "own.jsonl").write_text(json.dumps({"prompt": "zz|", "completion": "yy"}) + "\n")
    extra = "evaluate: {rows: 1, data: own.jsonl}\n"
    with pytest.raises(CatalogError, match="rows must be a whole number of 2 or more"):
        load_config(config_of(folder, "gkd", extra=extra))
    extra = extra.replace("rows: 1", "rows: 2")
    one, other = (
        made(config_of(folder, "gkd", name="with", extra=extra)),
        made(config_of(folder, "gkd", name="out")),
    )
    assert one["loss"] == other["loss"] and one["hash"] != other["hash"]
    weights = [AutoModelForCausalLM.from_pretrained(folder / name).state_dict() for name in ("with", "out")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=0)


def test_the_same_figures_after_a_kill(folder, stopped):
    extra = "evaluate: {rows: 3}\n"
    whole = made(config_of(folder, name="whole", extra=extra))
    path = config_of(folder, name="cut", extra=extra)
    with pytest.raises(KeyboardInterrupt), stopped(at=3):
        made(path)
    assert not (folder / "cut" / RECORD).exists()
    assert made(path)["evaluation"] == whole["evaluation"]
    assert (folder / "cut" / LOG).read_text() == (folder / "whole" / LOG).read_text()
    assert (folder / "cut" / PICTURE).is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate: {row: 3}", 'evaluate: unknown "row" (did you mean "rows"?)'),
        ("evaluate: {scores: [rouge]}", 'no score "rouge" (did you mean "rouge-l"?)'),
        ("evaluate: {data: no.jsonl}", '"data": no file'),
        ("evaluate: yes please", '"evaluate" must be true, or a mapping'),
        ("report_to: wandbb", 'report_to: no "wandbb" (did you mean "wandb"?)'),
        ("teacher: {modle: teacher}", 'teacher: unknown "modle" (did you mean "model"?)'),
        ("teacher: {model: teacher, dtyp: bf16}", 'teacher: unknown "dtyp" (did you mean "dtype"?)'),
        ("teacher: {model: teacher, dtype: bf61}", 'no dtype "bf61" (did you mean "bf16"?)'),
        ("teacher: {model: teacher, attention: sdpaa}", 'no attention "sdpaa" (did you mean "sdpa"?)'),
        ("teacher: {model: teacher, bits: 3}", '"bits" must be 4 or 8'),
        ("teacher: {model: techer}", 'did you mean "teacher"?'),
    ],
)
def test_mistakes_have_their_line(folder, line, message):
    path = config_of(folder, teacher=None if "teacher" in line else "teacher", extra=f"{line}\n")
    path.write_text(path.read_text())
    with pytest.raises(CatalogError) as error:
        load_config(path)
    assert message in str(error.value) and "run.yaml:" in str(error.value), str(error.value)


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_service_that_is_not_installed_is_said_before_anything(folder, package, monkeypatch):
    monkeypatch.setattr("reproductions.distill.watch.services.find_spec", lambda name: None)
    with pytest.raises(CatalogError, match=f"{package} needs the package {package}, which is not installed"):
        load_config(config_of(folder, extra=f"report_to: [{package}]\n"))


def test_a_teacher_in_bf16_with_another_attention(folder):
    record = made(config_of(folder, teacher="{model: teacher, dtype: bf16, attention: eager}"))
    plain = made(config_of(folder, name="plain"))
    assert record["inputs"]["loading of teacher 1"] == {"dtype": "bf16", "attention": "eager"}
    assert (
        record["loss"]["start"] == pytest.approx(plain["loss"]["start"], rel=0.02)
        and record["loss"] != plain["loss"]
    )


def test_four_bits_need_a_gpu_and_its_package(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CatalogError, match="a model in 4 bits needs "):
        load_config(config_of(folder, teacher="{model: teacher, bits: 4}"))


def test_a_table_by_hand():
    evaluation = {
        "tokens": [2, 2],
        "clusters": [0, 1],
        "models": {
            "start": {"nats": [4.0, 4.0], "scores": {"exact-match": [0.0, 0.0]}},
            "student": {"nats": [1.0, 2.0], "scores": {"exact-match": [100.0, 0.0]}},
        },
    }
    found = summary(evaluation)
    assert found["start"]["loss"] == {"value": 2.0} and found["student"]["loss"]["difference"] == -1.25
    table = rows_of(found)
    assert table[0] == ["", "loss (nats a token)", "exact match %"] and table[1] == ["start", "2.000", "0.0"]
    # d = (-3, -2), r = -1.25: residuals -0.5 and 0.5; sqrt(2 x 0.5) / 4 = 0.25; t(1, 97.5 %) = 12.706
    assert table[2][1] == "0.750 (-1.250 [-4.427, +1.927])"


def test_a_table_that_is_wider_than_a_terminal_goes_on_below():
    table = [["", "loss (nats a token)", "exact match %", "ROUGE-L", "seconds"]]
    table.append(["start", "15.056", "0.0", "0.0", ""])
    table.append(
        [
            "student",
            "11.294 (-3.761 [-4.635, -2.888])",
            "0.0 (+0.0 [+0.0, +0.0])",
            "7.7 (+7.7 [+4.6, +10.8])",
            "348.4",
        ]
    )
    lines = lines_of(table)
    assert max(map(len, lines)) <= 80 and lines.count("") == 1, lines
    assert [line.split()[0] for line in lines if line] == [
        "loss",
        "start",
        "student",
        "ROUGE-L",
        "start",
        "student",
    ]
    for cell in (cell for row in table for cell in row):
        assert cell in "\n".join(lines)
    beside = lines_of(table, 200)
    assert len(beside) == 3 and beside[2].endswith("348.4"), "side by side where there is room"
    assert len(lines_of(table, 20)) == 4 * 3 + 3, "one column each, uncut"


def test_too_few_rows_to_hold_any_out(folder):
    (folder / "data.jsonl").write_text('{"prompt": "a|", "completion": "b"}\n')
    with pytest.raises(KDError, match="two are needed, one to evaluate with"):
        made(config_of(folder, extra="evaluate: true\n"))
