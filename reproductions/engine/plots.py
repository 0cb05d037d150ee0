"""The picture beside a results file: every seed as a point, means with intervals, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.files import write_atomic
from reproductions.engine.judge import runs_by_seed

if TYPE_CHECKING:
    from reproductions.engine.report import Report

# Okabe and Ito's palette: told apart with any colour vision; markers differ too, for grey print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8A7A00")
MARKERS = "osD^vPX*"
_DOTS_PER_INCH = 88


def plot(report: Report, path: Path) -> None:
    """Writes the picture: a row for each headline metric; its figures, its curve over steps and over seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = report.results
    metrics = report.shown
    arms = [arm for arm in results["config"]["arms"] if runs_by_seed(results, arm)]
    curves = any(run["curve"] for run in results["runs"])
    columns = 3 if curves else 1
    height = max(2.0, 0.34 * len(arms) + 1.0)
    figure = Figure(figsize=(4.6 + 3.7 * (columns - 1), height * len(metrics) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(metrics), columns, squeeze=False)
    for place, metric in enumerate(metrics):
        _figures(axes[place][0], report, metric, arms)
        if curves:
            _curve(axes[place][1], results, metric, arms, "step", "student steps")
            _curve(axes[place][2], results, metric, arms, "train_seconds", "training seconds")
    figure.suptitle(
        f"{results['paper']} at scale {results['scale']}: each seed, mean and 95 % interval over seeds",
        fontsize=10,
    )
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    write_atomic(path, _small(picture))


def _small(picture: BytesIO) -> bytes:
    """The PNG with a palette of its own: a third of the size, for git."""
    from PIL import Image

    smaller = BytesIO()
    Image.open(picture).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        smaller, "PNG", optimize=True
    )
    return smaller.getvalue()


def _figures(axis: Any, report: Report, metric: str, arms: Sequence[str]) -> None:
    by_arm = {row.arm: row for row in report.rows if row.metric == metric}
    for place, arm in enumerate(arms):
        colour, marker = _look(place)
        values = [run["metrics"][metric] for run in runs_by_seed(report.results, arm).values()]
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0.0]
        axis.scatter(values, place + np.asarray(spread), s=13, color=colour, alpha=0.55, linewidths=0)
        row = by_arm[arm]
        if row.interval is not None:
            axis.plot(row.interval, [place, place], color=colour, linewidth=1.6)
        axis.plot(
            row.mean,
            place,
            marker=marker,
            color=colour,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
    axis.set_yticks(range(len(arms)), arms, fontsize=8)
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.set_xlabel(_label(report.results, metric), fontsize=8)
    _tidy(axis, "x")


def _curve(
    axis: Any, results: Mapping[str, Any], metric: str, arms: Sequence[str], over: str, label: str
) -> None:
    for place, arm in enumerate(arms):
        colour, marker = _look(place)
        curves = [run["curve"] for run in runs_by_seed(results, arm).values() if run["curve"]]
        points = min((len(curve) for curve in curves), default=0)
        if not points:
            continue
        x = [np.mean([curve[index][over] for curve in curves]) for index in range(points)]
        y = [np.mean([curve[index]["metrics"][metric] for curve in curves]) for index in range(points)]
        axis.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.2)
    axis.set_xlabel(label, fontsize=8)
    axis.set_ylabel(results["metrics"][metric]["title"], fontsize=8)
    _tidy(axis, "both")


def _label(results: Mapping[str, Any], metric: str) -> str:
    known = results["metrics"][metric]
    unit = f" ({known['unit']})" if known["unit"] else ""
    better = "higher" if known["higher_is_better"] else "lower"
    return f"{known['title']}{unit}, {better} is better"


def _look(place: int) -> tuple[str, str]:
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def _tidy(axis: Any, grid: str) -> None:
    axis.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
