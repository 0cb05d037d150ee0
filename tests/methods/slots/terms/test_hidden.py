"""Hidden states between the layers against the plain forward pass, and the losses on them in float64."""

import copy

import pytest
import torch
from datasets import Dataset
from torch import nn

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES
from methods.modeling.core import hidden_states
from methods.slots.features import (
    LayerFilters,
    cosine_distance,
    recorded_blocks,
    squared_error,
    uniform_layers,
)
from methods.slots.terms import Divergence, HiddenMatch, NextToken, TaskFilters
from methods.trainers import Distiller, SFTConfig, Teacher
from tests.methods.conftest import make_model, pair_tokenizer
from tests.methods.trainers.test_distiller import DATA, a_batch, logits_and_labels


def arguments(tmp_path, steps=1, rate=0.5, optim="sgd"):
    return SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=steps, learning_rate=rate, optim=optim,
        lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=3,
    )  # fmt: skip


def block_outputs(model, batch):
    """Outputs of all blocks by the plain forward pass; for the last one the norm behind it is taken out."""
    bare = copy.deepcopy(model)
    name = "norm" if hasattr(bare.base_model, "norm") else "ln_f"
    setattr(bare.base_model, name, nn.Identity())
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return bare.base_model(**asked, output_hidden_states=True).hidden_states[1:]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (6, 12, [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
        (2, 3, [(0, 1), (1, 2)]),
        (3, 3, [(0, 0), (1, 1), (2, 2)]),
        (1, 5, [(0, 4)]),
    ],
)
def test_layers_are_shared_out_evenly(student, teacher, expected):
    assert uniform_layers(student, teacher) == expected


def test_a_teacher_with_fewer_layers_is_refused():
    with pytest.raises(MethodError, match="2 teacher blocks"):
        uniform_layers(3, 2)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_recorded_outputs_are_those_of_the_forward_pass(kind, tokenizer):
    model, batch = make_model(kind, layers=3), a_batch(tokenizer)
    with recorded_blocks(model, [0, 2]) as states:
        hidden_states(model, batch["input_ids"], batch["attention_mask"])
        expected, mask = block_outputs(model, batch), batch["attention_mask"].bool()
        assert set(states) == {0, 2}
        for block in (0, 2):
            torch.testing.assert_close(states[block][mask], expected[block][mask])
    hidden_states(model, batch["input_ids"], batch["attention_mask"])
    assert not states, "nothing is recorded outside"


def test_distances_are_their_formulas():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 5.0], [0.0, 2.0]])
    assert squared_error(a, b).tolist() == [5.0, 2.5]
    assert cosine_distance(a, b).tolist() == pytest.approx([0.2, 1.0])


def test_filters_come_back_as_they_were_saved(tmp_path):
    filters = LayerFilters((2, 0), 6, 4, seed=1)
    filters.save_pretrained(tmp_path)
    again, x = LayerFilters.from_pretrained(tmp_path), torch.randn(3, 6)
    assert again.blocks == (2, 0) and torch.equal(again(2, x), filters(2, x))
    torch.testing.assert_close(again(0, x), x @ filters.weight[1].T + filters.bias[1])


