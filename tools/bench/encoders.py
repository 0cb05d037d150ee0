"""`kd bench --encoders`: weights of an encoder that keeps its first blocks, and what a text costs it.

The shape is that of all-MiniLM-L6-v2 with a head of 20 classes on the mean of its states, as on the testbed `topics`,
where students are its first blocks; weights are drawn, for time they do not matter. All sizes take turns in one
process on one thread, in fp32; process time, fastest turn.
"""

from __future__ import annotations

import time
from typing import Any

from rich.table import Table

from tools.bench.measure import publish

PUBLISHED = 6  # blocks of the encoder
SIZES = (1, 2, 3, 4, PUBLISHED)
TOKENS, CLASSES, TOGETHER = 16, 20, 64
SHAPE = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "num_labels": CLASSES,
}
COLUMNS = (
    "blocks",
    "weights, millions",
    "beside word embeddings",
    "ms a text, alone",
    f"in batches of {TOGETHER}",
)


def run(args: Any, console: Any, record: dict[str, Any]) -> int:
    """Measure, print, record if asked; 0."""
    record.pop("cases")
    turns = 2 if args.quick else max(args.repeats, 10)
    record |= {"tokens": TOKENS, "classes": CLASSES, "together": TOGETHER, "turns": turns}
    record["sizes"] = measured(turns, calls=2 if args.quick else 20)
    table = Table(title="an encoder's first blocks", title_justify="left", expand=True)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for size in record["sizes"]:
        table.add_row(*cells(size))
    console.print(table)
    publish(record, "encoders-cpu", args, console)
    return 0


def measured(turns: int, calls: int) -> list[dict[str, Any]]:
    """Weights of each size, and the milliseconds a text of its fastest turn of so many calls."""
    import torch
    from transformers import BertConfig

    from methods.classes.pooled import MeanPooledClassifier

    torch.set_num_threads(1)
    models = {n: MeanPooledClassifier(BertConfig(num_hidden_layers=n, **SHAPE)).eval() for n in SIZES}  # type: ignore[arg-type]
    found = []
    for blocks, model in models.items():
        words = model.get_input_embeddings().weight.numel()
        whole = sum(parameter.numel() for parameter in model.parameters())
        found.append({"blocks": blocks, "weights": whole, "beside_words": whole - words})
    for name, texts in (("alone", 1), ("together", TOGETHER)):
        ids = torch.randint(1000, SHAPE["vocab_size"], (texts, TOKENS))
        mask, many = torch.ones_like(ids), max(1, calls // (1 if texts == 1 else 4))
        fastest = dict.fromkeys(SIZES, float("inf"))
        with torch.inference_mode():
            for model in models.values():
                model(ids, mask)
            for _ in range(turns):
                for blocks, model in models.items():
                    began = time.process_time()
                    for _ in range(many):
                        model(ids, mask)
                    spent = (time.process_time() - began) / many / texts
                    fastest[blocks] = min(fastest[blocks], spent)
        for size in found:
            size[f"milliseconds_{name}"] = 1000 * fastest[size["blocks"]]
    return found


def cells(size: dict[str, Any]) -> list[str]:
    """A size's figures as text, in the order of COLUMNS."""
    return [
        str(size["blocks"]),
        f"{size['weights'] / 1e6:.1f}",
        f"{size['beside_words'] / 1e6:.1f}",
        f"{size['milliseconds_alone']:.2f}",
        f"{size['milliseconds_together']:.3f}",
    ]
