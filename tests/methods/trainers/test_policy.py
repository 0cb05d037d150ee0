"""MiniLLM's gradient against brute-force enumeration of the sequence-level reverse KL, in float64.

A vocabulary of four tokens and at most three of them make 40 completions; their exact probabilities give the exact
objective, and the expected estimator is a sum over them.
"""

import itertools

import pytest
import torch
from datasets import Dataset
from tokenizers import processors

from methods.errors import MethodError
from methods.modeling.rollouts import Rollouts
from methods.slots.terms import Divergence
from methods.trainers import Distiller, PolicyConfig, PolicyDistiller, SFTConfig, Teacher
from tests.methods.conftest import letter_tokenizer, make_model

VOCABULARY, LIMIT, EOS = 4, 3, 1
PROMPT = [2]


def completions() -> list[tuple[int, ...]]:
    """Every completion: ended by EOS, or cut at LIMIT tokens."""
    ended = [
        (*head, EOS)
        for length in range(LIMIT)
        for head in itertools.product([t for t in range(VOCABULARY) if t != EOS], repeat=length)
    ]
    cut = list(itertools.product([t for t in range(VOCABULARY) if t != EOS], repeat=LIMIT))
    return ended + cut


def token_logps(model, completion) -> torch.Tensor:
    """log-probabilities (T,) of a completion's tokens, by a plain forward."""
    ids = torch.tensor([[*PROMPT, *completion]])
    logps = model(ids).logits[0].log_softmax(-1)
    return logps[len(PROMPT) - 1 : -1].gather(1, torch.tensor(completion)[:, None]).squeeze(1)


def next_token_kl(student, teacher, completion) -> torch.Tensor:
    """KL(q || p) (T,) at each prefix of a completion."""
    ids = torch.tensor([[*PROMPT, *completion]])
    log_q, log_p = (m(ids).logits[0].log_softmax(-1)[len(PROMPT) - 1 : -1] for m in (student, teacher))
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def trainer_for(student, teacher, tokenizer, tmp_path, **settings) -> PolicyDistiller:
    args = PolicyConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=64, use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, max_completion_length=LIMIT, **settings,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "a"}] * 64)
    return PolicyDistiller(
        student, teacher=teacher, args=args, train_dataset=data, processing_class=tokenizer
    )


def as_rollouts(all_completions) -> Rollouts:
    count = len(all_completions)
    ids, mask = torch.zeros(count, LIMIT, dtype=torch.long), torch.zeros(count, LIMIT, dtype=torch.long)
    for row, completion in enumerate(all_completions):
        ids[row, : len(completion)] = torch.tensor(completion)
        mask[row, : len(completion)] = 1
    prompts = torch.tensor([PROMPT] * count)
    flags = torch.zeros(count, dtype=torch.bool)
    return Rollouts(prompts, torch.ones_like(prompts), ids, mask, truncated=flags, empty=flags)


def gradient(loss, model) -> torch.Tensor:
    grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None])


def expected_estimator(trainer, probabilities) -> torch.Tensor:
    """Sum over completions of their sampling probability times the trainer's own gradient for that completion."""
    total = 0.0
    for completion, probability in probabilities.items():
        inputs = trainer.score_rollouts(as_rollouts([completion]))
        inputs["window_tokens"] = torch.tensor(1)  # sums instead of means
        total = total + probability * gradient(trainer._compute_loss(trainer.model, inputs), trainer.model)
    return total


@pytest.fixture
def pair():
    # GPT-2, because Llama normalises in float32 whatever the weights are
    student = make_model("gpt2", seed=0, vocabulary=VOCABULARY, width=8, layers=1).double()
    teacher = make_model("gpt2", seed=1, vocabulary=VOCABULARY, width=8, layers=1).double()
    return student, teacher


def sequence_probabilities(model, mixture_with=None, share=0.0):
    out = {}
    with torch.no_grad():
        for completion in completions():
            q = token_logps(model, completion).exp()
            if mixture_with is not None:
                q = (1 - share) * q + share * token_logps(mixture_with, completion).exp()
            out[completion] = q.prod()
    return out


def test_enumeration_is_complete(pair):
    assert len(completions()) == 40
    torch.testing.assert_close(
        sum(sequence_probabilities(pair[0]).values()), torch.tensor(1.0, dtype=torch.float64)
    )


