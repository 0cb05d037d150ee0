"""A teacher that reads what the student is not shown, and may follow it: against plain forward passes in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import kl_div, log_softmax

from methods.assembly import trainer_for
from methods.errors import MethodError
from methods.modeling.core import snapshot
from methods.recipe import canonical_method
from methods.slots.samplers import OnPolicy, SwitchingSampler
from methods.slots.terms import Divergence, HiddenMatch
from methods.toy import ToySurroundings
from methods.trainers import Distiller, PolicyConfig, PolicyDistiller, SFTConfig, Teacher
from methods.trainers.teachers import OtherPrompts
from tests.methods.conftest import make_model

EOS = 1
ROWS = Dataset.from_list(
    [
        {"prompt": "ab|", "completion": "cdefgh", "reads": "ab|cdefgh|again|"},
        {"prompt": "hello|", "completion": "o", "reads": "o|"},
        {"prompt": "x|", "completion": "xyzxyzxyz", "reads": "x|"},
        {"prompt": "distil|", "completion": "kd", "reads": "what|is|distil|"},
    ]
)


def made(tmp_path, tokenizer, student, teacher, rows=ROWS, *, steps=1, **options):
    args = SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=steps, learning_rate=0.5, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", save_strategy=options.pop("saves", "no"), save_steps=2, logging_strategy="no",
        disable_tqdm=True, seed=3,
    )  # fmt: skip
    options.setdefault("terms", [Divergence("forward_kl")])
    return Distiller(
        student, teacher=teacher, args=args, train_dataset=rows, processing_class=tokenizer,
        max_completion_length=6, **options,
    )  # fmt: skip


def said(model, tokenizer, prompt: str, completion: list[int]) -> torch.Tensor:
    """log-probabilities (T, V) of a model at a completion, one row at a time, without padding."""
    before = tokenizer(prompt)["input_ids"]
    logits = model(input_ids=torch.tensor([[*before, *completion]])).logits[0]
    return log_softmax(logits[len(before) - 1 : -1].double(), -1)


def by_hand(student, teacher, tokenizer, completions) -> torch.Tensor:
    """The mean over tokens of KL(teacher behind what it reads || student behind the prompt)."""
    parts = []
    for row, ids in zip(ROWS, completions, strict=True):
        with torch.no_grad():
            theirs = said(teacher, tokenizer, row["reads"], ids)
        parts.append(
            kl_div(
                said(student, tokenizer, row["prompt"], ids), theirs, reduction="none", log_target=True
            ).sum(-1)
        )
    return torch.cat(parts).mean()


def answers(tokenizer) -> list[list[int]]:
    return [[*tokenizer(row["completion"])["input_ids"], EOS] for row in ROWS]


def moved(before, student) -> dict[str, torch.Tensor]:
    return {name: before[name] - weight.detach() for name, weight in student.named_parameters()}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_update_is_that_of_the_formula_on_full_logits(tmp_path, tokenizer, kind):
    student, teacher = make_model(kind).double(), make_model(kind, seed=1, width=24).double()
    loss = by_hand(student, teacher, tokenizer, answers(tokenizer))
    slopes = dict(
        zip(
            dict(student.named_parameters()),
            torch.autograd.grad(loss, list(student.parameters())),
            strict=True,
        )
    )
    before = {name: weight.detach().clone() for name, weight in student.named_parameters()}
    trainer = made(tmp_path, tokenizer, student, Teacher(teacher, reads="reads"))
    trainer.train()
    for name, way in moved(before, student).items():
        torch.testing.assert_close(way, 0.5 * slopes[name], atol=1e-9, rtol=1e-7)
    length = sum(len(tokenizer(row["reads"])["input_ids"]) for row in ROWS) + sum(
        map(len, answers(tokenizer))
    )
    assert trainer.token_counts["teacher"] == length > trainer.token_counts["student"]


@pytest.mark.parametrize("fault", ["the student's prompts", "a token early", "another row's"])
def test_the_formula_tells_other_readings(tmp_path, tokenizer, monkeypatch, fault):
    right = OtherPrompts.batch

    def wrong(self, batch):
        if fault == "the student's prompts":
            return dict(batch)
        found = right(self, batch)
        if fault == "a token early":
            return found | {"labels": found["labels"].roll(-1, 1)}
        return {name: rows.flip(0) for name, rows in found.items()}

    monkeypatch.setattr(OtherPrompts, "batch", wrong)
    with pytest.raises(AssertionError):
        test_the_update_is_that_of_the_formula_on_full_logits(tmp_path, tokenizer, "llama")


def test_on_policy_the_teacher_reads_the_students_own_answers_behind_its_own_prompts(tmp_path, tokenizer):
    student, teacher = make_model().double(), make_model(seed=1, width=24).double()
    trainer = made(tmp_path, tokenizer, student, Teacher(teacher, reads="reads"), sampler=OnPolicy(1.0))
    wrote = []
    sampled = trainer.sampling.sampler
    trainer.sampling.sampler = lambda window, step: wrote.append(sampled(window, step)) or wrote[-1]
    before = {name: weight.detach().clone() for name, weight in student.named_parameters()}
    untouched = snapshot(student)
    trainer.train()
    by_prompt = {tuple(one.prompt): one.completion for one in wrote[0]}
    own = [by_prompt[tuple(tokenizer(row["prompt"])["input_ids"])] for row in ROWS]
    assert own != answers(tokenizer)
    loss = by_hand(untouched, teacher, tokenizer, own)
    slopes = torch.autograd.grad(loss, list(untouched.parameters()))
    for (name, way), slope in zip(moved(before, student).items(), slopes, strict=True):
        torch.testing.assert_close(way, 0.5 * slope, atol=1e-9, rtol=1e-7, msg=name)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_teacher_follows_the_student_by_its_share(tmp_path, tokenizer, share):
    """phi_t = (1 - a) phi_(t-1) + a theta_t, over the weights theta_t before each step t."""
    student = make_model().double()
    teacher, wanted = snapshot(student), {n: w.detach().clone() for n, w in student.named_parameters()}
    trainer = made(tmp_path, tokenizer, student, Teacher(teacher, reads="reads", follows=share), steps=3)
    begin = trainer.models.begin_step

    def told():
        for name, weight in student.named_parameters():
            wanted[name] = (1 - share) * wanted[name] + share * weight.detach()
        begin()

    trainer.models.begin_step = told
    trainer.train()
    theirs, ours = dict(teacher.named_parameters()), dict(student.named_parameters())
    for name, weight in wanted.items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-12, rtol=0)
        assert not weight.requires_grad and not torch.equal(theirs[name], ours[name])


def test_an_interrupted_training_goes_on_with_the_teacher_it_had(tmp_path, tokenizer):
    def run(folder, steps, resume=None):
        student = make_model().double()
        teacher = Teacher(snapshot(student), reads="reads", follows=0.4)
        trainer = made(
            tmp_path / folder, tokenizer, student, teacher, steps=steps, saves="steps", sampler=OnPolicy(1.0)
        )
        trainer.train(resume_from_checkpoint=resume)
        return student

    whole = run("whole", 4)
    run("part", 2)
    again = run("part", 4, str(tmp_path / "part" / "checkpoint-2"))
    for (name, one), other in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        ({"reads": "notes"}, {}, "rows have no column .notes."),
        (
            {"reads": "reads"},
            {"terms": [Divergence(), HiddenMatch([(0, 0)])]},
            "teacher that reads what the student reads",
        ),
        (
            {"reads": "reads"},
            {"sampler": SwitchingSampler(0.4)},
            "teacher that reads what the student reads",
        ),
        ({"follows": 1.5}, {}, r"a share of the student's weights in \[0, 1\], not 1.5"),
        ({"follows": 0.5}, {}, "has its weights, whole on each process"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, tokenizer, teacher, options, message):
    with pytest.raises(MethodError, match=message):
        other = Teacher(make_model(seed=1, width=24), **teacher)
        made(tmp_path, tokenizer, make_model(), other, **options).train()


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ("", "a text of no token"),
        ("a" * 60, "60 tokens, and its teacher has room for 58 before a completion"),
        (3, "a teacher reads text"),
    ],
)
def test_a_text_that_no_teacher_can_read_is_said_before_any_step(tmp_path, tokenizer, reads, message):
    rows = Dataset.from_list([{"prompt": "ab|", "completion": "cd", "reads": reads}] * 4)
    with pytest.raises(MethodError, match=message):
        made(tmp_path, tokenizer, make_model(), Teacher(make_model(seed=1), reads="reads"), rows)


def test_two_texts_for_one_prompt_are_refused(tmp_path, tokenizer):
    rows = Dataset.from_list(
        [{"prompt": "ab|", "completion": c, "reads": f"ab|{c}|"} for c in ("cd", "ef", "g", "h")]
    )
    with pytest.raises(MethodError, match='two rows of one prompt say .* in "reads"'):
        made(tmp_path, tokenizer, make_model(), Teacher(make_model(seed=1), reads="reads"), rows)


def test_minillm_s_trainer_refuses_it(tmp_path, tokenizer):
    args = PolicyConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, use_cpu=True)
    with pytest.raises(
        MethodError, match="goes with the trainers privileged-distillation and privileged-policy"
    ):
        PolicyDistiller(
            make_model(), teacher=Teacher(make_model(seed=1), reads="reads"), args=args,
            train_dataset=ROWS, processing_class=tokenizer,
        )  # fmt: skip


def test_a_reading_has_no_end_that_a_tokenizer_puts_behind_every_text(tmp_path, tokenizer):
    """As prompts have none: the completion would stand behind the end of a text."""
    student, teacher = make_model(), make_model(seed=1)
    plain = made(tmp_path, tokenizer, student, Teacher(teacher, reads="reads"))
    ends = copy.deepcopy(tokenizer)
    ends.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", EOS)]
    )
    reading = OtherPrompts("reads", teacher, ends, 6)
    reading.prepare(plain)
    assert ends("ab")["input_ids"][-1] == EOS and reading._ids == plain.models.prompts[0]._ids


def test_a_student_that_is_shown_nothing_learns_nothing_and_that_is_said():
    for reads in ("{prompt}", "{prompt}{completion}"):
        trainer = {"name": "privileged-distillation", "reads": reads}
        tree = {"teacher": "student", "trainer": trainer, "terms": [{"divergence": "reverse-kl"}]}
        if reads == "{prompt}":
            with pytest.raises(MethodError, match="the prompts alone, from which it learns nothing"):
                trainer_for(canonical_method(tree), ToySurroundings())
            trainer_for(canonical_method({**tree, "teacher": "main"}), ToySurroundings())
        else:
            trainer_for(canonical_method(tree), ToySurroundings())
