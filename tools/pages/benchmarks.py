"""benchmarks/README.md: the tables of what `kd bench` recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bench.encoders import COLUMNS as ENCODER_COLUMNS
from tools.bench.encoders import cells as encoder_cells
from tools.bench.trainings.cohort import cells as cohort_cells
from tools.bench.trainings.grpo import rows as grpo_rows
from tools.pages.conventions import convention_rows
from tools.pages.markdown import md, table
from tools.paths import ROOT
from tools.terminal import number

BENCHMARKS = ROOT / "benchmarks"
DIVERGENCE_NAMES = {"forward_kl": "forward KL", "jensen_shannon": "JSD(0.5)"}


def page(folder: Path | None = None) -> str:
    """The page as Markdown; a section only where something was recorded."""
    lines = [
        "# Benchmarks",
        "",
        "<!-- Written by `make readme` from the files of this folder; edit tools/pages/benchmarks.py. -->",
        "",
        "Recorded by `make bench ARGS=--record` and its `--step`, `--rollouts`, `--store`, `--speculative`,",
        "`--policy`, `--grpo`, `--evidence`, `--cohort`, `--encoders`; `make bench` measures your machine. Times",
        "are of one thread, or the table says. [Back to the README](../README.md).",
        "",
    ]
    for title, about, tables in sections(folder):
        if tables:
            lines += [f"## {title}", "", about, ""]
            for found in tables:
                rows = [[md(name), *map(md, cells)] for name, cells in found["rows"]]
                lines += [f"{md(found['about'])}:", "", *table(list(map(md, found["columns"])), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def sections(folder: Path | None = None) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Title, what was done, and the tables of each kind of benchmark."""
    return [
        (
            "The fused loss",
            "The divergence is computed together with the LM head: a chunk of rows at a time, only completion "
            "positions, the gradient written in the forward pass. One step of every implementation on the same input, "
            "all giving the same gradient. `make bench`.",
            benchmarks(folder),
        ),
        (
            "A whole training step",
            "Everything between two updates: sampling where it is on-policy, the teacher, the student forward and "
            "backward, AdamW. The same models, examples and loss in both trainers; memory is what a step needs above "
            "the models. `make bench ARGS=--step`.",
            step_benchmarks(folder),
        ),
        (
            "A step of a policy gradient",
            "Everything between two updates: sampling, rewards, scoring, the student forward and backward, AdamW. The "
            "same model, prompts, reward and settings in both trainers, and as many tokens in every completion. What a "
            "teacher adds stands below. `make bench ARGS=--policy`.",
            policy_benchmarks(folder),
        ),
        (
            "How GRPO learns",
            "The policy trainer and TRL's own GRPOTrainer on the testbed countdown: the same starts, prompts, exact "
            "check and settings, other samples. Mean reward of the samples of a fifth of the updates, and greedy "
            "answers to the validation problems at the end; the interval is that of the paired difference over seeds, "
            "95 % for all rows together. `make bench ARGS=--grpo`.",
            grpo_benchmarks(folder),
        ),
        (
            "Sampling",
            "The same prompts, seeds and ends. The bare loop does the least that a loop over a model's forward pass "
            "can do; the own decoder is a Llama written out for this measurement, which drops finished rows. "
            "`make bench ARGS=--rollouts`.",
            rollout_benchmarks(folder),
        ),
        (
            "A stored teacher",
            "A teacher's most probable ids, written once, trained on many times. The error is that of the "
            "distribution over the ids kept and one bucket for the rest. Each codec may choose from the same ids; ours "
            "keeps one that brings at least so many nats as stand behind its name. A step has everything in it, "
            "reading and decoding too. `make bench ARGS=--store`.",
            store_benchmarks(folder),
        ),
        (
            "Speculative decoding",
            "The teacher of the pronunciation testbed with drafts that distillspec trains: wall-clock, beside the "
            "same teacher decoding alone. What is foretold takes every call of the teacher to cost the same. Teacher "
            "and drafts are tiny: a draft's token costs much of a teacher's. `make bench ARGS=--speculative`.",
            speculative_benchmarks(folder),
        ),
        (
            "Evidence per CPU minute",
            "Contrasts on the pronunciation testbed, trained and measured in the first edition's way (600 words, two "
            "samples, every metric, the teacher asked anew) and in today's (all held-out words, eight samples, what "
            "claims read, the teacher's states and answers kept), in turns in one process. Evidence is the inverse "
            "variance of the mean over seeds and words. `make bench ARGS=--evidence`.",
            evidence_benchmarks(folder),
        ),
        (
            "Cohorts",
            "The seeds of an arm trained as one batched model, and each by its own trainer: processor seconds of "
            "training a seed, evaluations aside, and how figures differ, with the standard error over seeds. Rounding "
            "is all that differs; where a student writes its own data, one other token leads to another training. "
            "`make bench ARGS=--cohort`.",
            cohort_benchmarks(folder),
        ),
        (
            "Small encoders",
            "An encoder of the shape of all-MiniLM-L6-v2 that keeps its first blocks: weights, and the time of a text. "
            "How often classifiers of these sizes are right stands in "
            "[the atlas](../reproductions/atlas.md#small-encoders). `make bench ARGS=--encoders`.",
            encoder_benchmarks(folder),
        ),
        (
            "Conventions",
            "What the losses of several libraries compute, found by calling them on golden vectors in float64 "
            "(`methods/losses/conformance/vectors.json`) and holding value and gradient against every convention. "
            "`jsd-kl-ends` is forward KL at weight 0 and reverse KL at 1, `jsd` is 0 there. T^2: the loss times the "
            "squared temperature. Unequal heads are cut to the shared ids and renormalised, or refused; masked: "
            "a teacher's logit of minus infinity. `kd conform --peers`; `kd conform module:function` asks yours.",
            convention_table(folder),
        ),
    ]