@pytest.mark.parametrize("split", [True, False], ids=["single-step-split", "undivided"])
def test_gradient_is_that_of_the_sequence_reverse_kl(pair, split, tokenizer, tmp_path):
    """On policy, with neither length normalisation nor clipping in play, both forms of the estimator are unbiased."""
    student, teacher = pair
    exact = sum(
        token_logps(student, y).sum().exp()
        * (token_logps(student, y).sum() - token_logps(teacher, y).sum().detach())
        for y in completions()
    )
    expected = gradient(exact, student)
    trainer = trainer_for(
        student, teacher, tokenizer, tmp_path, teacher_mix=0.0, length_normalization=False,
        single_step_decomposition=split,
    )  # fmt: skip
    got = expected_estimator(trainer, sequence_probabilities(student))
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)
    assert expected.norm() > 0.1


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_every_completion_gets_the_paper_s_gradient(pair, share, normalize, tokenizer, tmp_path):
    """Equations 3, 5 and 7 written out token by token for each completion, importance weights and averages included."""
    student, teacher = pair
    trainer = trainer_for(
        student, teacher, tokenizer, tmp_path, teacher_mix=share, length_normalization=normalize, epsilon=1e6
    )
    for completion in completions()[::3]:
        log_q, log_p = token_logps(student, completion), token_logps(teacher, completion).detach()
        rewards = (log_p - log_q).detach()
        weights = log_q.exp().detach() / ((1 - share) * log_q.exp() + share * log_p.exp()).detach()
        kl = next_token_kl(student, teacher, completion)
        expected = 0.0
        for t in range(len(completion)):
            future = rewards[t + 1 :]
            value = future.mean() if normalize and len(future) else future.sum()
            expected = expected + weights[t] * kl[t] - weights[t] * value * log_q[t]
        inputs = trainer.score_rollouts(as_rollouts([completion]))
        inputs["window_tokens"] = torch.tensor(1)
        loss = trainer._compute_loss(trainer.model, inputs)
        torch.testing.assert_close(
            gradient(loss, student), gradient(expected, student), rtol=1e-8, atol=1e-10
        )


def test_the_last_token_has_no_long_term_part(pair, tokenizer, tmp_path):
    trainer = trainer_for(*pair, tokenizer, tmp_path)
    advantages = trainer.score_rollouts(as_rollouts([(3, 0, EOS), (2, EOS)]))["advantages"]
    assert advantages[0, 2] == 0 and advantages[1, 1] == 0 and advantages[1, 2] == 0
    assert advantages[0, 0] != 0


def test_rollouts_are_counted(pair, tokenizer, tmp_path):
    student = make_model(seed=0)
    args = PolicyConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, max_completion_length=5, max_steps=2, save_strategy="no", steps_per_generation=1,
        num_iterations=2, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "ab|"}] * 8)
    trainer = PolicyDistiller(
        student, teacher=make_model(seed=1), args=args, train_dataset=data, processing_class=tokenizer
    )
    trainer.train()
    assert trainer.rollout_counts["completions"] == 4  # two updates from one batch of rollouts
    counts = trainer.token_counts
    assert 4 <= counts["generated"] <= 20
    assert counts["student"] == 3 * (4 * 3 + counts["generated"])  # scored once, trained on twice
    assert counts["teacher"] == 2 * (4 * 3 + counts["generated"])  # read along, then scored


def test_rollouts_begin_as_training_begins(tmp_path):
    """With the token that a tokenizer's template puts in front (Gemma, Llama), which other methods train on."""
    tokenizer = letter_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="| $A <eos>", special_tokens=[("|", 2), ("<eos>", EOS)]
    )
    student, read = make_model(seed=0), []
    student.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"]), with_kwargs=True
    )
    settings = {"max_steps": 1, "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    trainer_for(student, make_model(seed=1), tokenizer, tmp_path, **settings).train()
    assert read[0].tolist() == [[2, 3]] * 64


def test_fewer_prompts_than_a_generation_batch_are_refused(pair, tokenizer, tmp_path):
    with pytest.raises(
        MethodError, match=r"64 prompts do not fill one generation batch of 128 \(batch size 64 x 2"
    ):
        trainer_for(*pair, tokenizer, tmp_path, steps_per_generation=2)


def test_a_teacher_with_another_tokenizer_is_refused(pair, tokenizer, tmp_path):
    other = tokenizer.__class__(tokenizer_object=tokenizer._tokenizer, pad_token="<pad>", eos_token="<eos>")
    vocabulary = dict(tokenizer.get_vocab())
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    other.get_vocab = lambda: vocabulary
    with pytest.raises(MethodError, match="different tokenizers: id 3 is 'a'"):
        Distiller(
            make_model(seed=0), terms=[Divergence()], teacher=Teacher(make_model(seed=1), other),
            processing_class=tokenizer,
            args=SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
            train_dataset=Dataset.from_list([{"prompt": "a|", "completion": "b"}]),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_mix": 1.0}, "teacher_mix"),
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "multiple"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(MethodError, match=message):
        PolicyConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)