@pytest.mark.parametrize("filtered", [True, False])
def test_matching_is_the_formula_on_all_hidden_states(tmp_path, tokenizer, filtered):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24, layers=4).double()
    ours = LayerFilters((0, 1), 16, 10 if filtered else 24, seed=2).double()
    theirs = LayerFilters((1, 3), 24, 10, seed=3).double() if filtered else None
    terms = [
        NextToken(),
        Divergence("forward_kl", weight=5 * 2.0**2, temperature=2.0),
        HiddenMatch(filters=(ours, theirs), weight=0.7),
    ]
    trainer = Distiller(
        student, teacher=teacher, terms=terms, args=arguments(tmp_path), train_dataset=DATA,
        processing_class=tokenizer,
    )  # fmt: skip
    batch = a_batch(tokenizer)
    loss = trainer.compute_loss(student, batch, num_items_in_batch=torch.tensor(11))
    loss.backward()
    trained = {**dict(student.named_parameters()), **{f"filters.{n}": p for n, p in ours.named_parameters()}}
    got = {name: p.grad.clone() for name, p in trained.items()}
    for p in trained.values():
        p.grad = None

    z, labels, keep = logits_and_labels(student, batch)
    p = logits_and_labels(teacher, batch)[0].detach()
    # Block 0's output is in the plain pass; the last one's comes without the final norm.
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with_norm = student.base_model.norm
    student.base_model.norm = nn.Identity()
    h = [s[:, :-1][keep] for s in student.base_model(**asked, output_hidden_states=True).hidden_states[1:]]
    student.base_model.norm = with_norm
    g = [s[:, :-1][keep].detach() for s in block_outputs(teacher, batch)]
    if filtered:
        g[1], g[3] = (g[t] @ theirs.weight[i].T + theirs.bias[i] for i, t in enumerate((1, 3)))
    matching = [
        ((h[s] @ ours.weight[s].T + ours.bias[s] - g[t].detach()) ** 2).mean(-1).sum()
        for s, t in ((0, 1), (1, 3))
    ]
    expected = (
        nn.functional.cross_entropy(z, labels, reduction="sum")
        + 20 * DIVERGENCES["forward_kl"](z, p, temperature=2.0).sum()
        + 0.7 * sum(matching) / 2
    ) / 11
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in trained.items():
        # Llama's norms compute in fp32 and the oracle runs them twice, so gradients agree to fp32 only.
        atol = 1e-6 * float(parameter.grad.abs().max())
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-6, atol=atol)
    if filtered:
        assert theirs.weight.grad is None and not theirs.weight.requires_grad


def test_filters_learn_and_the_model_stays(tmp_path, tokenizer):
    model = make_model(seed=0)
    before = copy.deepcopy(model.state_dict())
    filters = LayerFilters((0, 1), 16, 8)
    was = filters.weight.detach().clone()
    term = TaskFilters(filters)
    trainer = Distiller(
        model, terms=[term], args=arguments(tmp_path, 40, 0.02, "adamw_torch"), train_dataset=DATA,
        processing_class=tokenizer,
    )  # fmt: skip
    batch = a_batch(tokenizer)
    tokens = (batch["labels"] != -100).sum()
    first = trainer.compute_loss(model, batch, num_items_in_batch=tokens)
    z, labels, keep = logits_and_labels(model, batch)
    model.float()
    states = [s[:, :-1][keep] for s in block_outputs(model, batch)]
    losses = [
        nn.functional.cross_entropy(
            (states[i] @ filters.weight[i].T + filters.bias[i]) @ term.heads.weight[i].T + term.heads.bias[i],
            labels,
        )
        for i in (0, 1)
    ]
    assert first.item() == pytest.approx(sum(losses).item() / 2, rel=1e-4)
    trainer.train()
    last = trainer.compute_loss(model, batch, num_items_in_batch=tokens)
    assert last < 0.5 * first and (filters.weight - was).abs().max() > 1e-2
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_student_leaves_without_its_filters(tmp_path, tokenizer):
    student = make_model(seed=0)
    names = set(student.state_dict())
    filters = LayerFilters((0,), 16, 24)
    was = filters.weight.detach().clone()
    trainer = Distiller(
        student, teacher=make_model(seed=1, width=24), args=arguments(tmp_path), train_dataset=DATA,
        processing_class=tokenizer, terms=[HiddenMatch([(0, 1)], filters=(filters, None), distance="cosine")],
    )  # fmt: skip
    trainer.train()
    assert set(student.state_dict()) == names
    assert not torch.equal(filters.weight, was), "the optimizer had them"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": "cosin"}, "unknown distance"),
        ({"layers": "all"}, "layers are"),
        ({"filters": "tasks"}, "filters are"),
        ({"filters": (LayerFilters((0,), 16, 10), None)}, "the aim has 24"),
        ({"layers": [(1, 1)]}, "not for all of"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, tokenizer, changes, message):
    options = {"layers": [(0, 1)], "filters": (LayerFilters((0,), 16, 24), None)} | changes
    with pytest.raises(MethodError, match=message):
        Distiller(
            make_model(seed=0), teacher=make_model(seed=1, width=24), args=arguments(tmp_path),
            train_dataset=Dataset.from_list(list(DATA)), processing_class=tokenizer, terms=[HiddenMatch(**options)],
        )  # fmt: skip


