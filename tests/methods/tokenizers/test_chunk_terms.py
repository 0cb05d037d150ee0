"""GOLD and SimCT in the trainer for two tokenizers, against chunks walked by hand and sums in float64."""

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.slots.samplers import Corrected, Example, OnPolicy
from methods.tokenizers.alignment import shared_tokens
from methods.tokenizers.terms import ContinuationUnits, MergedChunks
from methods.tokenizers.text_pairs import encode_pairs
from tests.methods.conftest import letter_tokenizer, make_model, pair_tokenizer
from tests.methods.tokenizers.test_alignment import byte_level, sentencepiece_like
from tests.methods.trainers.test_text_pairs_distiller import (
    ROWS,
    check_gradient,
    full_logits,
    trainer_of,
    window_loss,
)


def models(swapped=False):
    """Student and teacher in float64, for letters and pairs, or the other way round."""
    sizes = (40, 29) if swapped else (29, 40)
    return make_model(seed=0, vocabulary=sizes[0]).double(), make_model(
        seed=1, width=24, vocabulary=sizes[1]
    ).double()


def tokenizers(swapped):
    return (pair_tokenizer(), letter_tokenizer()) if swapped else (letter_tokenizer(), pair_tokenizer())


def next_log_probs(model, tokenizer, row, raw=False):
    """Tokens of the completion with EOS, as text, and the log-probabilities (`raw`: logits) of all ids before each."""
    prompt, answer = (tokenizer(row[name])["input_ids"] for name in ("prompt", "completion"))
    ids = torch.tensor([[*prompt, *answer, tokenizer.eos_token_id]])
    logits = full_logits(model, ids, torch.ones_like(ids))[0]
    log_p = logits if raw else logits.log_softmax(-1)
    return tokenizer.convert_ids_to_tokens(ids[0, len(prompt) :].tolist()), log_p[len(prompt) - 1 : -1]


def walk(ours, theirs):
    """Ranges of tokens on both sides that spell the same letters, as short as they can be."""
    i = j = 0
    while i < len(ours):
        a, b = i, j
        mine, other = ours[i], theirs[j]
        i, j = i + 1, j + 1
        while mine != other:
            if len(mine) < len(other):
                mine, i = mine + ours[i], i + 1
            else:
                other, j = other + theirs[j], j + 1
        yield range(a, i), range(b, j)


def both_sides(student, teacher, swapped, row, raw=False):
    ours, theirs = tokenizers(swapped)
    words, log_q = next_log_probs(student, ours, row, raw)
    others, log_p = next_log_probs(teacher, theirs, row, raw)
    return (
        list(walk(words, others)),
        (words, log_q, ours.get_vocab()),
        (others, log_p.detach(), theirs.get_vocab()),
    )


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": "forward_kl", "matched_weight": 0.6},
        {"merge": "last", "teacher_weight": 0.3},
        {"hybrid": False},
    ],
)
def test_gold_is_the_formula_written_out(tmp_path, swapped, settings):
    student, teacher = models(swapped)
    ours, theirs = tokenizers(swapped)
    trainer = trainer_of(
        tmp_path, ours, student, teacher, [MergedChunks(**settings, weight=0.7)], other=theirs
    )
    loss, _ = window_loss(trainer, student)
    common = sorted(set(ours.get_vocab()) & set(theirs.get_vocab())) if settings.get("hybrid", True) else []
    share = settings.get("matched_weight", len(common) / (29 if swapped else 40)) if common else 0.0
    terms = []
    for row in ROWS:
        chunks, *sides = both_sides(student, teacher, swapped, row)
        for chunk in chunks:
            merged = []
            for part, (words, log_probs, vocabulary) in zip(chunk, sides, strict=True):
                base = part[0] if settings.get("merge", "first") == "first" else part[-1]
                rest = sum(log_probs[n, vocabulary[words[n]]] for n in part if n != base)
                merged.append((log_probs[base] + rest).exp())
            ids = [[side[2][token] for token in common] for side in sides]
            q, p = (m[i] for m, i in zip(merged, ids, strict=True))
            others = [
                torch.cat([m[[n for n in range(len(m)) if n not in i]], torch.zeros(40 - len(m))])
                for m, i in zip(merged, ids, strict=True)
            ]
            gap = (
                (others[0].sort(descending=True).values - others[1].sort(descending=True).values).abs().sum()
            )
            if settings.get("divergence") == "forward_kl":
                matched = (p * (p / q).log()).sum()
            else:
                w = settings.get("teacher_weight", 0.5)
                m = w * p + (1 - w) * q
                matched = w * (p * (p / m).log()).sum() + (1 - w) * (q * (q / m).log()).sum()
            terms.append(share * matched + (1 - share) * gap)
    expected = 0.7 * torch.stack(terms).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-7)
    check_gradient(student, expected)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("score", ["log-probability", "logit"])
