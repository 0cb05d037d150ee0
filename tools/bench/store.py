"""`kd bench --store`: bytes, error and speed of the teacher store beside DistillKit's codec, and what it costs a step.

Both codecs get the same most probable ids and log-probabilities, on one thread, and take turns; process time, fastest
turn. DistillKit's own code is run where it can be imported (it is not on PyPI), at the settings of its README. Errors
are KL divergences in nats per token: `error` over the ids kept and one bucket for the rest, which is what a student is
trained on; `even tail` over the whole vocabulary, the rest spread evenly, as a reader would who knows nothing of it.
`drift` is the total variation between what all tokens are taught in the mean and what the teacher says in the mean: of
ids that were drawn it is noise and falls with the number of tokens, of the most probable ones it stays.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from reproductions.engine.errors import KDError
from tools.bench.measure import publish

if TYPE_CHECKING:
    from methods.teachers.codec import Ragged

MODEL, DATA = "HuggingFaceTB/SmolLM2-135M-Instruct", "openai/gsm8k"
GAINS = (2e-3, 1e-3, 5e-4)
ROUNDS = (50, 200)  # draws of a token
EXAMPLE = 100  # tokens that are encoded together
KEPT = 256  # most probable ids that a codec may choose from
# Of DistillKit's README, "recommended" and "budget pick"; and with the option that its fp32 fit needs.
DISTILLKIT: dict[str, dict[str, Any]] = {
    "recommended": {"k": 128, "exact_k": 16, "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"]},
    "recommended, normalize_t": {
        "k": 128, "exact_k": 16, "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"], "normalize_t": True,
    },
    "budget pick": {"k": 50, "exact_k": 1, "polynomial_terms": [0, 1, "sqrt"]},
}  # fmt: skip


@dataclass
class Rows:
    """Distributions of n tokens: the most probable ids and log-probs (n, KEPT), and the entropy (n,) of all of each."""

    name: str
    vocabulary: int
    ids: np.ndarray
    log_probs: np.ndarray
    entropy: np.ndarray
    mean: np.ndarray  # (V,) probabilities, over the tokens
    drawn: np.ndarray  # (n, the most of ROUNDS) ids drawn from each
    seen: np.ndarray | None = None  # how often an id is probable elsewhere (V,): what a store would know


@dataclass
class Result:
    """One codec on one set of rows; per token."""

    codec: str
    bytes: float | None = None
    ids: float | None = None
    covered: float | None = None
    error: float | None = None
    worst: float | None = None
    even_tail: float | None = None
    drift: float | None = None
    encode: float | None = None  # tokens a second
    decode: float | None = None
    note: str = ""


def synthetic(vocabulary: int, tokens: int, seed: int = 0) -> Rows:
    """Zipf's law at exponents between 1.5 and 3, with noise; ids at random, the worst case for their coding."""
    import torch

    from methods.teachers.drawn import draws

    g, mean = torch.Generator().manual_seed(seed), torch.zeros(vocabulary, dtype=torch.float64)
    ranks, parts = torch.arange(1, vocabulary + 1).log(), []
    for _ in range(0, tokens, 20):
        exponent = 1.5 + 1.5 * torch.rand(20, 1, generator=g)
        log_p = (-exponent * ranks + 0.5 * torch.randn(20, vocabulary, generator=g)).log_softmax(-1)
        top, places = log_p.topk(KEPT, -1)
        names = torch.stack([torch.randperm(vocabulary, generator=g) for _ in range(20)])
        p = torch.zeros_like(log_p).scatter_(1, names, log_p.exp())
        mean += p.double().sum(0)
        chosen = names.gather(1, draws(log_p.exp(), max(ROUNDS), g))
        parts.append((names.gather(1, places), top, -(log_p.exp() * log_p).sum(-1), chosen))
    ids, log_probs, entropy, came = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    about = (mean / len(ids)).numpy(), came
    return Rows("Zipf, synthetic", vocabulary, ids, log_probs, entropy.astype(np.float64), *about)


