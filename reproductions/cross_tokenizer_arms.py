"""Arms of papers about two tokenizers: the testbed has `other_teacher` and `teacher_tokenizer` beside the student's.

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

    from methods.slots.terms import Term
    from reproductions.engine.run import Run

PIECE = 20_000  # rows encoded together: while they are Python lists they take several times the memory


def seqkd(run: Run) -> Any:
    """Supervised fine-tuning on text that the teacher wrote for the training prompts."""
    return sft(run, other_teacher_answers(run))


def uld(run: Run, share: float = 1.0) -> Any:
    """ULD and cross entropy on a share of the teacher's answers, in equally many steps."""
    from methods.slots.terms import NextToken
    from methods.tokenizers.terms import SortedProbabilities

    answers = other_teacher_answers(run)
    answers = answers.select(range(int(len(answers) * share)))
    return cross_distil(run, [NextToken(), SortedProbabilities(**run.settings["uld"])], dataset=answers)


def alm(run: Run, *, with_sft: bool = False, balance: bool = True, **changes: Any) -> Any:
    """ALM on the training rows; `with_sft` adds the cross entropy, balanced by gradients or one to one."""
    from methods.slots.terms import NextToken
    from methods.tokenizers.terms import ChunkLikelihood

    chunks = ChunkLikelihood(**run.settings["alm"] | changes)
    terms: list[Term] = [NextToken(), chunks] if with_sft else [chunks]
    return cross_distil(run, terms, gradient_balance=with_sft and balance)


def cross_distil(
    run: Run, terms: Sequence[Term], *, dataset: Dataset | None = None, gradient_balance: bool = False
) -> Any:
    """Distillation from the teacher with other tokens, on the training rows where no others are given."""
    from methods.trainers import Distiller, SFTConfig, Teacher

    testbed: Any = run.testbed
    rows = testbed.train if dataset is None else dataset
    limits = getattr(testbed, "pair_limits", ())
    trainer = Distiller(
        start(run),
        teacher=Teacher(testbed.other_teacher(run), testbed.teacher_tokenizer),
        terms=terms,
        args=arguments(run, SFTConfig),
        train_dataset=encoded_pairs(rows, testbed.tokenizer, testbed.teacher_tokenizer, *limits),
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
    return concatenate_datasets(
        [
            encode_pairs(
                part,
                tokenizer,
                teacher_tokenizer,
                max_length=max_length,
                teacher_max_length=teacher_max_length,
            )
            for part in parts
        ]
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
            testbed.other_teacher(run),
            testbed.teacher_tokenizer,
            list(testbed.train[column])[: settings.pop("prompts")],
            max_new_tokens=testbed.max_teacher_completion_tokens,
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
    from methods.slots.terms import NextToken
    from methods.tokenizers.terms import SortedProbabilities

    return cross_distil(run, [NextToken(weight=0.5), SortedProbabilities(weight=0.5)])


def dual_space(run: Run, *, same_tokens: bool = False, **changes: Any) -> Any:
    """DSKD and cross entropy on the training rows; `same_tokens` takes the teacher with the student's tokenizer."""
    from methods.slots.terms import NextToken
    from methods.tokenizers.dual_space import DualSpace
    from methods.trainers import Distiller, SFTConfig, Teacher

    testbed: Any = run.testbed
    student = testbed.sft_start(run)
    teacher = testbed.teacher(run) if same_tokens else testbed.other_teacher(run)
    tokenizers = testbed.tokenizer, testbed.tokenizer if same_tokens else testbed.teacher_tokenizer
    settings = run.settings["dskd"] | changes
    terms = [NextToken(weight=1 - settings["weight"]), DualSpace(**settings)]
    trainer = Distiller(
        student,
        teacher=Teacher(teacher, tokenizers[1]),
        terms=terms,
        args=arguments(run, SFTConfig),
        train_dataset=encoded_pairs(testbed.train, *tokenizers),
        processing_class=testbed.tokenizer,
    )
    return run.train(trainer)


def written_by_student(run: Run, term: str, **settings: Any) -> Any:
    """One term of methods.tokenizers.terms on the student's own answers to the training prompts."""
    from methods.slots.samplers import OnPolicy
    from methods.tokenizers import terms
    from methods.trainers import Distiller, SFTConfig, Teacher

    testbed: Any = run.testbed
    trainer = Distiller(
        testbed.sft_start(run),
        teacher=Teacher(testbed.other_teacher(run), testbed.teacher_tokenizer),
        terms=[getattr(terms, term)(**settings)],
        args=arguments(run, SFTConfig),
        train_dataset=encoded_pairs(testbed.train, testbed.tokenizer, testbed.teacher_tokenizer),
        processing_class=testbed.tokenizer,
        sampler=OnPolicy(),
        max_completion_length=testbed.max_completion_tokens,
    )
    return run.train(trainer)
