"""The teacher store: what is written comes back, what does not fit is refused, and it trains as its teacher does."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import head_of
from methods.slots.samplers import Example, OnPolicy, TeacherMixed
from methods.slots.targets import AverageLogits
from methods.slots.terms import Divergence
from methods.teachers import files
from methods.teachers.files import INDEX, RECORDS, StoreWriter
from methods.teachers.fill import fill, fill_hidden
from methods.teachers.identity import (
    data_fingerprint,
    example_keys,
    teacher_fingerprint,
    tokenizer_fingerprint,
)
from methods.teachers.store import TeacherStore
from methods.trainers import Distiller, SFTConfig
from methods.trainers.views import collate
from tests.methods.conftest import make_model
from tests.methods.teachers.test_teacher_codec import merged
from tests.methods.trainers.one_update import ROWS

EXACT = {"gain": 0.0, "resolution": 0.02, "max_k": 29}  # every id of the letters' vocabulary


# The files.


def batches_of(tokenizer, size=4):
    examples = [
        Example(tokenizer(r["prompt"])["input_ids"], [*tokenizer(r["completion"])["input_ids"], 1])
        for r in ROWS
    ]
    return [collate(examples[i : i + size], 0, torch.device("cpu")) for i in range(0, len(examples), size)]


def test_rows_are_found_by_content(tmp_path, tokenizer):
    teacher = make_model(seed=1, width=24)
    totals = fill(tmp_path / "s", teacher, batches_of(tokenizer), tokenizer=tokenizer, **EXACT)
    store = TeacherStore(tmp_path / "s")
    assert len(store) == totals["examples"] == 4 and totals["rows"] == 7 + 2 + 10 + 3
    assert totals["covered_mass"] == pytest.approx(1, abs=1e-5) and totals["max_error"] < 1e-3
    (whole,) = batches_of(tokenizer)
    left = {name: whole[name].flip(0) for name in ("input_ids", "attention_mask", "labels")}  # other order
    pad = {"input_ids": 7, "attention_mask": 0, "labels": -100}
    left = {name: torch.nn.functional.pad(t, (3, 1), value=pad[name]) for name, t in left.items()}
    assert [key for key, _ in example_keys(left)] == [key for key, _ in example_keys(whole)][::-1]
    rows = store.rows(left)
    with torch.no_grad():
        z = teacher(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"]).logits[:, :-1]
    keep = whole["labels"][:, 1:] != -100
    exact = torch.cat([z[i][keep[i]] for i in (3, 2, 1, 0)]).log_softmax(-1)
    assert rows.ids.shape == exact.shape
    dense = torch.zeros_like(exact).scatter_(-1, rows.ids, rows.log_probs)
    assert float((exact.exp() * (exact - dense)).sum(-1).max()) < 1e-3


def test_the_same_token_ids_with_another_boundary_are_another_example():
    ids = torch.tensor([[5, 6, 7, 8]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    keys = {
        example_keys({**batch, "labels": ids.masked_fill(torch.arange(4) < start, -100)})[0]
        for start in (1, 2, 3)
    }
    assert len(keys) == 3 and {rows for _, rows in keys} == {1, 2, 3}


def test_another_teacher_data_or_tokenizer_is_refused(tmp_path, tokenizer):
    teacher, batches = make_model(seed=1), batches_of(tokenizer)
    fill(tmp_path, teacher, batches, tokenizer=tokenizer)
    good = {
        "teacher": teacher_fingerprint(teacher),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "data": data_fingerprint(batches_of(tokenizer, 1)),
    }
    assert len(TeacherStore(tmp_path, **good)) == 4
    other = make_model(seed=1)
    other.lm_head.weight.data[0, 0] += 1e-3
    assert teacher_fingerprint(other) != good["teacher"]
    for name in good:
        with pytest.raises(MethodError, match=f"its {name} is {good[name]}, not else"):
            TeacherStore(tmp_path, **{**good, name: "else"})
    for changed, message in (
        ({"teacher": other}, "its teacher is"),
        ({"batches": batches_of(tokenizer, 2)[:1]}, "its data is"),
        ({"gain": 0.5}, "gain is 0.002, not 0.5"),
        ({"temperature": 2.0}, "temperature is 1.0, not 2.0"),
    ):
        arguments = {"teacher": teacher, "batches": batches, "tokenizer": tokenizer, **changed}
        with pytest.raises(MethodError, match=message):
            fill(tmp_path, **arguments)
    with pytest.raises(MethodError, match="kind is top_k, not hidden"):
        fill_hidden(tmp_path, teacher, batches, tokenizer=tokenizer)
    with pytest.raises(MethodError, match="no teacher store"):
        TeacherStore(tmp_path / "nowhere")


def test_a_damaged_or_unfinished_store_is_refused(tmp_path, tokenizer):
    teacher, batches = make_model(seed=1), batches_of(tokenizer)
    fill(tmp_path, teacher, batches, tokenizer=tokenizer)
    data = bytearray((tmp_path / RECORDS).read_bytes())
    data[25] ^= 1
    (tmp_path / RECORDS).write_bytes(data)
    with pytest.raises(MethodError, match="damaged at byte 0"):
        TeacherStore(tmp_path).rows(batches[0])
    header = json.loads((tmp_path / files.HEADER).read_text())
    (tmp_path / files.HEADER).write_text(json.dumps({**header, "complete": False}))
    with pytest.raises(MethodError, match="not finished"):
        TeacherStore(tmp_path)
    (tmp_path / files.HEADER).write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(MethodError, match="version 99"):
        TeacherStore(tmp_path)
    (tmp_path / files.HEADER).write_text("{")
    with pytest.raises(MethodError, match="not JSON"):
        TeacherStore(tmp_path)


@pytest.mark.parametrize("left_behind", ["nothing", "half an entry", "a record", "a lie", "no record"])
def test_an_interrupted_write_goes_on(tmp_path, tokenizer, left_behind):
    teacher, batches = make_model(seed=1), batches_of(tokenizer, 1)
    whole = fill(tmp_path / "whole", teacher, batches, tokenizer=tokenizer)
    seen = []

    def stop(done):
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "part", teacher, batches, tokenizer=tokenizer, progress=stop)
    records, index = tmp_path / "part" / RECORDS, tmp_path / "part" / INDEX
    if left_behind == "half an entry":
        index.write_bytes(index.read_bytes() + b"\x01" * 30)
    elif left_behind == "a record":
        records.write_bytes(records.read_bytes() + b"never indexed")
    elif left_behind == "a lie":  # an entry whose record did not reach the disk
        size = int(np.fromfile(index, files.ENTRY)[-1]["size"])
        data = records.read_bytes()
        records.write_bytes(data[:-size] + bytes(size))
    elif left_behind == "no record":
        records.write_bytes(records.read_bytes()[:-3])
    seen.clear()
    assert fill(tmp_path / "part", teacher, batches, tokenizer=tokenizer, progress=seen.append) == whole
    assert seen == ([3, 4] if left_behind in ("nothing", "half an entry", "a record") else [2, 3, 4])
    for name in (RECORDS, INDEX, "ranks.npy"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


KILLED = """
import os, signal, sys
from methods.teachers.fill import fill
from tests.methods.conftest import letter_tokenizer, make_model
from tests.methods.teachers.test_teacher_store import batches_of
t = letter_tokenizer()
def stop(done):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
from methods.teachers import fill as module
import methods.teachers.files as files
module.StoreWriter = lambda *a: files.StoreWriter(*a, batch=1)
fill(sys.argv[1], make_model(seed=1), batches_of(t, 1), tokenizer=t, progress=stop)
"""


@pytest.mark.slow
def test_a_killed_write_goes_on(tmp_path, tokenizer):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "part")], timeout=120)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(MethodError, match="not finished"):
        TeacherStore(tmp_path / "part")
    assert len(files.sound_entries(tmp_path / "part")) == 3
    arguments = (make_model(seed=1), batches_of(tokenizer, 1))
    whole = fill(tmp_path / "whole", *arguments, tokenizer=tokenizer)
    assert fill(tmp_path / "part", *arguments, tokenizer=tokenizer) == whole
    assert (tmp_path / "part" / RECORDS).read_bytes() == (tmp_path / "whole" / RECORDS).read_bytes()


def test_two_writers_do_not_meet(tmp_path):
    identity = files.Identity("t", "k", "d")
    content = {"kind": "top_k"}
    with StoreWriter(tmp_path, identity, content), pytest.raises(MethodError, match="another process"):
        StoreWriter(tmp_path, identity, content)
    with StoreWriter(tmp_path, identity, content) as writer:  # the first one has let go
        assert len(writer.entries) == 0


# Training.


def trained(tmp_path, tokenizer, teacher, *, batch=4, accumulate=1, student=None, **options):
    """Change of every parameter after one SGD step."""
    student = make_model(seed=0) if student is None else student
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    options.setdefault("terms", [Divergence()])
    args = SFTConfig(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
        max_steps=1, learning_rate=1.0, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True,
        bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", logging_strategy="no",
        disable_tqdm=True, seed=3,
    )  # fmt: skip
    trainer = Distiller(
        student, teacher=teacher, args=args, train_dataset=ROWS, processing_class=tokenizer,
        max_completion_length=4, **options,
    )  # fmt: skip
    trainer.train()
    return {name: p.detach() - before[name] for name, p in student.named_parameters()}, trainer


def assert_same(got, expected, rtol=1e-4, atol=1e-6):
    assert any(delta.abs().max() > 1e-3 for delta in expected.values()), "the step changed nothing"
    for name, delta in expected.items():
        torch.testing.assert_close(got[name], delta, rtol=rtol, atol=atol, msg=name)


def test_hidden_states_train_as_the_live_teacher(tmp_path, tokenizer):
    teachers = [make_model(seed=1, width=24), make_model("gpt2", seed=2)]
    stores = []
    for i, teacher in enumerate(teachers):
        fill_hidden(tmp_path / f"{i}", teacher, batches_of(tokenizer), tokenizer=tokenizer, dtype="float32")
        stores.append(TeacherStore(tmp_path / f"{i}"))
    terms = [
        Divergence("skew_reverse_kl", temperature=2.0),
        Divergence("forward_kl", target=AverageLogits([0.3, 0.7])),
        Divergence("cross_entropy", weight=0.1),
    ]
    live, trainer = trained(tmp_path, tokenizer, teachers, terms=terms)
    assert trainer.token_counts["teacher"] > 0
    mixed, _ = trained(tmp_path, tokenizer, [stores[0], teachers[1]], terms=terms, batch=2, accumulate=2)
    stored, trainer = trained(tmp_path, tokenizer, stores, terms=terms, batch=1, accumulate=4)
    assert_same(mixed, live)
    assert_same(stored, live)
    assert "teacher" not in trainer.token_counts


def test_half_precision_states_train_nearly_as_the_live_teacher(tmp_path, tokenizer):
    teacher = make_model(seed=1, width=24)
    totals = fill_hidden(tmp_path / "s", teacher, batches_of(tokenizer), tokenizer=tokenizer)
    assert totals["bytes_per_row"] == 48
    live, _ = trained(tmp_path, tokenizer, teacher)
    stored, _ = trained(tmp_path, tokenizer, TeacherStore(tmp_path / "s"))
    assert_same(stored, live, rtol=0.05, atol=0.02 * float(live["lm_head.weight"].abs().max()))


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_top_k_trains_as_the_teacher_whatever_the_micro_batches(tmp_path, tokenizer, name):
    teacher = make_model(seed=1, width=24)
    fill(tmp_path / "all", teacher, batches_of(tokenizer), tokenizer=tokenizer, **EXACT)
    fill(tmp_path / "some", teacher, batches_of(tokenizer), tokenizer=tokenizer, max_k=5)
    live, _ = trained(tmp_path, tokenizer, teacher, terms=[Divergence(name)])
    close, _ = trained(tmp_path, tokenizer, TeacherStore(tmp_path / "all"), terms=[Divergence(name)])
    assert_same(close, live, rtol=0.02, atol=0.02 * float(live["lm_head.weight"].abs().max()))
    some = TeacherStore(tmp_path / "some")
    assert some.totals["covered_mass"] < 0.99
    whole, _ = trained(tmp_path, tokenizer, some, terms=[Divergence(name)])
    for batch, accumulate in ((2, 2), (1, 4)):
        parts, _ = trained(
            tmp_path, tokenizer, some, terms=[Divergence(name)], batch=batch, accumulate=accumulate
        )
        assert_same(parts, whole)


def test_one_update_from_top_k_is_the_merged_formula(tmp_path, tokenizer):
    teacher, student = make_model(seed=1), make_model(seed=0)
    (batch,) = batches_of(tokenizer)
    fill(tmp_path / "s", teacher, [batch], tokenizer=tokenizer, max_k=4, gain=0.0)
    store = TeacherStore(tmp_path / "s")
    got, _ = trained(tmp_path, tokenizer, store, student=make_model(seed=0), terms=[Divergence("reverse_kl")])
    keep = batch["labels"][:, 1:] != -100
    z = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1][keep]
    rows = store.rows(batch)
    total = torch.zeros(())
    for log_q, ids, log_p, tail in zip(z.log_softmax(-1), rows.ids, rows.log_probs, rows.tail, strict=True):
        q = merged(log_q, ids, torch.ones(4, dtype=torch.bool))
        total = total + (q.exp() * (q - torch.cat([log_p, tail.unsqueeze(0)]))).sum()
    (total / int(keep.sum())).backward()
    assert_same(got, {name: -p.grad for name, p in student.named_parameters()}, rtol=1e-3, atol=1e-5)


def test_what_a_store_cannot_do_is_said(tmp_path, tokenizer):
    teacher = make_model(seed=1)
    fill(tmp_path / "s", teacher, batches_of(tokenizer)[:1], tokenizer=tokenizer)
    store = TeacherStore(tmp_path / "s")
    for options, message in (
        ({"sampler": OnPolicy(1.0)}, "does not hold this example"),
        ({"sampler": TeacherMixed(0.5)}, "cannot generate"),
        ({"terms": [Divergence(target=AverageLogits())]}, "cannot be mixed"),
        ({"terms": [Divergence(temperature=2.0)]}, "temperature"),
    ):
        with pytest.raises(MethodError, match=message):
            trained(tmp_path, tokenizer, store, **options)
    other = make_tokenizer_with_swapped_letters(tokenizer)
    with pytest.raises(MethodError, match="its tokenizer is"):
        store.check_tokenizer(other)


def make_tokenizer_with_swapped_letters(tokenizer):
    class Other:
        def get_vocab(self):
            vocab = dict(tokenizer.get_vocab())
            vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
            return vocab

    return Other()


def test_the_head_of_a_store_is_the_teacher_s(tmp_path, tokenizer):
    teacher = make_model("gpt2", seed=1)
    fill_hidden(tmp_path, teacher, batches_of(tokenizer), tokenizer=tokenizer, dtype="float32")
    _, head = TeacherStore(tmp_path).rows(batches_of(tokenizer)[0])
    assert torch.equal(head.weight, head_of(teacher).weight) and head.scale == 1 and head.bias is None
