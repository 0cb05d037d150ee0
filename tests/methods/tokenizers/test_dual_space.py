"""Dual-space distillation against its formulas on full logits, row by row in float64; its projectors in a training."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional

from methods.errors import MethodError
from methods.slots.terms import NextToken
from methods.tokenizers.dual_space import DualSpace
from methods.trainers import Distiller, SFTConfig, Teacher
from tests.methods.conftest import make_model, pair_tokenizer
from tests.methods.trainers.test_text_pairs_distiller import ROWS, trainer_of, window_loss


def models():
    return make_model(seed=0).double(), make_model(seed=1, width=24, vocabulary=40).double()


def states(model, tokenizer, row):
    """Of one row: hidden states that predict the completion, the tokens they have read, and the labels."""
    prompt, answer = (tokenizer(row[name])["input_ids"] for name in ("prompt", "completion"))
    ids = torch.tensor([*prompt, *answer, tokenizer.eos_token_id])
    hidden = model.double()(input_ids=ids.unsqueeze(0), output_hidden_states=True).hidden_states[-1][0]
    return hidden[len(prompt) - 1 : -1], ids[len(prompt) - 1 : -1], ids[len(prompt) :]


def kl(p_logits, q_logits, temperature=2.0):
    p, q = (functional.log_softmax(z / temperature, -1) for z in (p_logits, q_logits))
    return (p.exp() * (p - q)).sum(-1)


def written_out(term, student, teacher, tokenizer, spaces):
    """The loss of all rows, over the student's tokens, and how often the projected teacher is right."""
    total, tokens, right = 0.0, 0, 0
    ours, theirs = (m.get_input_embeddings().weight.detach() for m in (student, teacher))
    head, their_head = (m.lm_head.weight.detach() for m in (student, teacher))
    for row in ROWS:
        h_s, in_s, y_s = states(student, tokenizer, row)
        h_t, in_t, y_t = states(teacher, pair_tokenizer(), row)
        h_t = h_t.detach()
        queries = term.query(torch.cat([ours[in_s], ours[y_s]], 1))
        keys = torch.cat([theirs[in_t], theirs[y_t]], 1)
        scores = queries @ (keys / keys.std()).T / math.sqrt(2 * 24)
        tokens += len(y_s)
        if "student" in spaces:
            values = term.to_student(h_t / h_t.std() + theirs[y_t] / theirs[y_t].std())
            logits = scores.softmax(1) @ values @ head.T
            hit = logits.argmax(1) == y_s
            right += int(hit.sum())
            total = total + functional.cross_entropy(logits, y_s, reduction="sum")
            total = total + (kl(logits.detach(), h_s @ student.lm_head.weight.T) * hit).sum()
        if "teacher" in spaces:
            logits = scores.T.softmax(1) @ term.to_teacher(h_s) @ their_head.T
            total = total + kl(h_t @ their_head.T, logits).sum()
    return total / tokens, right


@pytest.mark.parametrize("spaces", [("student",), ("teacher",), ("student", "teacher")])
def test_with_attention_it_is_the_formula_written_out(tmp_path, tokenizer, spaces):
    student, teacher = models()
    term = DualSpace(spaces=spaces, weight=0.5).between_models(student, teacher).double()
    if "student" in spaces:  # so that the projected teacher is right here and wrong there
        learner = torch.optim.Adam(term.parameters(), 0.06)
        for _ in range(6):
            loss, _ = written_out(term, student, teacher, tokenizer, ("student",))
            learner.zero_grad()
            loss.backward()
            learner.step()
    term.zero_grad()
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, [term])
    loss, batch = window_loss(trainer, student)
    expected, right = written_out(term, student, teacher, tokenizer, spaces)
    tokens = int((batch["labels"] != -100).sum())
    assert loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-9)
    assert 0 < right < tokens or "student" not in spaces
    if "student" not in spaces:  # the student's head is nowhere in the teacher's space
        assert student.lm_head.weight.grad is None
        student.lm_head.weight.requires_grad_(False)
    learnt = [(n, p) for m in (student, term) for n, p in m.named_parameters() if p.requires_grad]
    got = {name: p.grad.clone() for name, p in learnt}
    student.zero_grad(), term.zero_grad()
    (0.5 * expected).backward()
    for name, p in learnt:
        assert p.grad.abs().max() > 0, name
        torch.testing.assert_close(got[name], p.grad, rtol=1e-6, atol=1e-10, msg=name)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_with_the_same_tokens_states_are_projected_where_they_stand(tmp_path, tokenizer, divergence):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24).double()
    term = DualSpace(attention=False, divergence=divergence, temperature=1.5)
    term.between_models(student, teacher).double()
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, [NextToken(0.5), term], other=tokenizer)
    loss, batch = window_loss(trainer, student)
    got = {name: p.grad.clone() for m in (student, term) for name, p in m.named_parameters()}
    total, tokens = 0.0, int((batch["labels"] != -100).sum())
    for row in ROWS:
        h_s, _, y = states(student, tokenizer, row)
        h_t = states(teacher, tokenizer, row)[0].detach()
        own = h_s @ student.lm_head.weight.T
        brought = term.to_student(h_t) @ student.lm_head.weight.detach().T
        taken = term.to_teacher(h_s) @ teacher.lm_head.weight.detach().T
        pair = (brought.detach(), own) if divergence == "forward_kl" else (own, brought.detach())
        total = total + functional.cross_entropy(own, y, reduction="sum")
        total = total + functional.cross_entropy(brought, y, reduction="sum")
        total = total + kl(*pair, 1.5).sum() + kl(h_t @ teacher.lm_head.weight.T, taken, 1.5).sum()
    expected = 0.5 * total / tokens
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)
    student.zero_grad(), term.zero_grad()
    expected.backward()
    for module in (student, term):
        for name, p in module.named_parameters():
            torch.testing.assert_close(got[name], p.grad, rtol=1e-5, atol=1e-9, msg=name)


