"""Encoders that learn classes: the update is the gradient of the terms' mean over labels, whatever the batches."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    RobertaConfig,
    TrainingArguments,
)

from methods.classes import trainer as trainer_module
from methods.classes.model import classifier_states, head_of_classifier
from methods.classes.trainer import ClassDistiller
from methods.errors import MethodError
from methods.modeling.cut import keep_blocks
from methods.slots.terms.divergence import Divergence, NextToken
from methods.slots.terms.hidden import HiddenMatch
from methods.trainers.teachers import Teacher
from tests.methods.conftest import ONE_STEP, letter_tokenizer, pair_tokenizer

TEXTS = ["abc|", "d|", "efgha|", "bc|", "aaaa|", "z|", "hello|", "kd|"]
LABELS = [0, 2, 1, 1, 0, 2, 2, 1]
PLAIN = {"vocab_size": 40, "pad_token_id": 0, "num_labels": 3}
CONFIGS = {
    "bert": lambda **more: BertConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=32, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **PLAIN, **more,
    ),
    "roberta": lambda **more: RobertaConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=32, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **PLAIN, **more,
    ),
    "distilbert": lambda num_hidden_layers=2, **more: DistilBertConfig(
        dim=16, n_layers=num_hidden_layers, n_heads=2, hidden_dim=32, dropout=0.0, attention_dropout=0.0,
        seq_classif_dropout=0.0, **PLAIN, **more,
    ),
}  # fmt: skip


def model_of(kind="bert", *, seed=0, layers=2, tokens=False, **more):
    torch.manual_seed(seed)
    auto = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    model = auto.from_config(CONFIGS[kind](num_hidden_layers=layers, **more))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def rows_of(tokenizer, *, tokens=False, other=None):
    made = [tokenizer(text) for text in TEXTS]
    rows = {name: [list(one[name]) for one in made] for name in ("input_ids", "attention_mask")}
    rows["labels"] = LABELS
    rows["row"] = list(range(len(TEXTS)))
    if tokens:  # of every second token, and of none of the fourth text
        rows["labels"] = [
            [-100 if n % 2 or place == 3 else (n + place) % 3 for n in range(len(ids))]
            for place, ids in enumerate(rows["input_ids"])
        ]
    if other is not None:
        theirs = [other(text) for text in TEXTS]
        rows |= {
            f"teacher_0_{name}": [list(one[name]) for one in theirs]
            for name in ("input_ids", "attention_mask")
        }
    return Dataset.from_dict(rows)


def trained(tmp_path, model, terms, *, teacher=None, batch=8, tokens=False, other=None, ranks=1, **more):
    tokenizer = letter_tokenizer()
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=8 // (batch * ranks),
        **{**ONE_STEP, **more},
    )  # fmt: skip
    trainer = ClassDistiller(
        copy.deepcopy(model),
        terms=terms,
        args=args,
        train_dataset=rows_of(tokenizer, tokens=tokens, other=other),
        processing_class=tokenizer,
        teacher=teacher,
    )
    trainer.train()
    return trainer


def change(before, after):
    return {name: before.state_dict()[name] - tensor for name, tensor in after.state_dict().items()}


def whole(model, tokens=False, tokenizer=None):
    """Logits at the labels and the labels, each text read alone."""
    rows = rows_of(tokenizer or letter_tokenizer(), tokens=tokens)
    logits, labels = [], []
    for row in rows:
        said = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        kept = torch.tensor(row["labels"])
        logits.append(said[kept != -100] if tokens else said.unsqueeze(0))
        labels.append(kept[kept != -100] if tokens else kept.unsqueeze(0))
    return torch.cat(logits), torch.cat(labels)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("batch", [8, 4, 1])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_an_update_is_the_gradient_of_the_mean_over_labels(kind, batch, tokens, tmp_path):
    """0.3 CE and 0.7 T^2 KL(teacher, student) at T = 2, by autograd on texts that are read alone."""
    student, teacher = (
        model_of(kind, seed=1, tokens=tokens),
        model_of("bert", seed=2, layers=3, tokens=tokens),
    )
    terms = [
        NextToken(weight=0.3),
        Divergence("forward-kl", weight=0.7, temperature=2.0, temperature_squared=True),
    ]
    after = trained(tmp_path, student, terms, teacher=teacher, batch=batch, tokens=tokens).model
    expected = copy.deepcopy(student)
    logits, labels = whole(expected, tokens)
    with torch.no_grad():
        theirs, _ = whole(teacher, tokens)
    divergence = functional.kl_div(
        (logits / 2).log_softmax(-1), (theirs / 2).log_softmax(-1), reduction="batchmean", log_target=True
    )
    (0.3 * functional.cross_entropy(logits, labels) + 0.7 * 4 * divergence).backward()
    found = change(student, after)
    for name, parameter in expected.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("batch", [4, 2, 1])
def test_micro_batches_do_not_matter(batch, tmp_path):
    """Every term that an encoder has, on texts that are padded to different lengths."""
    from tests.methods.classes.one_update import both_updates

    whole_batch = both_updates(tmp_path)
    for name, delta in both_updates(tmp_path, batch).items():
        torch.testing.assert_close(delta, whole_batch[name], rtol=1e-3, atol=2e-6)


@pytest.mark.slow
def test_ranks_do_not_matter(tmp_path):
    """Two processes of four texts each, with other numbers of labels, make the step of one with eight."""
    out = tmp_path / "two.safetensors"
    words = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29541"]
    subprocess.run(
        [sys.executable, "-m", *words, "-m", "tests.methods.classes.one_update", str(out)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    from tests.methods.classes.one_update import both_updates

    two = load_file(out)
    for name, delta in both_updates(tmp_path).items():
        torch.testing.assert_close(two[name], delta, rtol=1e-3, atol=2e-6)


MUTATIONS = {
    "each batch divides by its own labels": ("window_mean", lambda total, count, accelerator: total / 4),
    "places without a label count": ("labelled", lambda labels: torch.ones_like(labels, dtype=torch.bool)),
    "the student's own head stands for the teacher's": ("head_of_classifier", None),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_oracle_catches_what_is_wrong(name, tmp_path, monkeypatch):
    what, wrong = MUTATIONS[name]
    if wrong is None:
        mine, first = trainer_module.head_of_classifier, []
        wrong = lambda model: first[0] if first else first.append(mine(model)) or first[0]  # noqa: E731
    monkeypatch.setattr(trainer_module, what, wrong)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        test_an_update_is_the_gradient_of_the_mean_over_labels("bert", 4, True, tmp_path)


def test_patient_states_are_those_of_the_first_token_without_the_last_block(tmp_path):
    """PKD-Skip: of a student of 2 blocks and a teacher of 4 that is block 0 with block 1, by hand."""
    student, teacher = model_of(seed=1, layers=2), model_of(seed=2, layers=4)
    term = HiddenMatch(
        "uniform-but-last", weight=3.0, distance="normalised-squared-error", filters="identity"
    )
    after = trained(tmp_path, student, [term], teacher=teacher, batch=2).model
    assert term.layers == ((0, 1),) and not list(term.parameters())
    expected, losses = copy.deepcopy(student), []
    for row in rows_of(letter_tokenizer()):
        ids = torch.tensor([row["input_ids"]])
        ours = expected(input_ids=ids, output_hidden_states=True).hidden_states[1][0, 0]
        theirs = teacher(input_ids=ids, output_hidden_states=True).hidden_states[2][0, 0].detach()
        losses.append((ours / ours.norm() - theirs / theirs.norm()).square().sum() / 16)
    (3.0 * torch.stack(losses).mean()).backward()
    found = change(student, after)
    for name, parameter in expected.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-7)


def test_a_teacher_reads_what_its_own_tokenizer_made(tmp_path):
    student, teacher, other = model_of(seed=1), model_of(seed=2), pair_tokenizer()
    after = trained(
        tmp_path, student, [Divergence("forward-kl")], teacher=Teacher(teacher, other), batch=4, other=other
    )
    expected = copy.deepcopy(student)
    logits, _ = whole(expected)
    with torch.no_grad():
        theirs, _ = whole(teacher, tokenizer=other)
        ours_read, _ = whole(teacher)
    assert (theirs - ours_read).abs().max() > 0.1, (
        "the tokenizers cut these texts alike: this test shows nothing"
    )
    functional.kl_div(
        logits.log_softmax(-1), theirs.log_softmax(-1), reduction="batchmean", log_target=True
    ).backward()
    weight = "classifier.weight"
    found = change(student, after.model)[weight]
    torch.testing.assert_close(found, expected.get_parameter(weight).grad, rtol=1e-3, atol=2e-6)
    read = sum(len(other(text)["input_ids"]) for text in TEXTS)
    assert after.token_counts == {"student": sum(map(len, TEXTS)), "teacher": read}


def test_a_learned_map_trains_along_and_the_student_is_plain(tmp_path):
    student, teacher = model_of(seed=1), model_of(seed=2, layers=4, id2label={0: "a", 1: "b", 2: "c"})
    student.config.id2label = {0: "a", 1: "b", 2: "c"}
    term = HiddenMatch("uniform")
    trainer = trained(tmp_path, student, [term, NextToken()], teacher=teacher)
    assert (term.student_filters.weight.grad is not None) or trainer.state.global_step == 1
    trainer.model.save_pretrained(tmp_path / "saved")
    _, told = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not told["unexpected_keys"] and not told["missing_keys"]


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path):
    student, teacher = model_of(seed=1), model_of(seed=2, layers=4)
    steps = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "learning_rate": 0.1,
        "optim": "adamw_torch",
    }

    def trainer(folder):
        tokenizer = letter_tokenizer()
        args = TrainingArguments(
            output_dir=str(tmp_path / folder), per_device_train_batch_size=4, **{**ONE_STEP, **steps}
        )
        return ClassDistiller(
            copy.deepcopy(student), terms=[NextToken(), HiddenMatch("uniform", seed=1)], args=args,
            train_dataset=rows_of(tokenizer), processing_class=tokenizer, teacher=teacher,
        )  # fmt: skip

    straight, broken = trainer("one"), trainer("two")
    straight.train()
    broken.train()
    again = trainer("two")
    again.train(resume_from_checkpoint=str(tmp_path / "two" / "checkpoint-2"))
    assert again.token_counts == straight.token_counts
    for name, tensor in straight.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor)
    ours, theirs = (one.terms[1].student_filters.weight for one in (again, straight))
    torch.testing.assert_close(ours, theirs)


def test_heads_and_states_make_the_models_own_logits():
    for kind in CONFIGS:
        model = keep_blocks(model_of(kind, layers=4), 2)
        row = rows_of(letter_tokenizer())[2]
        batch = {"input_ids": torch.tensor([row["input_ids"]])}
        with torch.no_grad():
            states, _ = classifier_states(model, batch, torch.tensor([True]))
            torch.testing.assert_close(head_of_classifier(model).logits(states), model(**batch).logits)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: trained(path, model_of(), [], teacher=None), "at least one term"),
        (lambda path: trained(path, model_of(), [Divergence("forward-kl")]), "no teacher is given"),
        (
            lambda path: trained(
                path, model_of(), [NextToken()], teacher=model_of(id2label={0: "c", 1: "b", 2: "a"})
            ),
            "teacher's classes are c, b, a, the student's LABEL_0",
        ),
        (
            lambda path: trained(path, model_of(problem_type="multi_label_classification"), [NextToken()]),
            "one label of several",
        ),
        (lambda path: trained(path, model_of(layers=1), [HiddenMatch("uniform-but-last", filters="identity")],
                              teacher=model_of(layers=2)), "none but the last"),
        (lambda path: trained(path, model_of(), [HiddenMatch("uniform", filters="task")], teacher=model_of()),
         "learn the task first"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, said, tmp_path):
    with pytest.raises(MethodError, match=said):
        make(tmp_path)