def real(tokens: int) -> Rows:
    """SmolLM2-135M-Instruct on solutions of GSM8K; raises KDError where model or data are not at hand."""
    import torch

    from methods.losses.fused.linear import head_of
    from methods.modeling.core import hidden_states
    from methods.teachers.drawn import draws
    from methods.teachers.fill import logits
    from reproductions.models.sources import load_pretrained, load_rows

    data = load_rows(DATA, "train", ("question", "answer"), config="main", limit=400)
    model, tokenizer = load_pretrained(MODEL)
    assert model is not None
    head, parts, done = head_of(model), [], 0
    g, size = torch.Generator().manual_seed(0), len(head.weight)
    with torch.no_grad():
        for row in data:
            prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
            answer = tokenizer(" " + re.sub(r"<<[^>]*>>", "", row["answer"]))["input_ids"]
            ids = torch.tensor([prompt + answer])
            states = hidden_states(model, ids, torch.ones_like(ids))[0, len(prompt) - 1 : -1]
            log_p = logits(states, head).log_softmax(-1)
            top, chosen = log_p.topk(KEPT, -1)
            p = log_p.exp()
            parts.append((chosen, top, -(p * log_p).sum(-1), draws(p, max(ROUNDS), g), p.half()))
            done += len(top)
            if done >= 2 * tokens:
                break
    *kept, whole = (torch.cat(column) for column in zip(*parts, strict=True))
    ids_, log_probs, entropy, came = (column.numpy() for column in kept)
    seen = np.bincount(ids_[:-tokens, :64].ravel(), minlength=size)  # of other tokens than are measured
    rest = (ids_[-tokens:], log_probs[-tokens:], entropy[-tokens:].astype(np.float64))
    average = whole[-tokens:].double().mean(0).numpy()
    return Rows("SmolLM2-135M on GSM8K", size, *rest, average, came[-tokens:], seen)


def ours(rows: Rows, gain: float) -> tuple[Result, Callable[[], Any], Callable[[], Any]]:
    """Our figures, and what to time: from ids and log-probs to bytes, and back to padded tensors."""
    from methods.teachers.codec import TopKCodec, ranks_by_count
    from methods.teachers.fill import round_trip
    from methods.teachers.store import padded

    ranks = None if rows.seen is None else ranks_by_count(rows.seen)
    codec = TopKCodec(rows.vocabulary, KEPT, gain, 0.125, ranks)
    parts = [slice(i, i + EXAMPLE) for i in range(0, len(rows.ids), EXAMPLE)]

    def encode() -> list[tuple[Ragged, bytes]]:
        chosen = [codec.select(rows.ids[p], rows.log_probs[p]) for p in parts]
        return [(one, codec.encode(one)) for one in chosen]

    made = encode()
    records = [record for _, record in made]
    found = [
        round_trip(codec, one, record, rows.entropy[p]) for p, (one, record) in zip(parts, made, strict=True)
    ]
    n = len(rows.ids)
    errors, spread = (np.concatenate(column) for column in zip(*found, strict=True))
    result = Result(
        f"KD Atlas {gain:g}",
        sum(map(len, records)) / n,
        sum(int(one.counts.sum()) for one, _ in made) / n,
        sum(float(np.exp(one.log_probs).sum()) for one, _ in made) / n,
        float(errors.mean()),
        float(errors.max()),
        float(spread.mean()),
        drift(rows, codec.decode(records)),
    )
    return (
        result,
        encode,
        lambda: [padded(codec.decode(records[i : i + 8])) for i in range(0, len(records), 8)],
    )


def drift(rows: Rows, taught: Ragged) -> float:
    """Total variation between the mean of what is taught, tails spread evenly, and the teacher's mean."""
    mean, size = np.zeros(rows.vocabulary), rows.vocabulary
    np.add.at(mean, taught.ids, np.exp(taught.log_probs))
    even = np.exp(taught.tail) / np.maximum(size - taught.counts, 1)  # for each id outside
    mean += even.sum()
    np.add.at(mean, taught.ids, -np.repeat(even, taught.counts))
    return float(np.abs(mean / len(taught.counts) - rows.mean).sum() / 2)


def drawn(rows: Rows, rounds: int) -> tuple[Result, Callable[[], Any], Callable[[], Any]]:
    """The same of ids that were drawn; what a student is trained on has no error to speak of, only noise."""
    import torch

    from methods.teachers.codec import CountCodec
    from methods.teachers.drawn import counted, ragged
    from methods.teachers.store import padded

    codec, ids = CountCodec(rows.vocabulary, rounds=rounds), torch.from_numpy(rows.drawn[:, :rounds])

    def encode() -> list[bytes]:
        return [codec.encode(ragged(*counted(part), rounds)) for part in ids.split(EXAMPLE)]

    records = encode()
    back = codec.decode(records)
    n = len(ids)
    size = sum(map(len, records)) / n
    result = Result(f"drawn, {rounds} rounds", size, float(back.counts.mean()), 1.0, drift=drift(rows, back))
    return (
        result,
        encode,
        lambda: [padded(codec.decode(records[i : i + 8])) for i in range(0, len(records), 8)],
    )


