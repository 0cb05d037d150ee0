"""`kd bench --step`: a whole white-box training step of our DistillationTrainer beside TRL's experimental GKDTrainer.

A step is all that lies between two optimizer updates: sampling where it is on-policy, the teacher's forward pass, the
student's forward and backward passes, AdamW. Both trainers get the same models, examples and divergence, and take turns
in one process; process time, fastest step. On fixed data both must come to the same loss. Peak memory is what a step
needs above the models, measured in a fork where only that trainer has run.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table

from tools.bench.losses import BETA
from tools.bench.measure import publish

OURS, PEER = "KD Atlas, DistillationTrainer", "TRL, experimental GKDTrainer"
STEPS = 2  # timed in each turn, after one that warms up
WARM_UP = 1


@dataclass(frozen=True)
class Case:
    """Sequences of `length` tokens, the second half completion (or the student's own); Llama-shaped models."""

    vocabulary: int
    divergence: str
    on_policy: bool
    batch: int
    length: int
    student: tuple[int, int]  # width, layers
    teacher: tuple[int, int]


@dataclass
class Result:
    """One trainer on one case; None where it cannot be had."""

    implementation: str
    seconds: float | None
    peak_bytes: int | None
    loss: float | None
    note: str = ""


Build = Callable[[Case, str], Any]  # (case, output folder) -> a trainer


def ours(case: Case, folder: str) -> Any:
    """Our trainer, with the sampler of GKD where the student's own sequences are wanted."""
    from methods.slots.samplers import OnPolicy
    from methods.slots.terms import Divergence
    from methods.trainers import Distiller, SFTConfig

    student, teacher = models(case)
    weight = {"teacher_weight": BETA[case.divergence]} if case.divergence == "jensen_shannon" else {}
    return Distiller(
        student, teacher=teacher, args=SFTConfig(**settings(case, folder)), train_dataset=examples(case),
        processing_class=tokenizer(), terms=[Divergence(case.divergence, settings=weight)],
        sampler=OnPolicy(1.0) if case.on_policy else None, max_completion_length=case.length // 2,
    )  # fmt: skip


def gkd(case: Case, folder: str) -> Any:
    """TRL's trainer; its collator pads nothing here, since all sequences have one length."""
    import torch

    module = importlib.import_module("trl.experimental.gkd")
    student, teacher = models(case)
    half = case.length // 2

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
        prompts = batch["input_ids"][:, :half]
        ones = {"attention_mask": batch["input_ids"], "prompt_attention_mask": prompts}
        return batch | {"prompts": prompts} | {name: torch.ones_like(like) for name, like in ones.items()}

    args = module.GKDConfig(
        **settings(case, folder), lmbda=1.0 if case.on_policy else 0.0, beta=BETA[case.divergence],
        temperature=1.0, max_new_tokens=half,
    )  # fmt: skip
    return module.GKDTrainer(
        student, teacher_model=teacher, args=args, train_dataset=examples(case), data_collator=collate,
        processing_class=tokenizer(),
    )  # fmt: skip


TRAINERS: dict[str, Build] = {OURS: ours, PEER: gkd}


def available() -> dict[str, Build]:
    """The trainers that can be had here: experimental ones come and go."""
    try:
        importlib.import_module("trl.experimental.gkd")
    except ImportError:
        return {OURS: ours}
    return TRAINERS


def models(case: Case) -> tuple[Any, Any]:
    """Student and teacher with seeded random weights, heads tied to the embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = []
    for seed, (width, layers) in enumerate((case.student, case.teacher)):
        config = LlamaConfig(
            vocab_size=case.vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2 * case.length,
            tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        torch.manual_seed(seed)
        made.append(LlamaForCausalLM(config))
    return made[0], made[1]


def tokenizer() -> Any:
    """One that knows how to pad; the examples are token ids already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    pad, end = "<pad>", "<eos>"
    core = Tokenizer(WordLevel({pad: 0, end: 1}, unk_token=pad))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, eos_token=end)


def examples(case: Case) -> Any:
    """The rows of all steps of a turn: input ids, and labels that are -100 on the prompt."""
    import torch
    from datasets import Dataset

    half = case.length // 2
    rows = (case.batch * (WARM_UP + STEPS), case.length)
    ids = torch.randint(2, case.vocabulary, rows, generator=torch.Generator().manual_seed(0)).tolist()
    return Dataset.from_list([{"input_ids": row, "labels": [-100] * half + row[half:]} for row in ids])


def settings(case: Case, folder: str) -> dict[str, Any]:
    """Training arguments that both take."""
    return {
        "output_dir": folder, "per_device_train_batch_size": case.batch, "max_steps": WARM_UP + STEPS,
        "learning_rate": 1e-4, "lr_scheduler_type": "constant", "optim": "adamw_torch", "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "seed": 3,
    }  # fmt: skip


