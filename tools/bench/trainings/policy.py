"""`kd bench --policy`: a whole step of our policy trainer beside TRL's own GRPOTrainer, at equal rollouts.

A step is all that lies between two updates: sampling, rewards, scoring, the forward and backward pass, AdamW. Both get
the same model, prompts, reward and settings (GRPO, one update for each batch of samples), and every completion has the
same number of tokens: the token that would end one is outside the head. What a teacher adds is shown beside it. The
trainers take turns in one process; process time, fastest step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tools.bench.measure import publish
from tools.bench.trainings.step import STEPS, WARM_UP, seconds_of_a_step

PEER = "TRL, GRPOTrainer"
OURS = "KD Atlas, GRPO"
GOAL = 1.15  # times the peer's step


@dataclass(frozen=True)
class Case:
    """`batch` completions of `tokens` tokens in groups of `group`, Llama-shaped models."""

    vocabulary: int
    batch: int
    group: int
    prompt: int
    tokens: int
    student: tuple[int, int]  # width, layers
    teacher: tuple[int, int]


@dataclass
class Result:
    """One trainer on one case; `share` is its seconds over TRL's."""

    implementation: str
    seconds: float
    share: float


def reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """Something exact and cheap that differs within a group."""
    return [sum(i % 7 for i in ids) / len(ids) for ids in completion_ids]


def ours(case: Case, folder: str, *, advantage: Any, terms: Any = (), taught: bool = False) -> Any:
    """Our trainer."""
    from methods.trainers import OptimisationConfig, PolicyOptimiser

    student, teacher = models(case)
    return PolicyOptimiser(
        student, args=OptimisationConfig(**settings(case, folder)), train_dataset=prompts(case),
        processing_class=tokenizer(case), rewards=[reward], advantage=advantage, terms=list(terms),
        teacher=[teacher] if taught else None,
    )  # fmt: skip


def grpo(case: Case, folder: str) -> Any:
    """Our GRPO."""
    from methods.slots.advantages import GroupReward

    return ours(case, folder, advantage=GroupReward())


def distillation(case: Case, folder: str) -> Any:
    """The teacher's log-ratio in the verifier's place."""
    from methods.slots.advantages import LogRatio

    return ours(case, folder, advantage=LogRatio(), taught=True)


def both(case: Case, folder: str) -> Any:
    """Verifier and teacher, and the exact reverse KL on the same completions."""
    from methods.slots.advantages import GroupReward, LogRatio, Sum
    from methods.slots.terms import Divergence

    both_of = Sum([GroupReward(), LogRatio(weight=0.1)])
    return ours(case, folder, advantage=both_of, terms=[Divergence("reverse_kl", weight=0.1)], taught=True)


def peer(case: Case, folder: str) -> Any:
    """TRL's trainer."""
    import importlib

    trl = importlib.import_module("trl")
    args = trl.GRPOConfig(**settings(case, folder), disable_dropout=True)
    return trl.GRPOTrainer(
        models(case)[0], reward_funcs=[reward], args=args, train_dataset=prompts(case),
        processing_class=tokenizer(case),
    )  # fmt: skip


TRAINERS: dict[str, Callable[[Any, str], Any]] = {
    OURS: grpo,
    PEER: peer,
    "KD Atlas, teacher's log-ratio": distillation,
    "KD Atlas, GRPO + log-ratio + exact term": both,
}


def models(case: Case) -> tuple[Any, Any]:
    """Student and teacher with seeded random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = []
    for seed, (width, layers) in enumerate((case.student, case.teacher)):
        config = LlamaConfig(
            vocab_size=case.vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=case.prompt + case.tokens,
            pad_token_id=0, bos_token_id=None, eos_token_id=case.vocabulary,
        )  # fmt: skip
        torch.manual_seed(seed)
        made.append(LlamaForCausalLM(config))
    return made[0], made[1]


def tokenizer(case: Case) -> Any:
    """A word a token; the end-of-sequence token is one more than the models' heads have."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    pad, end = "<pad>", "<eos>"
    words = {pad: 0, **{f"w{n}": n for n in range(1, case.vocabulary)}, end: case.vocabulary}
    core = Tokenizer(WordLevel(words, unk_token=pad))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, eos_token=end, padding_side="left")


def prompts(case: Case) -> Any:
    """Prompts for all steps of a turn."""
    import torch
    from datasets import Dataset

    rows = (case.batch // case.group * (WARM_UP + STEPS), case.prompt)
    ids = torch.randint(1, case.vocabulary, rows, generator=torch.Generator().manual_seed(0)).tolist()
    return Dataset.from_list([{"prompt": " ".join(f"w{i}" for i in row)} for row in ids])


def settings(case: Case, folder: str) -> dict[str, Any]:
    """Training arguments that both take."""
    return {
        "output_dir": folder, "per_device_train_batch_size": case.batch, "num_generations": case.group,
        "max_completion_length": case.tokens, "max_steps": WARM_UP + STEPS, "learning_rate": 1e-5,
        "lr_scheduler_type": "constant", "optim": "adamw_torch", "use_cpu": True, "bf16": False, "beta": 0.0,
        "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no", "logging_strategy": "no",
        "disable_tqdm": True, "seed": 3,
    }  # fmt: skip


def measure(case: Case, repeats: int) -> list[Result]:
    """All trainers on one case, in turns."""
    best = dict.fromkeys(TRAINERS, float("inf"))
    for _ in range(repeats):
        for name, build in TRAINERS.items():
            seconds, _ = seconds_of_a_step(case, build)  # type: ignore[arg-type]
            best[name] = min(best[name], seconds)
    return [Result(name, seconds, seconds / best[PEER]) for name, seconds in best.items()]


def cases(args: Any) -> Iterator[Case]:
    """One for each vocabulary."""
    for vocabulary in args.vocab or ([97] if args.quick else [8_192]):
        if args.quick:
            yield Case(vocabulary, 4, 2, 4, 6, (16, 1), (24, 1))
        else:
            yield Case(vocabulary, 16, 8, 32, 64, (256, 4), (512, 8))


def run(args: Any, console: Any, environment: dict[str, Any]) -> int:
    """Measure, print, and record if asked."""
    import torch

    torch.set_num_threads(1)
    record = environment
    for case in cases(args):
        with console.status(f"time: vocabulary {case.vocabulary}"):
            results = measure(case, args.repeats)
        console.print(_table(case, results))
        mine = next(result for result in results if result.implementation == OURS)
        within = "within" if mine.share <= GOAL else "beyond"
        console.print(f"our GRPO step is {mine.share:.2f} times TRL's, {within} the goal of {GOAL}")
        record["cases"].append({**asdict(case), "results": [asdict(result) for result in results]})
    publish(record, "policy-cpu", args, console)
    return 0


def _table(case: Case, results: list[Result]) -> Table:
    title = (
        f"a policy step, vocabulary {case.vocabulary:,}, {case.batch} completions of {case.tokens} tokens in groups of "
        f"{case.group}"
    )
    table = Table(title=title, title_justify="left", expand=True)
    for column in ("trainer", "s/step", "x TRL"):
        table.add_column(column, justify="left" if column == "trainer" else "right")
    for r in results:
        bold = "bold" if r.implementation == OURS else None
        table.add_row(r.implementation, f"{r.seconds:.3f}", f"{r.share:.2f}", style=bold)
    return table