def test_simct_is_the_formula_written_out(tmp_path, swapped, units, score):
    student, teacher = models(swapped)
    ours, theirs = tokenizers(swapped)
    term = ContinuationUnits(units=units, unit_score=score)
    trainer = trainer_of(tmp_path, ours, student, teacher, [term], other=theirs)
    loss, _ = window_loss(trainer, student)
    common = sorted(set(ours.get_vocab()) & set(theirs.get_vocab()))
    terms = []
    for row in ROWS:
        chunks, *sides = both_sides(student, teacher, swapped, row, raw=score == "logit")
        for chunk in chunks:
            several = any(len(part) > 1 for part in chunk)
            if several and not units:
                continue
            choices = []
            for part, (words, log_probs, vocabulary) in zip(chunk, sides, strict=True):
                scores = [log_probs[part[0], vocabulary[token]] for token in common]
                if several:
                    scores.append(sum(log_probs[n, vocabulary[words[n]]] for n in part) / len(part))
                choices.append(torch.stack(scores).softmax(0))
            q, p = choices
            terms.append((q * (q / p).log()).sum())
    assert len(terms) == (19 if units else 16)
    expected = torch.stack(terms).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-7)
    check_gradient(student, expected)


def test_from_oneself_there_is_nothing_to_learn(tmp_path, tokenizer):
    student = make_model(seed=0).double()
    for term in (
        MergedChunks(),
        MergedChunks(hybrid=False),
        ContinuationUnits(),
        ContinuationUnits(units=False),
    ):
        trainer = trainer_of(
            tmp_path, tokenizer, student, make_model(seed=0).double(), [term], other=tokenizer
        )
        loss, _ = window_loss(trainer, student)
        assert abs(loss.item()) < 1e-10, term
        assert all(p.grad.abs().max() < 1e-8 for p in student.parameters()), term


def test_shared_tokens_are_those_of_equal_bytes():
    ours, theirs = letter_tokenizer(), pair_tokenizer()
    pairs = zip(*shared_tokens(ours, theirs), strict=True)
    names = [(ours.convert_ids_to_tokens(a), theirs.convert_ids_to_tokens(b)) for a, b in pairs]
    assert sorted(a for a, _ in names) == sorted([*"abcdefghijklmnopqrstuvwxyz|", "<eos>", "<pad>"])
    assert all(a == b for a, b in names)


def test_shared_tokens_see_through_spellings():
    """Byte-level BPE writes a blank otherwise than SentencePiece; the byte fallback is not the letter."""
    ours, theirs = byte_level(330), sentencepiece_like()
    pairs = dict(zip(*shared_tokens(ours, theirs), strict=True))
    assert pairs[ours.convert_tokens_to_ids("Ġ")] == theirs.convert_tokens_to_ids("\u2581")
    assert pairs[ours.convert_tokens_to_ids("Ã©")] == theirs.convert_tokens_to_ids("é")
    assert pairs[ours.convert_tokens_to_ids("h")] == theirs.convert_tokens_to_ids("h")
    assert pairs[ours.convert_tokens_to_ids("z")] == theirs.convert_tokens_to_ids("<0x7A>"), (
        "there is no piece z"
    )
    assert pairs[ours.eos_token_id] == theirs.eos_token_id
    assert len(set(pairs.values())) == len(pairs)


class Written:
    """A sampler that gives these completions to the first rows and leaves the others."""

    def __init__(self, *completions):
        self.completions = completions

    def __call__(self, window, step):
        written = [Example(e.prompt, c, "student") for e, c in zip(window, self.completions, strict=False)]
        return [*written, *window[len(written) :]]