def distillkit(
    rows: Rows, name: str, settings: dict[str, Any]
) -> tuple[Result, Callable[[], Any], Callable[[], Any]]:
    """DistillKit's figures; ImportError where it is not there. What its probabilities leave of 1 is its tail."""
    import torch
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor

    fixed = {"exact_dtype": "bfloat16", "term_dtype": "float32", "residual_bins": [], "delta_encoding": False}
    codec = LogprobCompressor(DistributionQuantizationConfig(d=rows.vocabulary, **fixed, **settings))
    k = settings["k"]
    ids = torch.from_numpy(rows.ids[:, :k].astype(np.int64))
    log_probs = torch.from_numpy(rows.log_probs[:, :k].copy())
    record = codec.compress_from_sparse(ids, log_probs)
    back_ids, back = codec.decompress_to_sparse(record)
    if not torch.equal(back_ids.sort(-1)[0], ids.sort(-1)[0]):  # equal log-probs may change places
        raise AssertionError("DistillKit gave other ids back")
    exact, read = log_probs.double(), back.double()
    rest = (1 - exact.exp().sum(-1)).clamp(min=1e-9)
    read_rest = (1 - read.exp().sum(-1)).clamp(min=1e-9)
    total = read.exp().sum(-1) + read_rest
    read, read_rest = read - total.log().unsqueeze(-1), read_rest / total
    kept = (exact.exp() * read).sum(-1)
    error = (exact.exp() * exact).sum(-1) + rest * (rest / read_rest).log() - kept
    even = -torch.from_numpy(rows.entropy) - kept - rest * (read_rest / (rows.vocabulary - k)).log()
    size = sum(t.shape[-1] * t.element_size() for t in record.values())
    covered = float(exact.exp().sum(-1).mean())
    result = Result(
        f"DistillKit, {name}", size, k, covered, float(error.mean()), float(error.max()), float(even.mean())
    )
    return (
        result,
        lambda: codec.compress_from_sparse(ids, log_probs),
        lambda: codec.decompress_to_sparse(record),
    )


def measure(rows: Rows, repeats: int) -> list[Result]:
    """Every codec on the same rows, timed in turns."""
    made: list[tuple[Result, Callable[[], Any], Callable[[], Any]]] = [ours(rows, gain) for gain in GAINS]
    made += [drawn(rows, rounds) for rounds in ROUNDS]
    missing = []
    for name, settings in DISTILLKIT.items():
        try:
            made.append(distillkit(rows, name, settings))
        except ImportError:
            missing.append(Result(f"DistillKit, {name}", note="not installed"))
    for _ in range(repeats):
        for result, encode, decode in made:
            result.encode = max(result.encode or 0, len(rows.ids) / _seconds(encode))
            result.decode = max(result.decode or 0, len(rows.ids) / _seconds(decode))
    return [result for result, _, _ in made] + missing


