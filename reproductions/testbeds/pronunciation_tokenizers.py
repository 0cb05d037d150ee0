"""The pronunciation task with a teacher that reads other tokens: byte-level BPE over the same spelled text.

Student, data and metrics are those of the pronunciation testbed. The teacher's tokenizer has every byte and few merges:
frequent phonemes are one token behind their blank, rare ones are spelled, stress marks stand alone, so that a student's
token is one to three of the teacher's, and the teacher's " N" may go on to the student's "NG".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from reproductions.testbeds import pronunciation
from reproductions.testbeds.pronunciation import Pronunciation, lexicon_path, read_lexicon
from reproductions.testbeds.scratch_models import scratch_llama
from reproductions.testbeds.training import fine_tune, on_device

if TYPE_CHECKING:
    from reproductions.engine.run import Run

# Set once, on the tokenizer alone, before any method was judged here. Changing any makes another teacher.
TEACHER_MERGES = 40
TEACHER_TOKENS, TEACHER_COMPLETION_TOKENS = 48, 26
TEACHER_STEPS = 3_500  # longer sequences than those of the other teacher, for as many seconds


def merged_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with GPT-2's split into words and numbers: every byte, 3 special tokens, merges from `texts`."""
    pad, bos, eos = special = ["<pad>", "<bos>", "<eos>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=len(special) + len(alphabet) + TEACHER_MERGES,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        padding_side="left",
        model_max_length=TEACHER_TOKENS,
    )


class PronunciationTokenizers(Pronunciation):
    """The pronunciation testbed and one more teacher, `other_teacher`, which reads `teacher_tokenizer`'s tokens.

    The metrics that ask a teacher (excess error) go on asking the one with the student's tokens.
    """

    max_teacher_completion_tokens = TEACHER_COMPLETION_TOKENS

    @cached_property
    def teacher_tokenizer(self) -> PreTrainedTokenizerFast:
        """Trained on all training words: the same on every machine."""
        return merged_tokenizer(" ".join(word) + " | " + self._lexicon[word] for word in self._words["train"])

    def other_teacher(self, run: Run) -> PreTrainedModel:
        """The cached teacher with its own tokenizer, frozen, on `run.device`; some minutes to make on one core."""

        training: dict[str, Any] = dict(pronunciation.TEACHER_TRAINING)
        training["max_steps"] = min(TEACHER_STEPS, training["max_steps"])

        def build() -> PreTrainedModel:
            model = scratch_llama(
                self.teacher_tokenizer, pronunciation.TEACHER_SHAPE, max_tokens=TEACHER_TOKENS, seed=0
            )
            return fine_tune(
                model,
                self.teacher_train,
                self.teacher_tokenizer,
                run,
                training,
                max_tokens=TEACHER_TOKENS,
                phase="teacher",
            )

        key: dict[str, Any] = {
            "shape": pronunciation.TEACHER_SHAPE,
            "training": training,
            "merges": TEACHER_MERGES,
            "seed": 0,
        }
        return (
            on_device(run.cached_model("teacher-other-tokens", key, build), run).eval().requires_grad_(False)
        )

    def readable(self, rows: Dataset) -> tuple[Dataset, int]:
        """Rows of teacher answers, with the data's own where the student has no token for what the teacher wrote.

        Also how many those are.
        """
        known = dict(zip(self.train["prompt"][:], self.train["completion"][:], strict=True))
        encoded = self.tokenizer(list(rows["completion"]))["input_ids"]
        unread = [self.tokenizer.pad_token_id in ids or not ids for ids in encoded]
        answers = [
            {"prompt": row["prompt"], "completion": known[row["prompt"]] if bad else row["completion"]}
            for row, bad in zip(rows, unread, strict=True)
        ]
        return Dataset.from_list(answers), sum(unread)


def load() -> PronunciationTokenizers:
    """The testbed on the installed lexicon; raises KDError where the package is missing."""
    return PronunciationTokenizers(read_lexicon(lexicon_path()))
