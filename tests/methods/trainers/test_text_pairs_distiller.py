"""The trainer for two tokenizers against hand-aligned batches on full logits, and the rows that it reads."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from methods.errors import MethodError
from methods.modeling.core import snapshot
from methods.slots.terms import NextToken
from methods.tokenizers.alignment import ByteSpans
from methods.tokenizers.losses import sorted_l1
from methods.tokenizers.terms import ChunkLikelihood, SortedProbabilities
from methods.tokenizers.text_pairs import encode_pairs, encode_texts
from methods.trainers import Distiller, SFTConfig, Teacher
from tests.methods.conftest import letter_tokenizer, make_model, pair_tokenizer
from tests.methods.tokenizers.test_alignment import sentencepiece_like

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
    return Distiller(
        student, teacher=Teacher(teacher, other or pair_tokenizer()), terms=terms, args=args,
        train_dataset=options.pop("rows", ROWS), processing_class=tokenizer, **options,
    )  # fmt: skip


def full_logits(model, ids, mask):
    return model.double()(input_ids=ids, attention_mask=mask).logits


def window_loss(trainer, student):
    """The loss of all rows as one window, and the gradient that it leaves."""
    batch = trainer.data_collator(list(trainer.train_dataset))
    tokens = (batch["labels"][:, 1:] != -100).sum()
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
    settings = {"debias": debias, "threshold": threshold, "temperature": 5.0, "epsilon": 0.0}
    term = ChunkLikelihood(**settings, weight=0.7, boundary="acegkoxz")
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, [term])
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


def test_a_text_that_the_teacher_has_no_token_of_is_in_no_chunk(tmp_path, tokenizer):
    # Byte-level BPE drops what its alphabet lacks: SmolLM2 makes no token of most control characters.
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", "|", *"abcdefgh"])}
    few = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab, [])), pad_token="<pad>", eos_token="<eos>"
    )
    sides = ByteSpans(tokenizer), ByteSpans(few)
    ended, open_ended = encode_texts(["", ""], ["xyz", "xyz"], sides, ended=[True, False])
    assert ended["teacher_input_ids"] == [1] and open_ended["teacher_input_ids"] == []
    assert ended["chunks"] == [-1] * 4 and open_ended["chunks"] == [-1] * 3
    known = encode_texts(["ab|"], ["cdef"], sides)
    assert max(known[0]["chunks"]) == 4
    student, teacher = make_model(seed=0), make_model(seed=1, vocabulary=11)
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, [ChunkLikelihood()], other=few)
    trainer._factors = [1.0]
    sums = {}
    for rows in (known, [*known, ended, open_ended]):
        batch = trainer.data_collator(rows)
        tokens = (batch["labels"][:, 1:] != -100).sum()
        student.zero_grad()
        (trainer.compute_loss(student, batch, num_items_in_batch=tokens) * tokens).backward()
        sums[len(rows)] = torch.cat([p.grad.flatten() for p in student.parameters()])
    assert torch.isfinite(sums[3]).all() and sums[1].abs().max() > 1e-3
    torch.testing.assert_close(sums[3], sums[1])


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


def test_examples_of_other_rows_keep_their_own_prompts(tmp_path, tokenizer):
    """What a sampler replays belongs to another prompt than the row in whose place it stands."""

    def turned(window, step):
        shifted = [*window[1:], window[0]]
        return [replace(e, completion=[5, 6, 1]) if n % 2 else e for n, e in enumerate(shifted)]

    student, teacher = make_model(seed=0), make_model(seed=1, width=24, vocabulary=40)
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, [SortedProbabilities()], sampler=turned)
    given = list(trainer.train_dataset)
    (made,) = trainer.sampling([trainer.data_collator(given)])
    order = [1, 2, 3, 0]
    assert made["prompt"] == [ROWS["prompt"][n] for n in order]
    answers = [ROWS["completion"][n] if place % 2 == 0 else "cd" for place, n in enumerate(order)]
    texts = Dataset.from_list(
        [{"prompt": p, "completion": c} for p, c in zip(made["prompt"], answers, strict=True)]
    )
    expected = trainer.data_collator(list(encode_pairs(texts, tokenizer, pair_tokenizer())))
    for name, tensor in expected.items():
        assert name == "prompt" or torch.equal(made[name], tensor), name
    assert made["source"].tolist() == [0, 0, 0, 0] and trainer.retokenised == 0