def convention_table(folder: Path | None = None) -> list[dict[str, Any]]:
    """What `kd conform --peers` recorded: losses down, conventions across."""
    tables = []
    for record in _records("conformance.json", folder):
        columns, rows = convention_rows(record)
        tables.append({"about": _versions(record), "columns": columns, "rows": rows})
    return tables


def benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each divergence that `make bench` recorded: implementations down, vocabularies across."""
    tables = []
    for record in _records("fused-*.json", folder):
        for divergence, cases in _by_divergence(record):
            first = cases[0]
            about = f"{record['device']}, {first['dtype']}, {first['positions'] // 2} completion positions"
            widths = (
                f"hidden sizes {first['student_width']} and {first['teacher_width']}; {_versions(record)}"
            )
            columns = [divergence, *(f"vocabulary {case['vocabulary']:,}" for case in cases)]
            tables.append(_table(f"{about}, {widths}", columns, cases, _measured))
    return tables


def step_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each divergence that `kd bench --step` recorded: trainers down, vocabularies across."""
    tables = []
    for record in _records("step-*.json", folder):
        for divergence, cases in _by_divergence(record):
            first = cases[0]
            shapes = " and ".join(
                f"{layers} layers of {width}" for width, layers in (first["student"], first["teacher"])
            )
            about = f"{record['device']}, {first['batch']} sequences of {first['length']} tokens, {shapes}"
            columns = [divergence]
            columns += [
                f"vocabulary {case['vocabulary']:,}, {'on-policy' if case['on_policy'] else 'fixed data'}"
                for case in cases
            ]
            tables.append(_table(f"{about}; {_versions(record)}", columns, cases, _measured))
    return tables


def policy_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table of what `kd bench --policy` recorded: trainers down, vocabularies across."""
    tables = []
    for record in _records("policy-*.json", folder):
        cases = record["cases"]
        first = cases[0]
        shapes = " and ".join(f"{n} layers of {size}" for size, n in (first["student"], first["teacher"]))
        about = (
            f"{record['device']}, {first['batch']} completions of {first['tokens']} tokens in groups of "
            f"{first['group']}, {shapes}; {_versions(record)}"
        )
        columns = ["a step", *(f"vocabulary {case['vocabulary']:,}" for case in cases)]
        shown = _table(about, columns, cases, lambda r: f"{r['seconds']:.2f} s, {r['share']:.2f} x TRL")
        tables.append(shown)
    return tables


def grpo_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table of what `kd bench --grpo` recorded: parts of the training down."""
    return [
        {
            "about": f"{record['device']}, {record['what']}; {record['seeds']} seeds; {_versions(record)}",
            "columns": ["updates", "KD Atlas", "TRL", "difference"],
            "rows": [
                (
                    name,
                    [
                        f"{row['ours']:.2f} %",
                        f"{row['trl']:.2f} %",
                        f"{row['difference']:+.2f} ± {row['half']:.2f}",
                    ],
                )
                for name, row in grpo_rows(record["figures"])
            ],
        }
        for record in _records("grpo-*.json", folder)
    ]


