"""L_PT beside a distillation: the sum of two means, each over its own tokens."""

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.slots.terms import Divergence, PlainText
from methods.trainers import Distiller, SFTConfig
from tests.methods.conftest import make_model
from tests.methods.trainers.one_update import ROWS

CORPUS = Dataset.from_list([{"text": text} for text in ("plain", "a|text", "that is longer", "o")])


def trained(tmp_path, tokenizer, *, weight, corpus=CORPUS, length=512):
    """The student's change by one SGD step of rate 1, and the trainer."""
    student, teacher = make_model("llama", seed=0), make_model("llama", seed=1)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    args = SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=1, learning_rate=1.0, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=3,
    )  # fmt: skip
    terms = [Divergence(), PlainText(corpus, weight=weight, max_length=length)]
    trainer = Distiller(
        student, teacher=teacher, args=args, terms=terms, train_dataset=ROWS, processing_class=tokenizer
    )
    trainer.train()
    return {name: p.detach() - before[name] for name, p in student.named_parameters()}, trainer


def mean_nll_gradient(tokenizer, length):
    """Of the plain forward pass in float64: -log q of every token of every text but the first."""
    model = make_model("llama", seed=0).double()
    total, count = 0.0, 0
    for row in CORPUS:
        ids = torch.tensor([tokenizer(row["text"])["input_ids"][:length]])
        logp = model(ids).logits.log_softmax(-1)[:, :-1]
        total = total - logp.gather(-1, ids[:, 1:, None]).sum()
        count += ids.shape[1] - 1
    (total / count).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("length", [512, 6])
def test_the_text_adds_the_gradient_of_its_own_mean(length, tmp_path, tokenizer):
    without, alone = trained(tmp_path, tokenizer, weight=0.0)
    with_text, trainer = trained(tmp_path, tokenizer, weight=0.7, length=length)
    for name, gradient in mean_nll_gradient(tokenizer, length).items():
        expected = without[name].double() - 0.7 * gradient
        torch.testing.assert_close(with_text[name].double(), expected, rtol=1e-3, atol=1e-6, msg=name)
    texts = sum(min(length, len(tokenizer(row["text"])["input_ids"])) for row in CORPUS)
    assert trainer.token_counts["student"] == alone.token_counts["student"] + texts
    assert len(alone.terms) == 1, "a term of weight 0 is left out"


def test_a_corpus_smaller_than_a_batch_is_refused(tmp_path, tokenizer):
    with pytest.raises(MethodError, match="2 texts, fewer than one batch"):
        trained(tmp_path, tokenizer, weight=1.0, corpus=CORPUS.select(range(2)))


def test_without_a_corpus_it_says_so():
    with pytest.raises(MethodError, match="needs a corpus"):
        PlainText(None)