def test_a_completion_that_one_side_lost_counts_for_nothing(tmp_path, tokenizer):
    student, teacher = models()
    term = DualSpace().between_models(student, teacher).double()
    whole, _ = window_loss(trainer_of(tmp_path, tokenizer, student, teacher, [term]), student)
    cut = trainer_of(tmp_path, tokenizer, student, teacher, [term], teacher_max_length=2)
    loss, batch = window_loss(cut, student)
    assert (batch["teacher_labels"] != -100).any(1).tolist() == [False, False, False, False]
    assert loss.item() == 0 < whole.item()


def test_projectors_are_drawn_from_their_seed_alone():
    narrow, wide = make_model(width=6), make_model(width=8)
    before = torch.random.get_rng_state()
    one, same, other = (DualSpace().between_models(narrow, wide, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.query.weight, other.query.weight)
    assert one.to_student.weight.abs().max() <= 8**-0.5 < 1.2 * one.to_student.weight.abs().max()
    some = DualSpace(spaces=("student",), attention=False).between_models(narrow, wide)
    names = {name for name, _ in some.named_parameters()}
    assert names == {"to_student.weight", "to_student.bias"}, "nothing that no loss would reach"


def arguments(tmp_path, **more):
    return SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=2, max_steps=4, learning_rate=1e-2, use_cpu=True,
        bf16=False, gradient_checkpointing=False, report_to="none", logging_strategy="no", disable_tqdm=True,
        save_strategy="steps", save_steps=2, max_length=None, seed=7, **more,
    )  # fmt: skip


def trained(folder, tokenizer, kind, resume=None):
    student, teacher = make_model(seed=0), make_model(seed=1, width=24, vocabulary=40)
    term = DualSpace(learning_rate_factor=3.0)
    if kind == "lora":
        torch.manual_seed(5)
        student = get_peft_model(student, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    trainer = Distiller(
        student, teacher=Teacher(teacher, pair_tokenizer()), terms=[NextToken(0.5), term],
        args=arguments(folder), train_dataset=ROWS, processing_class=tokenizer,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer, term


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_resumed_training_ends_like_one_that_was_not_interrupted(tmp_path, tokenizer, kind):
    whole, term = trained(tmp_path / "whole", tokenizer, kind)
    resumed, same = trained(tmp_path / "resumed", tokenizer, kind, tmp_path / "whole" / "checkpoint-2")
    fresh = DualSpace().between_models(whole.model, whole.models.paired_teacher(), seed=7)
    for (name, a), b, c in zip(term.named_parameters(), same.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    kept = load_file(tmp_path / "whole" / "checkpoint-4" / "memory-0.safetensors")
    assert torch.equal(kept["loss_terms.0.query.weight"], term.query.weight)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_only_the_student_is_saved(tmp_path, tokenizer, kind):
    trainer, _ = trained(tmp_path, tokenizer, kind)
    trainer.save_model(str(tmp_path / "end"))
    file = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
    for folder in ("end", "checkpoint-4"):
        assert not [name for name in load_file(tmp_path / folder / file) if "loss_terms" in name]
    assert not (tmp_path / "end" / "memory-0.safetensors").exists()
    assert not [name for name, _ in trainer.model.named_parameters() if "loss_terms" in name]


def test_projectors_have_a_learning_rate_of_their_own(tmp_path, tokenizer):
    trainer, term = trained(tmp_path, tokenizer, "full")
    groups = trainer.optimizer.param_groups
    (own,) = [g for g in groups if any(p is term.query.weight for p in g["params"])]
    assert own["initial_lr"] == pytest.approx(3e-2) and len(own["params"]) == 6
    assert all(g["initial_lr"] == 1e-2 for g in groups if g is not own)
    sizes = [p for g in groups for p in g["params"]]
    assert len({id(p) for p in sizes}) == len(sizes), "every parameter in one group"


def test_what_does_not_fit_is_refused(tmp_path, tokenizer):
    student, teacher = models()
    apart = DualSpace(attention=False).between_models(student, teacher).double()
    with pytest.raises(MethodError, match="must have the same tokens"):
        window_loss(trainer_of(tmp_path, tokenizer, student, teacher, [apart]), student)
    narrow = copy.deepcopy(student)
    narrow.set_input_embeddings(torch.nn.Embedding(29, 8))
    with pytest.raises(MethodError, match="embeds tokens in 8 dimensions and has hidden states of 16"):
        DualSpace().between_models(narrow, teacher)
    with pytest.raises(MethodError, match="one or both of student, teacher"):
        DualSpace(spaces=("both",))
    with pytest.raises(MethodError, match="unknown divergence 'kl'"):
        DualSpace(divergence="kl")
