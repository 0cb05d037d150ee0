"""What a teacher said of fixed texts takes the place of the teacher: the update is the same."""

import pytest
import torch
from transformers import TrainingArguments

from methods.classes.encoding import encoded_texts
from methods.classes.remembered import RememberedClasses, remember_classes
from methods.classes.trainer import ClassDistiller, ClassesCollator
from methods.errors import MethodError
from methods.modeling.cut import keep_blocks
from methods.slots.terms.divergence import Divergence
from methods.slots.terms.hidden import HiddenMatch
from tests.methods.classes.test_trainer import LABELS, ONE_STEP, TEXTS, change, model_of
from tests.methods.conftest import letter_tokenizer


def rows():
    return encoded_texts(TEXTS, LABELS, {"": letter_tokenizer()}, 8)[0]


def update(tmp_path, teacher, tables=None):
    student = model_of(seed=3)
    terms = [
        Divergence("forward-kl", temperature=2.0),
        HiddenMatch("uniform-but-last", distance="normalised-squared-error", filters="identity"),
    ]
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    args = TrainingArguments(output_dir=str(tmp_path), **sizes, **ONE_STEP)
    trainer = ClassDistiller(
        student,
        terms=terms,
        args=args,
        train_dataset=rows(),
        processing_class=letter_tokenizer(),
        teacher=teacher,
        remembered=None if tables is None else [RememberedClasses(tables)],
    )
    trainer.train()
    assert trainer.token_counts["teacher"] == sum(map(len, rows()["input_ids"][:])), "as if it had read"
    return change(model_of(seed=3), trainer.model)


def tables_of(teacher):
    return remember_classes(teacher, rows(), ClassesCollator({"": letter_tokenizer()}))


def test_an_update_with_it_is_that_with_the_teacher_itself(tmp_path):
    teacher = model_of(seed=1, layers=4)
    live, known = update(tmp_path, teacher), update(tmp_path, teacher, tables_of(teacher))
    assert live.keys() == known.keys()
    for name, step in live.items():
        assert torch.allclose(step, known[name], atol=1e-6), name
    turned = {name: table.roll(1, 0) for name, table in tables_of(teacher).items()}
    other = update(tmp_path, teacher, turned)
    assert any(not torch.allclose(live[name], other[name], atol=1e-4) for name in live), (
        "another text's states"
    )


def test_it_holds_every_block_in_the_order_of_the_rows():
    teacher = model_of(seed=1, layers=3)
    tables = tables_of(teacher)
    assert {name: tuple(table.shape) for name, table in tables.items()} == {
        name: (len(TEXTS), 16) for name in ("states", "block-0", "block-1", "block-2")
    }
    for place, row in enumerate(rows()):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            alone = keep_blocks(model_of(seed=1, layers=3), [0, 1]).bert(ids).last_hidden_state[0, 0]
        assert torch.allclose(tables["block-1"][place], alone, atol=1e-6)


def test_a_block_that_is_not_there_is_refused():
    known = RememberedClasses(tables_of(model_of(seed=1, layers=2)))
    assert known.of(torch.tensor([3, 0]), [1])[0].shape == (2, 16)
    with pytest.raises(MethodError, match="no block 2; it has 0 to 1"):
        known.of(torch.tensor([0]), [2])
