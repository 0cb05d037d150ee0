"""ULD and ALM against formulas written out in float64, and their trainer against hand-aligned batches."""

import math

import pytest
import torch
from datasets import Dataset
from torch.utils._python_dispatch import TorchDispatchMode

from methods.algorithms.cross_tokenizer import (
    ChunkLikelihood,
    CrossTokenizerTrainer,
    NextToken,
    SFTConfig,
    SortedProbabilities,
)
from methods.cross_tokenizer import (
    chunk_divergence,
    linear_log_mass,
    linear_sorted_l1,
    log1mexp,
    merge_chunks,
    sorted_l1,
)
from methods.errors import MethodError
from methods.fused import Head
from methods.models import snapshot
from methods.text_pairs import encode_pairs
from tests.methods.conftest import letter_tokenizer, make_model, pair_tokenizer
from tests.methods.test_alignment import sentencepiece_like


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute_sorted_l1(q, p):
    """One row of plain Python numbers."""
    size = max(len(q), len(p))
    q = sorted([*q, *[0.0] * (size - len(q))], reverse=True)
    p = sorted([*p, *[0.0] * (size - len(p))], reverse=True)
    return sum(abs(a - b) for a, b in zip(q, p, strict=True))


@pytest.mark.parametrize(("student", "teacher"), [(7, 11), (11, 7), (9, 9)])
def test_sorted_l1_is_the_brute_force(student, teacher):
    z, t = 3 * normal(4, student), 3 * normal(4, teacher, seed=1)
    got = sorted_l1(z, t, student_temperature=2.0)
    for row in range(4):
        q, p = (z[row] / 2).softmax(-1).tolist(), t[row].softmax(-1).tolist()
        assert got[row].item() == pytest.approx(brute_sorted_l1(q, p), rel=1e-12)
    permuted = t[:, torch.randperm(teacher, generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(sorted_l1(z, permuted, student_temperature=2.0), got)


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize(("student", "teacher"), [(13, 29), (29, 13)])
def test_fused_sorted_l1_has_the_value_and_gradient_of_full_logits(student, teacher, chunk_size):
    hidden, weight, bias = normal(7, 5), normal(student, 5, seed=1), normal(student, seed=2)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    states, other = normal(7, 6, seed=3), Head(normal(teacher, 6, seed=4), scale=0.7)
    temperatures = {"student_temperature": 1.3, "teacher_temperature": 0.8}
    loss = linear_sorted_l1(hidden, Head(weight, bias), states, other, chunk_size=chunk_size, **temperatures)
    got = torch.autograd.grad(3 * loss.total, leaves)
    values = sorted_l1(hidden @ weight.T + bias, 0.7 * states @ other.weight.T, **temperatures)
    torch.testing.assert_close(loss.values, values.detach())
    for mine, theirs in zip(got, torch.autograd.grad(3 * values.sum(), leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_fused_sorted_l1_with_soft_caps():
    hidden = normal(5, 4).requires_grad_()
    student = Head(normal(8, 4, seed=1), soft_cap=2.0)
    teacher, states = Head(normal(12, 3, seed=2), soft_cap=1.5), normal(5, 3, seed=3)
    loss = linear_sorted_l1(hidden, student, states, teacher, teacher_temperature=2.0)
    capped = [
        c * (x / c).tanh() for x, c in ((hidden @ student.weight.T, 2), (states @ teacher.weight.T, 1.5))
    ]
    expected = sorted_l1(*capped, teacher_temperature=2.0).sum()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(loss.total, hidden)[0],
        torch.autograd.grad(expected, hidden)[0],
        rtol=1e-8,
        atol=1e-12,
    )


def test_sorted_l1_gradient_is_that_of_finite_differences():
    weight, states, other = normal(6, 4, seed=1), normal(3, 2, seed=2), Head(normal(9, 2, seed=3))

    def loss(hidden):
        return linear_sorted_l1(hidden, Head(weight), states, other).total

    assert torch.autograd.gradcheck(loss, normal(3, 4).requires_grad_(), eps=1e-6, atol=1e-6)


def test_rows_must_pair():
    with pytest.raises(MethodError, match="3 rows of the student, 2 of the teacher"):
        linear_sorted_l1(normal(3, 4), Head(normal(6, 4)), normal(2, 4), Head(normal(6, 4)))


@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_log_mass_is_the_log_of_a_sum(chunk_rows):
    hidden, weight, bias = (
        x.requires_grad_() for x in (normal(5, 4), normal(9, 4, seed=1), normal(9, seed=2))
    )
    members = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0, 1]).bool()
    head = Head(weight, bias, scale=0.5, soft_cap=3.0)
    got = linear_log_mass(hidden, head, members, chunk_rows=chunk_rows)
    logits = 3 * ((0.5 * (hidden @ weight.T + bias)) / 3).tanh()
    expected = logits.softmax(-1)[:, members].sum(-1).log()
    torch.testing.assert_close(got, expected)
    scale = torch.arange(1, 6.0, dtype=torch.float64)
    leaves = [hidden, weight, bias]
    for mine, theirs in zip(
        torch.autograd.grad(got @ scale, leaves), torch.autograd.grad(expected @ scale, leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(MethodError, match="vocabulary of 9"):
        linear_log_mass(hidden, head, members[:5])


class Largest(TorchDispatchMode):
    """The size of the largest tensor made inside the block, in elements."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for part in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return made


def test_logits_exist_a_few_rows_at_a_time():
    rows, vocabulary, chunk = 300, 500, 20
    weight = normal(vocabulary, 4, seed=1).requires_grad_()
    hidden = normal(rows, 4).requires_grad_()
    other, states = Head(normal(vocabulary + 100, 4, seed=2)), normal(rows, 4, seed=3)
    members = torch.arange(vocabulary) % 3 == 0
    with Largest() as largest:
        loss = linear_sorted_l1(hidden, Head(weight), states, other, chunk_size=chunk).total
        (loss + linear_log_mass(hidden, Head(weight), members, chunk_rows=chunk).sum()).backward()
    assert chunk * vocabulary <= largest.elements <= chunk * (vocabulary + 100) < rows * vocabulary


def bernoulli_kl(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize("temperature", [1.0, 5.0, 100.0])
def test_chunk_divergence_is_the_bernoulli_formula(temperature):
    log_q, log_p = (
        torch.tensor([-0.3, -2.0, -40.0, -0.01]).double(),
        torch.tensor([-0.7, -1.0, -3.0, -5.0]).double(),
    )
    got = chunk_divergence(log_q, log_p, temperature=temperature, epsilon=0.0)
    variation = chunk_divergence(
        log_q, log_p, temperature=temperature, epsilon=0.0, divergence="total_variation"
    )
    for i in range(4):
        p, q = math.exp(log_p[i] / temperature), math.exp(log_q[i] / temperature)
        assert got[i].item() == pytest.approx(bernoulli_kl(p, q), rel=1e-9)
        assert variation[i].item() == pytest.approx(2 * abs(p - q), rel=1e-9)


def test_chunk_divergence_has_no_nan_at_the_ends():
    log_q = torch.tensor([0.0, -1e-9, -1e4, 0.0, -200.0], requires_grad=True)
    log_p = torch.tensor([-3.0, 0.0, 0.0, 0.0, -1e4])
    for temperature in (1.0, 100.0):
        loss = chunk_divergence(log_q, log_p, temperature=temperature)
        (grad,) = torch.autograd.grad(loss.sum(), log_q)
        assert loss.isfinite().all() and grad.isfinite().all()
        assert loss[3] == 0 and (loss >= -1e-6).all()
    with pytest.raises(MethodError, match="unknown divergence of chunks 'tvd'"):
        chunk_divergence(log_q, log_p, divergence="tvd")


def test_chunk_divergence_gradient_and_its_high_temperature_limit():
    log_p = torch.tensor([-0.5, -2.0, -7.0]).double()
    log_q = torch.tensor([-1.5, -0.2, -3.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: chunk_divergence(x, log_p, temperature=7.0), log_q)
    # Appendix A.2 of the paper: tau times the loss tends to (a - b) + a log(b / a).
    limit = log_p - log_q + log_p * (log_q / log_p).log()
    torch.testing.assert_close(
        chunk_divergence(log_q, log_p, temperature=1e6, epsilon=0.0) * 1e6, limit, rtol=1e-4, atol=1e-6
    )


def test_log1mexp():
    x = torch.tensor([-1e-12, -1e-3, -0.69, -0.7, -3.0, -50.0]).double()
    expected = [math.log(-math.expm1(v)) if v > -0.7 else math.log1p(-math.exp(v)) for v in x.tolist()]
    torch.testing.assert_close(log1mexp(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_chunks_merge_until_they_may_end():
    sequence = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    ends = torch.tensor([True, False, False, True, False, False, True])
    numbers, stays = merge_chunks(sequence, ends)
    assert numbers.tolist() == [0, 1, 1, 1, 2, 2, 3]
    assert stays.tolist() == [True, True, False, True], "the second sequence never reaches an end"
    numbers, stays = merge_chunks(sequence[:0], ends[:0])
    assert len(numbers) == len(stays) == 0


# The trainer.

ROWS = Dataset.from_list(
    [
        {"prompt": p, "completion": c}
        for p, c in (("ab|", "cdefgh"), ("hello|", "o"), ("x|", "xyzxyzxyz"), ("distil|", "kd"))
    ]
)


def trainer_of(tmp_path, tokenizer, student, teacher, terms, *, other=None, **options):
    args = SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=1, learning_rate=1e-6, optim="sgd",
        max_grad_norm=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, max_length=options.pop("max_length", None),
    )  # fmt: skip
    return CrossTokenizerTrainer(
        student, teacher=teacher, teacher_tokenizer=other or pair_tokenizer(), terms=terms, args=args,
        train_dataset=options.pop("rows", ROWS), processing_class=tokenizer, **options,
    )  # fmt: skip


def full_logits(model, ids, mask):
    return model.double()(input_ids=ids, attention_mask=mask).logits


def window_loss(trainer, student):
    """The loss of all rows as one window, and the gradient that it leaves."""
    batch = trainer.data_collator(list(trainer.train_dataset))
    tokens = (batch["labels"][:, 1:] != -100).sum()
    trainer._factors = trainer._window_factors([batch], tokens)
    student.zero_grad()
    loss = trainer.compute_loss(student, batch, num_items_in_batch=tokens)
    loss.backward()
    return loss, batch


def check_gradient(student, expected):
    got = {name: p.grad.clone() for name, p in student.named_parameters()}
    student.zero_grad()
    expected.backward()
    assert any(g.abs().max() > 1e-6 for g in got.values())
    for name, p in student.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=2e-7)


def test_uld_pairs_positions_from_the_first_answer_token(tmp_path, tokenizer):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24, vocabulary=40).double()
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, [NextToken(), SortedProbabilities()])
    loss, batch = window_loss(trainer, student)
    z = full_logits(student, batch["input_ids"], batch["attention_mask"])
    t = full_logits(teacher, batch["teacher_input_ids"], batch["teacher_attention_mask"]).detach()
    distances, nll = [], []
    for i, row in enumerate(ROWS):
        ours, theirs = tokenizer(row["prompt"])["input_ids"], pair_tokenizer()(row["prompt"])["input_ids"]
        sizes = [len(side(row["completion"])["input_ids"]) + 1 for side in (tokenizer, pair_tokenizer())]
        for k in range(min(sizes)):
            distances.append(sorted_l1(z[i, len(ours) - 1 + k], t[i, len(theirs) - 1 + k]))
        answer = [*tokenizer(row["completion"])["input_ids"], 1]
        for k, label in enumerate(answer):
            nll.append(-z[i, len(ours) - 1 + k].log_softmax(-1)[label])
    assert len(distances) < len(nll), "the teacher's sequences are shorter"
    expected = torch.stack(nll).mean() + 1.5 * torch.stack(distances).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-7)
    check_gradient(student, expected)


def chunk_log_probs(model, tokenizer, row, boundary):
    """Per byte position where a token of the completion ends: log P(token), log P(boundary next); by hand."""
    prompt, answer = (tokenizer(row[name])["input_ids"] for name in ("prompt", "completion"))
    ids = torch.tensor([[*prompt, *answer, 1]])
    log_p = full_logits(model, ids, torch.ones_like(ids))[0].log_softmax(-1)
    place, found = 0, []
    for k, token in enumerate([*answer, 1]):
        place += len(tokenizer.convert_ids_to_tokens(token)) if token != 1 else 1
        at = len(prompt) + k
        after = log_p[at][boundary].logsumexp(-1) if token != 1 else torch.zeros(())
        found.append((place, log_p[at - 1, token], after))
    return found


@pytest.mark.parametrize(("debias", "threshold"), [(False, 0.1), (True, 0.0), (True, 0.1), (True, 0.4)])
def test_alm_is_the_formula_written_out(tmp_path, tokenizer, debias, threshold):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24, vocabulary=40).double()
    term = ChunkLikelihood(debias=debias, threshold=threshold, temperature=5.0, epsilon=0.0, weight=0.7)
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, [term], boundary_bytes=b"acegkoxz")
    loss, _ = window_loss(trainer, student)
    others = pair_tokenizer()
    begins = [torch.zeros(29).bool(), torch.zeros(40).bool()]
    for side, mask in zip((tokenizer, others), begins, strict=True):
        for token, index in side.get_vocab().items():
            mask[index] = token in ("<pad>", "<eos>") or token[0] in "acegkoxz"
    total, chunks, joined = torch.zeros((), dtype=torch.float64), 0, 0
    for row in ROWS:
        ours = {p: rest for p, *rest in chunk_log_probs(student, tokenizer, row, begins[0])}
        theirs = {p: rest for p, *rest in chunk_log_probs(teacher, others, row, begins[1])}
        log_q = log_p = 0.0
        for place in sorted(ours):
            log_q = log_q + ours[place][0]
            if place not in theirs:
                continue
            log_p = log_p + theirs[place][0].detach()
            chunks += 1
            end = theirs[place][1].detach()
            if debias and end.exp() <= threshold:
                joined += 1
                continue
            extra = (ours[place][1], end) if debias else (0.0, 0.0)
            p, q = ((x + e).div(5).exp() for x, e in ((log_p, extra[1]), (log_q, extra[0])))
            total = total + p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
            log_q = log_p = 0.0
    assert (joined > 0) == (debias and threshold > 0) and chunks < sum(len(r["completion"]) + 1 for r in ROWS)
    expected = 0.7 * total / chunks
    assert loss.item() == pytest.approx(expected.item(), rel=2e-7)
    check_gradient(student, expected)


def test_alm_with_equal_tokenizers_is_a_bernoulli_divergence_per_token(tmp_path, tokenizer):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24).double()
    term = ChunkLikelihood(debias=False, temperature=1.0, epsilon=0.0)
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, [term], other=tokenizer)
    loss, batch = window_loss(trainer, student)
    keep = batch["labels"][:, 1:] != -100
    labels = batch["labels"][:, 1:][keep]
    q, p = (
        full_logits(m, batch["input_ids"], batch["attention_mask"])[:, :-1][keep].softmax(-1)[
            torch.arange(len(labels)), labels
        ]
        for m in (student, teacher)
    )
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-7)
    same = trainer_of(tmp_path, tokenizer, student, snapshot(student), [ChunkLikelihood()], other=tokenizer)
    loss, _ = window_loss(same, student)
    assert abs(loss.item()) < 1e-12, "nothing to learn from oneself"
    assert all(p.grad.abs().max() < 1e-9 for p in student.parameters())


def test_gradient_balance_makes_equal_gradients_on_the_head(tmp_path, tokenizer):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24, vocabulary=40).double()
    terms = [NextToken(), ChunkLikelihood()]
    grads = []
    for term in terms:
        window_loss(trainer_of(tmp_path, tokenizer, student, teacher, [term]), student)
        grads.append(student.lm_head.weight.grad.clone())
    norms = [g.norm() for g in grads]
    assert norms[0] > 20 * norms[1], "at temperature 100 the chunks would be drowned"
    shares = torch.stack([1 / n for n in norms])
    shares = shares / shares.sum()
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, terms, gradient_balance=True)
    window_loss(trainer, student)
    expected = sum(share * g for share, g in zip(shares, grads, strict=True))
    torch.testing.assert_close(student.lm_head.weight.grad, expected, rtol=1e-7, atol=1e-12)


def test_a_length_limit_leaves_whole_chunks_and_counts_tokens(tmp_path, tokenizer):
    student, teacher = make_model(seed=0), make_model(seed=1, width=24, vocabulary=40)
    trainer = trainer_of(
        tmp_path,
        tokenizer,
        student,
        teacher,
        [ChunkLikelihood(), NextToken()],
        max_length=7,
        teacher_max_length=5,
    )
    rows = list(trainer.train_dataset)
    assert max(len(r["input_ids"]) for r in rows) == 7 and max(len(r["teacher_input_ids"]) for r in rows) == 5
    for row in rows:
        assert {c for c in row["chunks"] if c >= 0} == {c for c in row["teacher_chunks"] if c >= 0}
        assert all(
            label == -100 for c, label in zip(row["chunks"], row["labels"], strict=True) if c < 0 > label
        )
    trainer.train()
    assert trainer.token_counts["student"] == sum(len(r["input_ids"]) for r in rows)
    assert trainer.token_counts["teacher"] == sum(len(r["teacher_input_ids"]) for r in rows)


def test_evaluation_uses_the_batch_alone(tmp_path, tokenizer):
    student, teacher = make_model(seed=0), make_model(seed=1, width=24, vocabulary=40)
    trainer = trainer_of(
        tmp_path, tokenizer, student, teacher, [NextToken(), SortedProbabilities()], eval_dataset=ROWS
    )
    loss, _ = window_loss(trainer, student)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_encoded_rows_keep_eos_and_know_the_prompt(tokenizer):
    rows = encode_pairs(ROWS, tokenizer, pair_tokenizer())
    row = rows[0]
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == [*"ab|cdefgh", "<eos>"]
    assert row["labels"] == [-100] * 3 + row["input_ids"][3:]
    assert row["chunks"] == [-1, -1, -1, 0, 0, 1, 1, 2, 2, 3]
    assert pair_tokenizer().convert_ids_to_tokens(row["teacher_input_ids"]) == [
        "ab",
        "|",
        "cd",
        "ef",
        "gh",
        "<eos>",
    ]
    assert row["teacher_chunks"] == [-1, -1, 0, 1, 2, 3] and row["teacher_labels"][:2] == [-100, -100]
    # A template that adds BOS and EOS: no second EOS, BOS outside every chunk, also where there is no prompt.
    both = sentencepiece_like()
    row = encode_pairs(Dataset.from_list([{"prompt": "", "completion": "hello"}]), both, tokenizer)[0]
    assert both.convert_ids_to_tokens(row["input_ids"]) == ["<bos>", "\u2581hel", "lo", "<eos>"]
    assert row["chunks"] == [-1, -1, 0, 1] and row["labels"][0] == -100 and row["labels"][1] != -100
    assert row["teacher_chunks"] == [-1, -1, -1, 0, 0, 1], "the teacher is never asked for its first token"


def test_a_token_across_the_prompt_is_in_no_chunk(tokenizer):
    # `|cd` is not one token here, `cd` is: the prompt ends between c and d.
    row = encode_pairs(
        Dataset.from_list([{"prompt": "abc", "completion": "def"}]), tokenizer, pair_tokenizer()
    )[0]
    assert row["chunks"] == [-1, -1, -1, -1, 0, 0, 1] and row["teacher_chunks"] == [-1, -1, 0, 1]
    assert row["teacher_labels"][1] == -100


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "columns prompt and completion, not text"),
        (
            [{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "a", "content": "b"}]}],
            "text",
        ),
    ],
)
def test_other_rows_are_refused(tokenizer, rows, message):
    with pytest.raises(MethodError, match=message):
        encode_pairs(Dataset.from_list(rows), tokenizer, tokenizer)


def test_wrong_settings_are_refused(tmp_path, tokenizer):
    with pytest.raises(MethodError, match="unknown divergence of chunks 'jsd'"):
        ChunkLikelihood(divergence="jsd")
    with pytest.raises(MethodError, match="threshold is 1.0"):
        ChunkLikelihood(threshold=1.0)
    with pytest.raises(MethodError, match="at least one term"):
        trainer_of(tmp_path, tokenizer, make_model(), make_model(seed=1), [])
    silent = letter_tokenizer()
    silent.eos_token = None
    with pytest.raises(MethodError, match="no EOS"):
        encode_pairs(ROWS, tokenizer, silent)