def _seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def step_costs(vocabulary: int, repeats: int, *, width: int = 256, batch: int = 4) -> dict[str, float]:
    """Seconds of forward, loss and backward on one batch: cross entropy alone, from a store, from a live teacher.

    A student of 4 layers, sequences of 128 tokens, half of them completion. The store's time is everything: the hash
    of the examples, reading, decoding, the loss. The teacher is twice as wide and deep.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from methods.losses.fused.linear import head_of, linear_cross_entropy, linear_divergence
    from methods.modeling.core import freeze, hidden_states
    from methods.teachers.codec import TopKCodec
    from methods.teachers.files import StoreWriter
    from methods.teachers.fill import add_top_k, top_k_content
    from methods.teachers.identity import Identity, example_keys
    from methods.teachers.store import TeacherStore
    from methods.teachers.top_k import TopK, linear_top_k_divergence

    def model(size: int, layers: int) -> Any:
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=size, intermediate_size=3 * size, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
        )  # fmt: skip
        return LlamaForCausalLM(config)

    torch.manual_seed(0)
    student, teacher = model(width, 4), freeze(model(2 * width, 8))
    ids = torch.randint(0, vocabulary, (batch, 128))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    inputs["labels"][:, :64] = -100
    keep = inputs["labels"][:, 1:] != -100
    rows = synthetic(vocabulary, 20)
    codec = TopKCodec(vocabulary, KEPT)

    def forward() -> tuple[Any, Any]:
        return hidden_states(student, ids, inputs["attention_mask"])[:, :-1][keep], head_of(student)

    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(folder, Identity("t", "t", "t"), top_k_content(codec, 1.0)) as writer:
            for key, n in example_keys(inputs):
                chosen = np.random.default_rng(0).integers(0, len(rows.ids), n)
                add_top_k(writer, codec, key, codec.select(rows.ids[chosen], rows.log_probs[chosen]))
            writer.finish()
        store = TeacherStore(folder)

        def plain() -> Any:
            return linear_cross_entropy(*forward(), inputs["labels"][:, 1:][keep])

        def stored() -> Any:
            target = store.rows(inputs)
            assert isinstance(target, TopK)
            return linear_top_k_divergence(*forward(), target)

        def live() -> Any:
            with torch.no_grad():
                states = hidden_states(teacher, ids, inputs["attention_mask"])[:, :-1][keep]
            return linear_divergence(*forward(), states, head_of(teacher))

        best = {"no teacher": float("inf"), "store": float("inf"), "live teacher": float("inf")}
        for _ in range(repeats):
            for name, loss in zip(best, (plain, stored, live), strict=True):

                def step(loss: Callable[[], Any] = loss) -> None:
                    (loss().total / int(keep.sum())).backward()
                    student.zero_grad(set_to_none=True)

                best[name] = min(best[name], _seconds(step))
        return best


def cases(args: Any, console: Any) -> Iterator[Rows]:
    """The sets of rows; real ones where they are at hand, and not in a quick run."""
    tokens = 200 if args.quick else 1000
    if not args.quick:
        try:
            yield real(tokens)
        except KDError as error:
            console.print(f"no real distributions: {error}", markup=False)
    for vocabulary in args.vocab or ([997] if args.quick else [32_000, 128_256]):
        yield synthetic(vocabulary, tokens)


def run(args: Any, console: Any, environment: dict[str, Any]) -> int:
    """Measure, print, and record if asked."""
    import torch

    torch.set_num_threads(1)
    record = {**environment, "cases": [], "steps": []}
    for rows in cases(args, console):
        with console.status(rows.name):
            results = measure(rows, args.repeats)
        console.print(_table(rows, results))
        case = {"rows": rows.name, "tokens": len(rows.ids), "vocabulary": rows.vocabulary}
        record["cases"].append(
            {**case, "entropy": float(rows.entropy.mean()), "results": [asdict(r) for r in results]}
        )
    for vocabulary in args.vocab or ([997] if args.quick else [32_000, 128_256]):
        with console.status("steps"):
            seconds = step_costs(vocabulary, args.repeats)
        record["steps"].append({"vocabulary": vocabulary, "seconds": seconds})
        said = ", ".join(f"{name} {s / seconds['no teacher']:.3f}" for name, s in seconds.items())
        console.print(f"a step at vocabulary {vocabulary:,}, times that without a teacher: {said}")
    publish(record, "store-cpu", args, console)
    return 0


def _table(rows: Rows, results: list[Result]) -> Table:
    title = f"{rows.name}, vocabulary {rows.vocabulary:,}, entropy {rows.entropy.mean():.2f} nats"
    table = Table(title=title, title_justify="left", expand=True)
    for column in ("codec", "bytes", "ids", "mass", "error", "worst", "even tail", "drift", "enc", "dec"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    for r in results:
        if r.bytes is None:
            table.add_row(r.codec, r.note, style="dim")
            continue
        figures = (r.bytes, r.ids, r.covered, r.error, r.worst, r.even_tail, r.drift, r.encode, r.decode)
        formats = ("{:.1f}", "{:.0f}", "{:.3f}", *["{:.4f}"] * 4, "{:,.0f}", "{:,.0f}")
        told = ("-" if v is None else form.format(v) for form, v in zip(formats, figures, strict=True))
        table.add_row(r.codec, *told)
    return table
