"""Arms of papers about two tokenizers: the testbed has a teacher `other` with a tokenizer of its own.

As in reproductions/arms.py, hyper-parameters come from the scale's settings and every arm starts from the SFT student
where its settings say nothing else. Rows may have a `teacher_prompt` for the teacher to read in place of `prompt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from reproductions.arms import arguments, sft, start, trained

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from methods.trainers.cross_tokenizer import LossTerm
    from reproductions.engine.run import Run

OTHER = "other"
PIECE = 20_000  # rows encoded together: while they are Python lists they take several times the memory


def seqkd(run: Run) -> Any:
    """Supervised fine-tuning on text that the teacher wrote for the training prompts."""
    return sft(run, other_teacher_answers(run))


def uld(run: Run, share: float = 1.0) -> Any:
    """ULD and cross entropy on a share of the teacher's answers, in equally many steps."""
    from methods.trainers.cross_tokenizer import NextToken, SortedProbabilities

    answers = other_teacher_answers(run)
    answers = answers.select(range(int(len(answers) * share)))
    return cross_distil(run, [NextToken(), SortedProbabilities(**run.settings["uld"])], dataset=answers)


def alm(run: Run, *, with_sft: bool = False, balance: bool = True, **changes: Any) -> Any:
    """ALM on the training rows; `with_sft` adds the cross entropy, balanced by gradients or one to one."""
    from methods.trainers.cross_tokenizer import ChunkLikelihood, NextToken

    chunks = ChunkLikelihood(**run.settings["alm"] | changes)
    terms: list[LossTerm] = [NextToken(), chunks] if with_sft else [chunks]
    return cross_distil(run, terms, gradient_balance=with_sft and balance)


def cross_distil(
    run: Run, terms: Sequence[LossTerm], *, dataset: Dataset | None = None, gradient_balance: bool = False
) -> Any:
    """Distillation from the teacher with other tokens, on the training rows where no others are given."""
    from methods.trainers.cross_tokenizer import CrossTokenizerTrainer, SFTConfig

    testbed: Any = run.testbed
    rows = testbed.train if dataset is None else dataset
    trainer = CrossTokenizerTrainer(
        start(run),
        teacher=testbed.teacher(run, OTHER),
        teacher_tokenizer=testbed.teacher_tokenizer(OTHER),
        terms=terms,
        args=arguments(run, SFTConfig),
        train_dataset=encoded_pairs(
            rows, testbed.tokenizer, testbed.teacher_tokenizer(OTHER), *testbed.pair_limits
        ),
        processing_class=testbed.tokenizer,
        gradient_balance=gradient_balance,
    )
    return trained(run, trainer)


@lru_cache(maxsize=4)  # a worker makes many runs on the same rows
def encoded_pairs(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    teacher_max_length: int | None = None,
) -> Dataset:
    """Both tokenisations of the rows, each within its limit, and their chunks."""
    from datasets import concatenate_datasets

    from methods.tokenizers.text_pairs import encode_pairs

    parts = [rows.select(range(i, min(i + PIECE, len(rows)))) for i in range(0, len(rows), PIECE)]
    limits = {"max_length": max_length, "teacher_max_length": teacher_max_length}
    return concatenate_datasets(
        [encode_pairs(part, tokenizer, teacher_tokenizer, **limits) for part in parts]
    )


def other_teacher_answers(run: Run) -> Dataset:
    """Text that the teacher wrote for the training prompts by settings["labelling"]; made once for all seeds."""
    from datasets import Dataset

    from methods.elicitation.labelling import label_with_teacher

    testbed: Any = run.testbed

    column = "teacher_prompt" if "teacher_prompt" in testbed.train.column_names else "prompt"

    def build() -> list[dict[str, str]]:
        settings = dict(run.settings["labelling"])
        labels, report = label_with_teacher(
            testbed.teacher(run, OTHER),
            testbed.teacher_tokenizer(OTHER),
            list(testbed.train[column])[: settings.pop("prompts")],
            max_new_tokens=testbed.teacher_completion_tokens(OTHER),
            **settings,
        )
        rows, unread = testbed.readable(labels)
        run.ledger.add_tokens({"teacher": report.teacher_tokens, "generated": report.generated_tokens})
        counts = {name: getattr(report, name) for name in ("completions", "truncated", "empty")}
        # What the student cannot read says nothing to it: it is counted with the empty answers.
        run.ledger.add_rollouts(counts | {"empty": counts["empty"] + unread})
        return rows.to_list()

    key = {"labelling": run.settings["labelling"], "teacher": "other tokens"}
    return Dataset.from_list(run.cached_json("seqkd-labels-other-tokens", key, build))


def uld_on_data(run: Run) -> Any:
    """Half cross entropy and half sorted probabilities on the training rows, as DSKD's authors run ULD."""
    from methods.trainers.cross_tokenizer import NextToken, SortedProbabilities

    return cross_distil(run, [NextToken(weight=0.5), SortedProbabilities(weight=0.5)])


def dual_space(run: Run, *, same_tokens: bool = False, **changes: Any) -> Any:
    """DSKD and cross entropy on the training rows; `same_tokens` takes the teacher with the student's tokenizer."""
    from methods.tokenizers.dual_space import DualSpace
    from methods.trainers.cross_tokenizer import CrossTokenizerTrainer, NextToken, SFTConfig

    testbed: Any = run.testbed
    student = testbed.sft_start(run)
    teacher = testbed.teacher(run) if same_tokens else testbed.teacher(run, OTHER)
    tokenizers = testbed.tokenizer, testbed.tokenizer if same_tokens else testbed.teacher_tokenizer(OTHER)
    spaces = DualSpace.between(student, teacher, seed=run.seed, **run.settings["dskd"] | changes)
    trainer = CrossTokenizerTrainer(
        student,
        teacher=teacher,
        teacher_tokenizer=tokenizers[1],
        terms=[NextToken(weight=1 - spaces.weight), spaces],
        args=arguments(run, SFTConfig),
        train_dataset=encoded_pairs(testbed.train, *tokenizers),
        processing_class=testbed.tokenizer,
    )
    return run.train(trainer)


def written_by_student(run: Run, term: str, **settings: Any) -> Any:
    """One term of methods.trainers.cross_tokenizer on the student's own answers to the training prompts."""
    from methods.slots.samplers import OnPolicy
    from methods.trainers import cross_tokenizer

    testbed: Any = run.testbed
    trainer = cross_tokenizer.CrossTokenizerTrainer(
        testbed.sft_start(run),
        teacher=testbed.teacher(run, OTHER),
        teacher_tokenizer=testbed.teacher_tokenizer(OTHER),
        terms=[getattr(cross_tokenizer, term)(**settings)],
        args=arguments(run, cross_tokenizer.SFTConfig),
        train_dataset=encoded_pairs(testbed.train, testbed.tokenizer, testbed.teacher_tokenizer(OTHER)),
        processing_class=testbed.tokenizer,
        sampler=OnPolicy(),
        max_completion_length=testbed.max_completion_tokens,
    )
    return run.train(trainer)