def test_sampled_completions_are_read_by_both_tokenizers(tmp_path):
    student, teacher = models(swapped=True)
    ours, theirs = tokenizers(swapped=True)
    word = ours.convert_tokens_to_ids
    written = [
        [*word(["cd", "x"]), ours.eos_token_id],
        word(["a", "b"]),  # cut off, and in tokens that the tokenizer would not choose
        [word("ef"), word("<pad>")],
    ]
    trainer = trainer_of(
        tmp_path, ours, student, teacher, [MergedChunks()], other=theirs, sampler=Written(*written)
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    (made,) = trainer.sampling([batch])
    texts = [("cdx", True), ("ab", False), ("ef", False), (ROWS[3]["completion"], True)]
    plain = encode_pairs(
        Dataset.from_list(
            [{"prompt": r["prompt"], "completion": t} for r, (t, _) in zip(ROWS, texts, strict=True)]
        ),
        ours,
        theirs,
    )
    for n, (_, ended) in enumerate(texts):
        for prefix, tokenizer in (("", ours), ("teacher_", theirs)):
            keep = made[prefix + "attention_mask"][n].bool()
            got, whole = made[prefix + "input_ids"][n][keep].tolist(), plain[n][prefix + "input_ids"]
            assert got == (whole if ended else whole[:-1])
            assert got[-1] == tokenizer.eos_token_id or not ended
            expected = plain[n][prefix + "chunks"]
            assert made[prefix + "chunks"][n][keep].tolist() == (expected if ended else expected[:-1])
    assert made["prompt"] == ROWS["prompt"][:] and trainer.retokenised == 2
    assert trainer.rollout_counts["completions"] == 0, "nothing was generated"


def test_on_policy_a_student_writes_what_it_learns_from(tmp_path, tokenizer):
    student, teacher = make_model(seed=0), make_model(seed=1, width=24, vocabulary=40)
    trainer = trainer_of(
        tmp_path,
        tokenizer,
        student,
        teacher,
        [ContinuationUnits()],
        sampler=OnPolicy(1.0),
        max_completion_length=5,
    )
    seen = []
    original = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **k: (
        seen.append(inputs),
        original(model, inputs, *a, **k),
    )[1]
    trainer.train()
    (batch,) = seen
    assert trainer.rollout_counts["completions"] == 4 and trainer.token_counts["generated"] <= 20
    assert (batch["labels"] != -100).sum(1).max() <= 5
    given = {tuple(row["input_ids"]) for row in trainer.train_dataset}
    made = [
        tuple(ids[m.bool()].tolist())
        for ids, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert not given & set(made)


def test_what_cannot_be_sampled_is_refused(tmp_path, tokenizer):
    student, teacher = make_model(seed=0), make_model(seed=1, width=24, vocabulary=40)

    def trained(sampler, rows=ROWS):
        trainer_of(
            tmp_path, tokenizer, student, teacher, [MergedChunks()], sampler=sampler, rows=rows
        ).train()

    with pytest.raises(MethodError, match="validation loss"):
        trained(lambda window, step: step.validation_loss())
    with pytest.raises(MethodError, match="other tokens cannot write"):
        trained(lambda window, step: step.generate([e.prompt for e in window], teacher_mix=0.5))
    with pytest.raises(MethodError, match="cannot be compared"):
        trained(Corrected(OnPolicy(1.0)))
    with pytest.raises(MethodError, match="3 examples of 4"):
        trained(lambda window, step: window[1:])
    bare = encode_pairs(ROWS, tokenizer, pair_tokenizer()).remove_columns("prompt")
    with pytest.raises(MethodError, match="without their prompt"):
        trained(OnPolicy(1.0), bare)


def test_wrong_settings_are_refused():
    with pytest.raises(MethodError, match="unknown merge 'mean'"):
        MergedChunks(merge="mean")
    with pytest.raises(MethodError, match="matched_weight=1.5"):
        MergedChunks(matched_weight=1.5)
    with pytest.raises(MethodError, match="unknown divergence"):
        ContinuationUnits(divergence="kl")
