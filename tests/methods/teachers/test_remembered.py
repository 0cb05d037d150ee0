"""What a teacher is remembered to have said, against asking it: row by row, and in a step of training."""

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.modeling.core import hidden_states
from methods.slots.terms import Divergence
from methods.teachers.remembered import RememberedStates, remember_states, size_of_states
from methods.tokenizers.encoding import SKIP_PREPARATION, encode
from methods.trainers import Distiller, SFTConfig, Teacher
from tests.methods.conftest import ONE_STEP, make_model

ROWS = [("ab|", "xyz"), ("hello|", "q"), ("c|", "dddd"), ("mode|", "gap"), ("x|", "yx"), ("abc|", "")]


@pytest.fixture(scope="module")
def rows(tokenizer):
    texts = {"prompt": [p for p, _ in ROWS], "completion": [c for _, c in ROWS]}
    return encode(Dataset.from_dict(texts), tokenizer, 9)


def collated(rows, width=12):
    ids, labels = (rows[name][:] for name in ("input_ids", "labels"))
    pad = lambda row, value: row + [value] * (width - len(row))  # noqa: E731
    return {
        "input_ids": torch.tensor([pad(row, 0) for row in ids]),
        "attention_mask": torch.tensor([pad([1] * len(row), 0) for row in ids]),
        "labels": torch.tensor([pad(row, -100) for row in labels]),
    }


def refuse(part):
    raise AssertionError("a row that is known was asked again")


def test_states_are_those_of_each_row_alone_in_whatever_order(rows):
    teacher = make_model(seed=5).eval()
    table = RememberedStates(remember_states(teacher, rows))
    shuffled = rows.select([4, 0, 3, 3, 5])
    expected = []
    for ids, labels in zip(shuffled["input_ids"], shuffled["labels"], strict=True):
        with torch.no_grad():
            hidden = hidden_states(teacher, torch.tensor([ids]), torch.ones(1, len(ids)))[0]
        expected.append(hidden[:-1][torch.tensor(labels[1:]) != -100])
    found = table.of(collated(shuffled), refuse)
    assert (found - torch.cat(expected)).abs().max() < 1e-5
    assert size_of_states(rows, 16) == table.states.numel() * 4


def test_rows_that_are_not_known_are_asked_and_stand_in_their_place(rows):
    teacher = make_model(seed=5).eval()
    whole = RememberedStates(remember_states(teacher, rows)).of(collated(rows), refuse)
    part = RememberedStates(remember_states(teacher, rows.select([0, 2, 5])))
    asked = []

    def ask(batch):
        asked.append(len(batch["input_ids"]))
        with torch.no_grad():
            hidden = hidden_states(teacher, batch["input_ids"], batch["attention_mask"])
        return hidden[:, :-1][batch["labels"][:, 1:] != -100]

    assert (part.of(collated(rows), ask) - whole).abs().max() < 1e-5
    assert asked == [3]


def update(tokenizer, rows, teacher):
    student = make_model(seed=1)
    before = [p.detach().clone() for p in student.parameters()]
    args = SFTConfig(output_dir="unused", per_device_train_batch_size=6, **ONE_STEP, **SKIP_PREPARATION)
    trainer = Distiller(
        student,
        terms=[Divergence("forward_kl")],
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        teacher=teacher,
    )
    trainer.train()
    moved = torch.cat([(a - b).flatten() for a, b in zip(student.parameters(), before, strict=True)])
    return moved.detach(), trainer.token_counts


def test_a_step_with_it_is_the_step_without_it(tokenizer, rows, tmp_path, monkeypatch):
    """The same gradient, the same tokens counted; and another gradient where it remembers wrongly."""
    monkeypatch.chdir(tmp_path)
    teacher = make_model(seed=5)
    tensors = remember_states(teacher.eval(), rows)
    without, counted = update(tokenizer, rows, Teacher(teacher))
    calls = []
    teacher.model.register_forward_hook(lambda *a: calls.append(1))
    known, counted_too = update(tokenizer, rows, Teacher(teacher, states=RememberedStates(tensors)))
    assert not calls, "the teacher was asked"
    assert (known - without).abs().max() < 1e-6 * float(without.abs().max()) + 1e-7
    assert counted == counted_too and counted["teacher"] > 0
    tensors["states"] = tensors["states"].roll(1, 0)
    wrong, _ = update(tokenizer, rows, Teacher(teacher, states=RememberedStates(tensors)))
    assert (wrong - without).abs().max() > 1e-3


def test_what_encoding_gave_is_kept_by_content(tokenizer, monkeypatch):
    from methods.tokenizers import encoding

    made = []
    whole = encoding._encoded
    monkeypatch.setattr(encoding, "_encoded", lambda *a: made.append(1) or whole(*a))
    texts = {"prompt": ["kd|", "ab|"], "completion": ["x", "yz"], "domain": ["a", "b"]}
    one, two = Dataset.from_dict(texts), Dataset.from_dict(texts)
    assert encode(one, tokenizer, 9) is encode(two, tokenizer, 9) and made == [1]
    others = [
        lambda: encode(Dataset.from_dict({**texts, "completion": ["x", "yy"]}), tokenizer, 9),
        lambda: encode(Dataset.from_dict({**texts, "prompt": ["kd|a", "b|"]}), tokenizer, 9),
        lambda: encode(one, tokenizer, 4),
        lambda: encode(one, tokenizer, 9, "domain"),
    ]
    for count, other in enumerate(others, 2):
        found = other()
        assert len(made) == count
        assert other() is found and len(made) == count
    with pytest.raises(MethodError, match='no column "domains"'):
        encode(one, tokenizer, 9, "domains")
