"""Small encoders on one table: what a classifier that keeps its first blocks costs, and how often it is right.

Accuracies are those of the question encoder-depths, on the testbed `topics`; sizes and times are a recorded benchmark
(`make bench ARGS=--encoders`). The best of all methods is that of the league of as many blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from reproductions.engine.atlas.record import Record, Table
from reproductions.engine.show.view import ArmRow, ScaleRow
from tools.pages.atlas import Atlas
from tools.paths import ROOT
from tools.terminal import interval, number

QUESTION, SCALE, METRIC = "encoder-depths", "tiny", "accuracy"
BENCHMARK = ROOT / "benchmarks" / "encoders-cpu.json"
ARMS = {  # blocks -> fine-tuned, distilled, and the name of such students on the testbed or in the experiment
    1: ("sft-one", "kd-one", "one"),
    2: ("sft-two", "kd-two", "two"),
    3: ("sft", "kd", "main"),
    4: ("sft-four", "kd-four", "four"),
}
LEAST = 3  # arms of which "the best of all methods" says anything
HEAD = (
    "blocks",
    "weights, millions",
    "beside word embeddings",
    "ms a text, alone",
    "in batches",
    "fine-tuned, % right",
    "by soft labels",
    "best of all methods",
)
ABOUT = (
    "One encoder's first blocks as a classifier of newsgroup posts (testbed topics; all arms as many steps, fine-tuned "
    "and distilled on the same 800 posts, the best method on whatever texts it takes): what each size costs one thread "
    "for a text of 16 tokens, and its accuracy with a 95 % interval over seeds. The teacher, all six blocks taught "
    "on 10,266 posts, is in the last row."
)


def rows(atlas: Atlas, benchmark: Path = BENCHMARK) -> list[list[str]]:
    """The table's cells, in the order of HEAD; none where nothing was recorded."""
    asked = atlas.questions.get(QUESTION)
    scale = next((one for one in asked.view.scales if one.name == SCALE), None) if asked else None
    if scale is None or not any(arm.figures for arm in scale.arms):
        return []
    costs = {}
    if benchmark.is_file():
        costs = {size["blocks"]: size for size in json.loads(benchmark.read_text(encoding="utf-8"))["sizes"]}
    return list(_rows(scale, atlas.record, costs))


def _rows(scale: ScaleRow, record: Record | None, costs: dict[int, dict[str, float]]) -> Iterator[list[str]]:
    arms = {arm.name: arm for arm in scale.arms}
    for blocks, (tuned, distilled, student) in ARMS.items():
        league = _league(record, scale.testbed, student)
        yield [
            *_cost(blocks, costs),
            *(_accuracy(arms.get(name)) for name in (tuned, distilled)),
            _best(league),
        ]
    published = max(costs, default=0)
    if published > max(ARMS):
        yield [*_cost(published, costs), "", "", _teacher(scale.testbed)]


def _cost(blocks: int, costs: dict[int, dict[str, float]]) -> list[str]:
    size = costs.get(blocks)
    if size is None:
        return [str(blocks), "", "", "", ""]
    weights = [f"{size[name] / 1e6:.1f}" for name in ("weights", "beside_words")]
    return [
        str(blocks), *weights, f"{size['milliseconds_alone']:.2f}", f"{size['milliseconds_together']:.2f}",
    ]  # fmt: skip


def _accuracy(arm: ArmRow | None) -> str:
    found = next((figure for figure in arm.figures if figure.metric == METRIC), None) if arm else None
    if found is None:
        return ""
    return number(found.mean) + (f" {interval(found.interval)}" if found.interval else "")


def _league(record: Record | None, testbed: str, student: str) -> Table | None:
    tables = record.tables if record else ()
    found = [table for table in tables if table.student == student and table.testbeds == (testbed,)]
    return max(found, key=lambda table: len(table.rows), default=None)


def _best(league: Table | None) -> str:
    if league is None or len(league.rows) < LEAST:
        return ""
    return f"{number(league.rows[0].cells[0].mean)}, {league.rows[0].title}"


def _teacher(testbed: str) -> str:
    from reproductions.engine.gate.record import read_gate

    gate = read_gate(testbed)
    return "" if gate is None else f"{number(gate.figures[METRIC]['teacher'])}, the teacher"
