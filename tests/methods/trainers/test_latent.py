"""CODI against computations without a cache, batch or fused loss. That partitions do not matter: test_invariance.py."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from methods.errors import MethodError
from methods.modeling.core import core_model
from methods.modeling.latent_reasoning import (
    attach_latent,
    extended,
    latent_of,
    rollout_after_thoughts,
    think,
)
from methods.modeling.rollouts import left_pad
from methods.trainers.latent import Collator, hidden_distance
from tests.methods.conftest import make_model
from tests.methods.trainers.latent_update import BEGIN, END, KINDS, ROWS, make_trainer, thinker

MODELS = ("llama", "gpt2")


def unrolled(model, prompt):
    """Inputs (1, P + 1 + K, H) after thinking about a prompt: the whole sequence is computed again for each thought."""
    core, latent = core_model(model), latent_of(model)
    inputs = core.get_input_embeddings()(torch.tensor([[*prompt, latent.begin_id]]))
    for _ in range(latent.steps):
        hidden = core.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
        inputs = torch.cat([inputs, latent(hidden)], 1)
    return inputs


def reference_sums(model, first=1):
    """The three sums of CODI's loss, row by row, from full logits, as torch's own functions give them."""
    core = core_model(model)
    embed = core.get_input_embeddings()
    sums = {"teacher": 0.0, "student": 0.0, "sequences": 0.0}
    for row in ROWS:
        said = [*row["marker_ids"], *row["answer_ids"]]
        aloud = torch.tensor([[*row["prompt_ids"], *row["thought_ids"], *said]])
        teacher = core(aloud, output_hidden_states=True, use_cache=False)
        learnt = len(row["thought_ids"]) + len(said)
        sums["teacher"] += cross_entropy(
            teacher.logits[0, -learnt - 1 : -1], aloud[0, -learnt:], reduction="sum"
        )
        inputs = torch.cat([unrolled(model, row["prompt_ids"]), embed(torch.tensor([[END, *said]]))], 1)
        student = core(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
        sums["student"] += cross_entropy(
            student.logits[0, -len(said) - 1 : -1], torch.tensor(said), reduction="sum"
        )
        before = -len(row["answer_ids"]) - 1
        layers = len(teacher.hidden_states) - first
        for a, b in zip(teacher.hidden_states[first:], student.hidden_states[first:], strict=True):
            target = a[0, before].detach()
            gap = (b[0, before] - target).abs()
            smooth = torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
            spread = ((target - target.mean()) ** 2).mean().sqrt()
            sums["sequences"] += smooth / spread / layers
    return sums


@pytest.mark.parametrize("kind", MODELS)
def test_thoughts_in_a_padded_batch_with_a_cache_are_those_of_the_unrolled_loop(kind):
    model = thinker(kind, width=11).double()
    prompts = [row["prompt_ids"] for row in ROWS]
    state = think(model, *left_pad(prompts, 0, torch.device("cpu")))
    for row, prompt in enumerate(prompts):
        expected = unrolled(model, prompt)[:, len(prompt) + 1 :]
        torch.testing.assert_close(state.thoughts[row : row + 1], expected)
    assert state.cache.get_seq_length() == state.mask.shape[1] == 5 + 1 + 3


@pytest.mark.parametrize(("kind", "embeddings"), [*((kind, False) for kind in KINDS), ("gpt2", True)])
def test_losses_and_gradients_are_those_of_full_logits_row_by_row(kind, embeddings, tmp_path):
    model = thinker(kind).double()
    trainer = make_trainer(model, str(tmp_path), weights={"embeddings": embeddings})
    got = trainer.sums(core_model(model), Collator(0, END)(ROWS))
    expected = reference_sums(model, first=0 if embeddings else 1)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("latent_thoughts" in name for name in trained)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-6, atol=1e-9, msg=name)
        ours, theirs = (
            torch.autograd.grad(loss, list(trained.values()), retain_graph=True, materialize_grads=True)
            for loss in (got[name], value)
        )
        assert any(g.abs().max() > 1e-6 for g in theirs), name
        for parameter, a, b in zip(trained, ours, theirs, strict=True):
            # Llama's norms and rotations are in fp32 whatever the dtype of the model.
            atol = 1e-9 + 1e-6 * float(b.abs().max())
            torch.testing.assert_close(a, b, rtol=1e-6, atol=atol, msg=f"{name}: {parameter}")


def test_the_gradient_through_the_thoughts_is_that_of_finite_differences(tmp_path):
    model = thinker("gpt2").double()  # fp64 throughout, unlike Llama
    trainer = make_trainer(model, str(tmp_path))
    batch = Collator(0, END)(ROWS)
    weight = latent_of(model).layers[0].weight

    def student_loss():
        return trainer.sums(model, batch)["student"]

    (gradient,) = torch.autograd.grad(student_loss(), weight)
    direction = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1))
    step = 1e-6
    with torch.no_grad():
        weight += step * direction
        above = student_loss()
        weight -= 2 * step * direction
        below = student_loss()
    assert float((gradient * direction).sum()) == pytest.approx(float((above - below) / (2 * step)), rel=1e-5)


def test_hidden_distance_by_hand_and_only_for_the_student():
    teacher = torch.tensor([[[0.0, 2.0], [1.0, 7.0]]], requires_grad=True)
    student = torch.tensor([[[0.5, 4.0], [1.0, 4.0]]], requires_grad=True)
    # layer 1: (0.125 + 1.5) / 2 over std 1; layer 2: (0 + 2.5) / 2 over std 3
    loss = hidden_distance(teacher, student)
    assert loss.tolist() == pytest.approx([(0.8125 + 1.25 / 3) / 2])
    loss.sum().backward()
    assert teacher.grad is None
    assert student.grad.flatten().tolist() == pytest.approx([0.125, 0.25, 0.0, -1 / 12])
    constant = hidden_distance(torch.ones(1, 1, 4), torch.zeros(1, 1, 4))
    assert bool(torch.isfinite(constant).all())


def test_without_distillation_the_teacher_still_learns_and_no_hidden_state_is_compared(tmp_path):
    model = thinker("llama")
    trainer = make_trainer(model, str(tmp_path), weights={"distillation_weight": 0.0})
    sums = trainer.sums(model, Collator(0, END)(ROWS))
    assert sums["sequences"].item() == 0
    assert sums["teacher"].item() > 0
    trainer.train()
    tokens = [sum(len(part) for part in row.values()) for row in ROWS]
    answers = [1 + len(row["marker_ids"]) + len(row["answer_ids"]) for row in ROWS]
    prompts = [len(row["prompt_ids"]) + 1 + 3 for row in ROWS]
    assert trainer.token_counts == {"student": sum(tokens) + sum(answers) + sum(prompts)}


@pytest.mark.parametrize("kind", MODELS)
def test_answers_after_thoughts_are_those_of_the_unrolled_loop(kind):
    model = thinker(kind).train()
    prompts = [row["prompt_ids"] for row in ROWS]
    made = rollout_after_thoughts(model, prompts, max_new_tokens=6, eos_ids=[1, 5, 9, 14], pad_id=0)
    assert model.training
    for row, prompt in enumerate(prompts):
        inputs = torch.cat([unrolled(model, prompt), model.get_input_embeddings()(torch.tensor([[END]]))], 1)
        expected = []
        while len(expected) < 6 and (not expected or expected[-1] not in (1, 5, 9, 14)):
            token = model(inputs_embeds=inputs, use_cache=False).logits[0, -1].argmax()
            expected.append(int(token))
            inputs = torch.cat([inputs, model.get_input_embeddings()(token.reshape(1, 1))], 1)
        got = made.completion_ids[row][made.completion_mask[row].bool()].tolist()
        assert got == expected
        assert bool(made.truncated[row]) == (expected[-1] not in (1, 5, 9, 14))


def test_the_projection_is_saved_with_the_model_and_can_be_replaced(tmp_path):
    model = thinker("llama")
    names = {name for name in model.state_dict() if name.startswith("latent_thoughts.")}
    assert len(names) == 6
    again = attach_latent(model, steps=2, begin_id=BEGIN, end_id=END)
    assert latent_of(model) is again
    embeddings = model.get_input_embeddings().weight
    thought = again(torch.randn(500, 16))
    assert thought.std().item() == pytest.approx(embeddings.std().item(), rel=0.05)


def test_bad_input_is_refused(tmp_path):
    plain = make_model()
    with pytest.raises(MethodError, match="attach_latent"):
        make_trainer(plain, str(tmp_path))
    with pytest.raises(MethodError, match="attach_latent"):
        rollout_after_thoughts(plain, [[3]], max_new_tokens=1, eos_ids=[1], pad_id=0)
    with pytest.raises(MethodError, match="at least one"):
        attach_latent(plain, steps=0, begin_id=BEGIN, end_id=END)
    model = thinker("llama")
    with pytest.raises(MethodError, match="on the left"):
        think(model, torch.tensor([[3, 0]]), torch.tensor([[1, 0]]))
    with pytest.raises(MethodError, match="marker_ids"):
        Collator(0, END)([{**ROWS[0], "marker_ids": []}])
    with pytest.raises(MethodError, match="greedy"):
        rollout_after_thoughts(model, [[3]], max_new_tokens=1, eos_ids=[1], pad_id=0, greedy=False)
    with pytest.raises(MethodError, match="empty prompt"):
        rollout_after_thoughts(model, [[]], max_new_tokens=1, eos_ids=[1], pad_id=0)


def test_extended_masks_join_what_follows():
    mask = torch.tensor([[0, 1]])
    assert extended(mask, 1).tolist() == [[0, 1, 1]]
    assert extended(mask, torch.tensor([[1, 0]])).tolist() == [[0, 1, 1, 0]]