def rollout_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each file that `kd bench --rollouts` recorded: implementations down, models across."""
    tables = []
    for record in _records("rollouts-*.json", folder):
        columns = ["tokens a second"]
        for case in record["cases"]:
            how = "greedy" if case["greedy"] else "sampled"
            columns.append(f"{Path(case['model']).name}, {case['batch']} prompts, {how}")
        about = f"{record['device']}; {_versions(record)}"
        tables.append(
            _table(about, columns, record["cases"], lambda result: f"{result['tokens_per_second']:,.0f}")
        )
    return tables


def store_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """What `kd bench --store` recorded: a table of codecs for each set of distributions, and one of whole steps."""
    tables = []
    for record in _records("store-*.json", folder):
        for case in record["cases"]:
            rows = [
                (
                    found["codec"],
                    [f"{found['bytes']:.1f}", f"{found['error']:.4f}", f"{found['worst']:.4f}"]
                    + [f"{found[way]:,.0f}" for way in ("encode", "decode")],
                )
                for found in case["results"]
                if found["bytes"] is not None
            ]
            about = f"{case['rows']}, {case['tokens']:,} tokens, vocabulary {case['vocabulary']:,}"
            columns = ["codec", "bytes a token", "KL error, nats", "largest", "tokens/s written", "read"]
            tables.append({"about": f"{about}; {record['device']}", "columns": columns, "rows": rows})
        if record["steps"]:
            columns = ["a step, times that without a teacher"]
            columns += [f"vocabulary {step['vocabulary']:,}" for step in record["steps"]]
            times = [
                {name: s / step["seconds"]["no teacher"] for name, s in step["seconds"].items()}
                for step in record["steps"]
            ]
            rows = [(name, [f"{each[name]:.3f}" for each in times]) for name in times[0]]
            tables.append({"about": "Forward, loss and backward", "columns": columns, "rows": rows})
    return tables


def speculative_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each recorded measurement of speculative decoding: drafts down, figures across."""
    tables = []
    for record in _records("speculative-*.json", folder):
        rows = [
            (
                draft,
                [
                    f"{found['plain_tokens_per_second']:,.0f}",
                    f"{found['speculative_tokens_per_second']:,.0f}",
                    "{:.2f} ({:.2f} to {:.2f})".format(found["speed_up"], *found["speed_up_range"]),
                    f"{found['acceptance']:.1%}",
                    f"{found['draft_cost']:.2f}",
                    f"{found['foretold_speed_up']:.2f}",
                ],
            )
            for draft, found in record["figures"].items()
        ]
        columns = ["draft, decoding", "tokens/s, plain", "speculative", "speed-up (range)", "accepted"]
        columns += ["cost of a draft's token", "speed-up foretold"]
        about = f"{record['what']}; {record['words']} words, medians of {record['rounds']} rounds"
        tables.append({"about": about, "columns": columns, "rows": rows})
    return tables


def evidence_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each recorded measurement of evidence: contrasts and metrics down, both ways across."""
    tables = []
    for record in _records("evidence-*.json", folder):
        rows = [
            (
                f"{row['contrast']}, {row['metric']}",
                [
                    *(
                        f"{row[way]['difference']:+.2f} ± {row[way]['standard_error']:.2f}"
                        for way in ("first edition", "now")
                    ),
                    f"{row['ratio']:.1f}",
                ],
            )
            for row in record["contrasts"]
        ]
        spent = "; ".join(
            f"{way} " + ", ".join(f"{arm} {seconds:.1f}" for arm, seconds in arms.items())
            for way, arms in record["cpu_seconds_a_run"].items()
        )
        about = (
            f"{record['device']}, {record['seeds']} seeds, {record['ratio']:.1f} times as much evidence a minute "
            f"in the geometric mean; CPU seconds a run: {spent}; difference ± standard error"
        )
        columns = ["contrast, metric", "first edition", "now", "evidence a CPU minute, times"]
        tables.append({"about": about, "columns": columns, "rows": rows})
    return tables


def cohort_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each recorded measurement of cohorts: arms down, seconds and differences across."""
    tables = []
    for record in _records("cohort-*.json", folder):
        columns = ["arm", "alone, s", f"{record['group']} together, s", "times faster", "ROUGE-L, difference"]
        columns.append("greedy exact match, difference")
        rows = [(arm, cohort_cells(found)) for arm, found in record["figures"].items()]
        about = f"{record['device']}; {record['what']}; {record['seeds']} seeds; {_versions(record)}"
        tables.append({"about": about, "columns": columns, "rows": rows})
    return tables


def encoder_benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each recorded measurement of an encoder's sizes: sizes down, weights and milliseconds across."""
    tables = []
    for record in _records("encoders-*.json", folder):
        rows = [(cell[0], cell[1:]) for cell in map(encoder_cells, record["sizes"])]
        about = (
            f"{record['device']}; texts of {record['tokens']} tokens, one thread, fp32, fastest of "
            f"{record['turns']} turns; {_versions(record)}"
        )
        tables.append({"about": about, "columns": ENCODER_COLUMNS, "rows": rows})
    return tables


def _by_divergence(record: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each divergence's name and its cases."""
    for divergence in dict.fromkeys(case["divergence"] for case in record["cases"]):
        cases = [case for case in record["cases"] if case["divergence"] == divergence]
        yield DIVERGENCE_NAMES.get(divergence, divergence), cases


def _records(pattern: str, folder: Path | None) -> Iterator[dict[str, Any]]:
    for path in sorted((folder or BENCHMARKS).glob(pattern)):
        yield json.loads(path.read_text(encoding="utf-8"))


def _versions(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in record["versions"].items() if number)


def _table(
    about: str,
    columns: list[str],
    cases: Sequence[Mapping[str, Any]],
    cell: Callable[[Mapping[str, Any]], str],
) -> dict[str, Any]:
    """Implementations down, cases across."""
    rows: dict[str, list[str]] = {}
    for case in cases:
        for result in case["results"]:
            rows.setdefault(result["implementation"], []).append(cell(result))
    return {"about": about, "columns": columns, "rows": list(rows.items())}


def _measured(result: Mapping[str, Any]) -> str:
    if result["seconds"] is None:
        return result["note"]
    peak = result["peak_bytes"]
    memory = "" if peak is None else ", out of memory" if peak < 0 else f", {peak / 1e9:.2f} GB"
    return f"{number(result['seconds'])} s{memory}"