def seconds_of_a_step(case: Case, build: Build) -> tuple[float, float]:
    """Processor seconds of the fastest step after the first, and the mean loss of all."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder, _quiet():
        trainer = build(case, folder)
        trainer.add_callback(Clock())
        loss = trainer.train().training_loss
    return min(end - begin for begin, end in pairwise(ends[WARM_UP - 1 :])), loss


def peak_memory(case: Case) -> dict[str, int]:
    """Bytes that one step of each trainer needs above its models."""
    from tools.bench.measure import peak_in_fork

    small = replace(case, vocabulary=64, length=8, student=(8, 1), teacher=(8, 1))
    peaks = {}
    for name, build in available().items():
        with tempfile.TemporaryDirectory() as folder, _quiet():

            def prepare(build: Build = build, folder: str = folder) -> Callable[[], Any]:
                seconds_of_a_step(small, build)  # the libraries that it loads are not the step
                trainer = build(case, folder)
                trainer.args.max_steps = 1
                return trainer.train

            found = peak_in_fork(prepare)
        if found is not None:
            peaks[name] = found
    return peaks


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Trainers print summaries, bars and advice; a table is enough."""
    import datasets

    bars, level = not datasets.are_progress_bars_disabled(), logging.root.manager.disable
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(level)
            if bars:
                datasets.enable_progress_bars()


def measure(case: Case, peaks: dict[str, int], repeats: int) -> list[Result]:
    """Both trainers on one case, in turns."""
    trainers = available()
    best, losses = dict.fromkeys(trainers, float("inf")), {}
    for _ in range(repeats):
        for name, build in trainers.items():
            seconds, losses[name] = seconds_of_a_step(case, build)
            best[name] = min(best[name], seconds)
    return [
        Result(name, best[name], peaks.get(name), losses[name])
        if name in trainers
        else Result(name, None, None, None, "not in this TRL")
        for name in TRAINERS
    ]


def cases(args: Any) -> Iterator[Case]:
    """Fixed data and on-policy, for each divergence; at 128,256 ids, if asked for, it takes above half an hour."""
    small = (2, 16, (16, 1), (24, 1)) if args.quick else (4, 240, (256, 4), (512, 8))
    for vocabulary in args.vocab or ([997] if args.quick else [32_000]):
        for on_policy in (False, True):
            for divergence in args.divergence or sorted(BETA, reverse=True):
                yield Case(vocabulary, divergence, on_policy, *small)


def run(args: Any, console: Any, environment: dict[str, Any]) -> int:
    """Measure, print, and record if asked; 1 where the two come to different losses on fixed data."""
    import torch

    torch.set_num_threads(1)
    record, agree, peaks = environment, True, {}
    for case in cases(args):  # before anything is timed: a heap that has grown hides what a step needs
        with console.status(f"memory: vocabulary {case.vocabulary}, {case.divergence}"):
            peaks[case] = peak_memory(case)
    for case in cases(args):
        with console.status(f"time: vocabulary {case.vocabulary}, {case.divergence}"):
            results = measure(case, peaks[case], args.repeats)
        console.print(_table(case, results))
        record["cases"].append({**asdict(case), "results": [asdict(result) for result in results]})
        mine, other = (result.loss for result in results)
        if not case.on_policy and mine is not None and other is not None:
            agree = agree and abs(mine - other) <= 1e-3 * abs(mine)
    publish(record, "step-cpu", args, console)
    if not agree:
        console.print("kd bench: the trainers do not agree in their loss on fixed data.")
    return 0 if agree else 1


def _table(case: Case, results: list[Result]) -> Table:
    where = "on-policy" if case.on_policy else "fixed data"
    title = f"{case.divergence}, vocabulary {case.vocabulary:,}, {where}, {case.batch} x {case.length} tokens"
    table = Table(title=title, title_justify="left", expand=True)
    for column in ("trainer", "s/step", "x ours", "peak MB", "x ours", "loss"):
        table.add_column(column, justify="left" if column == "trainer" else "right")
    mine = next(result for result in results if result.implementation == OURS)
    assert mine.seconds is not None
    for r in results:
        if r.seconds is None:
            table.add_row(r.implementation, r.note, style="dim")
            continue
        bytes_ = "-" if r.peak_bytes is None else f"{r.peak_bytes / 1e6:,.0f}"
        ratio = f"{r.peak_bytes / mine.peak_bytes:.2f}" if r.peak_bytes and mine.peak_bytes else "-"
        table.add_row(
            r.implementation,
            f"{r.seconds:.3f}",
            f"{r.seconds / mine.seconds:.2f}",
            bytes_,
            ratio,
            f"{r.loss:.4f}",
            style="bold" if r is mine else None,
        )
    return table