def test_task_filters_are_those_of_a_training_of_their_own(tmp_path, tokenizer):
    """Stage I in the term is stage I by hand: the student's filters from the trainer's seed, the teacher's from 0."""
    models = {3: make_model(seed=0), 0: make_model(seed=1, width=24)}
    by_hand = []
    for seed, model in models.items():
        args = arguments(tmp_path, 5, 0.02, "adamw_torch")
        args.seed = args.data_seed = seed
        filters = LayerFilters((0, 1), model.config.hidden_size, 24, seed=seed)
        Distiller(
            copy.deepcopy(model), terms=[TaskFilters(filters)], args=args, train_dataset=DATA,
            processing_class=tokenizer,
        ).train()  # fmt: skip
        by_hand.append(filters)
    torch.manual_seed(8)
    term = HiddenMatch(filters="task", filter_learning_rate=0.02)
    student = models[3]
    Distiller(
        student, teacher=models[0], terms=[NextToken(), term], args=arguments(tmp_path, 5, 0.5, "adamw_torch"),
        train_dataset=DATA, processing_class=tokenizer,
    )  # fmt: skip
    assert torch.equal(term.student_filters.weight, by_hand[0].weight)
    assert torch.equal(term.teacher_filters[0].weight, by_hand[1].weight)
    assert all(p.requires_grad for p in student.parameters()), "the student's own weights still learn"


def test_across_tokenizers_states_that_have_read_the_same_text_are_compared(tmp_path, tokenizer):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24, vocabulary=40).double()
    filters = LayerFilters((0, 1), 16, 24, seed=2).double()
    term = HiddenMatch([(0, 1), (1, 0)], filters=(filters, None), weight=0.7)
    trainer = Distiller(
        student, teacher=Teacher(teacher, pair_tokenizer()), terms=[term], args=arguments(tmp_path),
        train_dataset=DATA, processing_class=tokenizer,
    )  # fmt: skip
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(student, batch, num_items_in_batch=(batch["labels"][:, 1:] != -100).sum())
    total, chunks = 0.0, 0
    for row in DATA:
        sides = []
        for model, own in ((student, tokenizer), (teacher, pair_tokenizer())):
            ids = [token for part in ("prompt", "completion") for token in own(row[part])["input_ids"]] + [1]
            asked = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
            spelled, places = 0, {}
            for place, token in enumerate(ids):
                places[spelled] = place - 1  # the state that predicts the token which begins here
                spelled += len(own.convert_ids_to_tokens(token)) if token != 1 else 1
            sides.append((places, block_outputs(model, asked)))
        for byte in sorted(set(sides[0][0]) & set(sides[1][0])):
            if byte < len(row["prompt"]):
                continue
            chunks += 1
            for s, t in ((0, 1), (1, 0)):
                ours = sides[0][1][s][0, sides[0][0][byte]] @ filters.weight[s].T + filters.bias[s]
                total = total + (ours - sides[1][1][t][0, sides[1][0][byte]]).square().mean() / 2
    assert chunks < int((batch["labels"] != -100).sum())
    assert loss.item() == pytest.approx(0.7 * float(total) / chunks, rel=1e-6)
