"""A small experiment on a testbed that is plain data, free to be changed."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from reproductions.engine.plan.experiment import Experiment, load_experiment

BED = {
    "name": "bed",
    "task": {"name": "pronunciation"},
    "revision": "0123456789abcdef",
    "students": {"main": {"shape": {"layers": 2}}},
    "teachers": {
        "main": {"shape": {"layers": 3}, "training": {"max_steps": 100, "learning_rate": 4e-3}},
        "large": {"shape": {"layers": 4}, "training": {"max_steps": 100, "learning_rate": 1.5e-3}},
    },
    "metrics": {"answers": {"sampled": ["rouge_l"]}},
    "defaults": {
        "training": {"max_steps": 240, "weight_decay": 0.0},
        "sft_start": {"max_steps": 400},
        "label": {"temperature": 1.0, "batch_size": 512},
        "curve": {"points": 2, "examples": 120},
    },
}

TEXT = """\
paper: mine
about: A paper.
claims:
  source: {arxiv: "2401.00001", where: "Table 1"}
  metric: rouge_l
  scales: [tiny]
  orderings: {beats-sft: {better: akl, worse: sft}}
arms:
  sft: {title: SFT, method: sft}
  akl: {title: AKL, role: method, method: akl}
  akl-hard: {like: akl, role: ablation, settings: {head_mass: 0.9}}
  large: {like: akl, teacher: large}
  told: {title: told, method: seqkd}
scales:
  tiny: {testbed: bed, seeds: 3, learning_rate: 4.0e-3, arms: [sft, akl, akl-hard, large, told]}
headline: [rouge_l]
"""


@pytest.fixture
def papers(tmp_path: Path):
    """`papers(old, new, ...)`: the experiment with some of its text replaced."""

    def make(*changes: str, text: str = TEXT) -> Experiment:
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "mine.yaml").write_text(dedent(text))
        return load_experiment("mine", tmp_path)

    return make
