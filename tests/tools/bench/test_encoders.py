"""`kd bench --encoders`: sizes are counted as they are, and time grows with blocks."""

import json

from tools.bench import encoders
from tools.cli import main


def test_a_quick_bench_of_encoders_prints_json(capsys):
    assert main(["bench", "--encoders", "--quick", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    sizes = record["sizes"]
    assert [size["blocks"] for size in sizes] == list(encoders.SIZES)
    assert all(size["milliseconds_alone"] > 0 and size["milliseconds_together"] > 0 for size in sizes)
    width, inner = 384, 1536
    block = 4 * width * (width + 1) + width * (inner + 1) + inner * (width + 1) + 2 * 2 * width
    assert sizes[1]["weights"] - sizes[0]["weights"] == block
    outside = (512 + 2) * width + 2 * width + 20 * (width + 1)  # places, segments, their norm, the head
    assert sizes[0]["beside_words"] == block + outside
    assert sizes[0]["weights"] - sizes[0]["beside_words"] == 30522 * width
