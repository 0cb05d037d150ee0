"""`kd bench --store`: the figures are complete, and those of our codec are what the store's own report says."""

import json

import numpy as np
import pytest

from methods.teachers.codec import TopKCodec
from methods.teachers.fill import round_trip
from tools.bench import store as bench
from tools.cli import main


def test_a_quick_bench_of_the_store_prints_json(capsys):
    assert main(["bench", "--store", "--quick", "--json", "--vocab", "499", "--repeats", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    (case,), (step,) = record["cases"], record["steps"]
    assert case["vocabulary"] == step["vocabulary"] == 499
    assert (
        list(step["seconds"]) == ["no teacher", "store", "live teacher"] and min(step["seconds"].values()) > 0
    )
    rows = {r["codec"]: r for r in case["results"]}
    assert {f"DistillKit, {name}" for name in bench.DISTILLKIT} < rows.keys()
    ours = [rows[f"KD Atlas {gain:g}"] for gain in bench.GAINS]
    assert all(r["encode"] > 0 and r["decode"] > 0 and 0 < r["error"] < r["even_tail"] for r in ours)
    assert ours[0]["bytes"] < ours[1]["bytes"] < ours[2]["bytes"]
    assert ours[0]["even_tail"] > ours[1]["even_tail"] > ours[2]["even_tail"]


def test_our_figures_are_those_of_the_codec():
    rows = bench.synthetic(300, 40)
    rows.ids, rows.log_probs, rows.entropy = (x[:40] for x in (rows.ids, rows.log_probs, rows.entropy))
    result, encode, decode = bench.ours(rows, 1e-3)
    codec = TopKCodec(300, bench.KEPT, 1e-3)
    chosen = codec.select(rows.ids, rows.log_probs)
    error, spread = round_trip(codec, chosen, codec.encode(chosen), rows.entropy)
    assert result.error == pytest.approx(error.mean()) and result.even_tail == pytest.approx(spread.mean())
    assert result.bytes == len(codec.encode(chosen)) / 40 and len(encode()) == 1
    ids, log_probs, tail = decode()[0]
    assert ids.shape == log_probs.shape == (40, int(chosen.counts.max()))
    np.testing.assert_allclose(log_probs.exp().sum(-1) + tail.exp(), 1, atol=1e-5)
