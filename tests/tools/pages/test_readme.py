"""README.md: generated, stable, escaped."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest

from catalog.schema import AXES, Catalog, load_catalog
from tests.tools.conftest import claim, outcome
from tools.pages import readme
from tools.pages.atlas import Coverage

HOSTILE = (
    'A | B [link](https://evil.example) <script>alert(1)</script> `code` **bold** _x_ "q" \\ $y$ & ![i](j)'
)


@pytest.fixture(scope="module")
def text() -> str:
    """The README as the repository makes it; judging the recorded results takes a second."""
    return readme.render()


def test_the_readme_on_disk_is_the_generated_one(text):
    assert readme.README.read_text(encoding="utf-8") == text, "run `make readme`; do not edit README.md"


def test_generating_twice_changes_nothing(tmp_path, monkeypatch, capsys):
    from tools.cli import main

    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    assert main(["readme", "--check"]) == 1
    assert main(["readme"]) == 0
    first = (tmp_path / "README.md").read_bytes()
    assert main(["readme"]) == 0 and (tmp_path / "README.md").read_bytes() == first
    assert main(["readme", "--check"]) == 0
    (tmp_path / "README.md").write_text("edited by hand")
    assert main(["readme", "--check"]) == 1


def test_every_paper_is_described_once_and_named_in_all_its_leaves(text):
    catalog = load_catalog()
    sections = dict(re.findall(r'^#### <a id="([a-z0-9-]+)"></a>.*?\n(.*?)(?=^##)', text, re.M | re.S))
    assert len(sections) == sum(len(axis.values) for axis in catalog.taxonomy.values())
    for paper in catalog.papers.values():
        described = f'<a id="p-{paper.id}"></a>**['
        assert text.count(described) == 1
        assert text.count(readme.md(paper.adds)) == 1
        leaves = [f"{axis}-{value}" for axis, labels in paper.taxonomy.items() for value in labels]
        for leaf in leaves if paper.scope == "llm" else []:
            assert described in sections[leaf] or f"[{paper.id}](#p-{paper.id})" in sections[leaf]
        if paper.scope != "llm":
            assert not any(described in section for section in sections.values())


def test_every_link_inside_leads_somewhere(text):
    places = re.findall(r'<a id="([^"]+)"></a>', text)
    assert len(places) == len(set(places))
    heads = re.findall(r"^#+ ([^<\n]+)$", text, re.M)
    slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= slugs | set(places)
    for path in re.findall(r"\]\(((?!https://|#)[^)]+)\)", text):
        assert (readme.ROOT / path).exists(), path


def test_surveys_and_papers_beyond_language_models_have_their_own_sections():
    base = load_catalog()
    paper = base.papers["minillm"]
    papers = {
        "minillm": paper,
        "picture": replace(paper, id="picture", title="A picture model", scope="beyond-llm"),
        "overview": replace(
            paper, id="overview", title="An overview", scope="survey", taxonomy={a: {} for a in AXES}
        ),
        "bare": replace(paper, id="bare", title="A bare one", distils=False, taxonomy={a: {} for a in AXES}),
    }
    text = readme.render(Catalog(base.taxonomy, base.teachers, papers), {})
    parts = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert "A picture model" in parts["Beyond language models"]
    assert "An overview" in parts["Surveys"]
    assert "A bare one" in parts["Named, without a leaf"] and "†" in parts["Named, without a leaf"]
    assert "picture" not in parts["Papers by leaf"] and "#p-minillm" in parts["Papers by leaf"]
    assert "| **[Feature](#elicitation-feature)** | · | 1 | 1 | · |" in parts["The field at a glance"]


def test_github_shows_all_of_it(text):
    assert len(text.encode()) < 500_000  # GitHub cuts a README off there


@pytest.mark.parametrize(
    ("papers", "implemented", "judged", "drawn"),
    [(0, 0, 0, "░" * 10), (160, 0, 0, "░" * 10), (160, 1, 0, "▏" + "░" * 9), (10, 1, 4, "█" * 5 + "░" * 5)]
    + [(4, 0, 4, "█" * 10), (80, 10, 3, "█▋" + "░" * 8)],
)
def test_the_coverage_bar_shows_a_share(papers, implemented, judged, drawn):
    assert readme.bar(Coverage(papers, implemented, judged)) == drawn


def test_results_show_claims_numbers_and_verdicts(judged):
    text = readme.render(claims={"minillm": judged})
    assert "24.6 vs 23.3" in text and "61.5 vs 58.25" in text and r"3.25 \[1.5, 5\]" in text
    assert "✅ reproduced" in text and "❌ not reproduced" in text and "⬜ not run" in text
    assert "✅ 1 ❌ 1 ➖ 1" in text
    assert "The gap is small here." in text
    assert "[minillm](#p-minillm) ✅ 1 ❌ 1 ➖ 1" in text


def test_tables_keep_their_shape(judged):
    lines = readme.render(claims={"minillm": judged}).splitlines()
    tables = [
        (line, after) for line, after in zip(lines, lines[1:], strict=False) if re.fullmatch(r"[|:-]+", after)
    ]
    assert len(tables) >= 3
    for head, rule in tables:
        columns = rule.count("|")
        assert head.count("|") == columns
        place = lines.index(rule, lines.index(head)) + 1
        while lines[place].startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", lines[place])) == columns, lines[place]
            place += 1


def test_hostile_text_stays_text():
    catalog = load_catalog()
    paper = replace(catalog.papers["minillm"], title=HOSTILE)
    rows = [claim("x", outcome("not reproduced", explanation=HOSTILE), statement=HOSTILE)]
    hostile = Catalog(catalog.taxonomy, catalog.teachers, {**catalog.papers, "minillm": paper})
    text = readme.render(hostile, {"minillm": rows})
    assert "<script>" not in text
    assert "](https://evil.example)" not in re.sub(r"\\.", "", text)
    rows = [line for line in text.splitlines() if "evil.example" in line and line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in rows] == [9, 7]  # a claim and a paper


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines", "two lines"),
        ("<b>", "&lt;b&gt;"),
        ("[a](b)", r"\[a\](b)"),
        ("`x`", r"\`x\`"),
        ("a_b*c", r"a\_b\*c"),
        ("AT&T", "AT&amp;T"),
    ],
)
def test_markdown_is_escaped(text, shown):
    assert readme.md(text) == shown


def test_links_cannot_leave_their_brackets():
    assert readme.link("https://a.org/b?c=d&e=%20#f") == "https://a.org/b?c=d&e=%20#f"
    assert not set(readme.link('https://a.org/) "<script>\n')) & set(')" <>\n')
    assert readme.link("catalog/papers/gkd.yaml") == "catalog/papers/gkd.yaml"
    assert readme.link("javascript:alert(1)") == readme.link("http://a.org") == "#"


def test_a_thousand_papers_take_less_than_two_seconds():
    catalog = load_catalog()
    base = list(catalog.papers.values())
    many = {f"p-{n}": replace(base[n % len(base)], id=f"p-{n}") for n in range(1000)}
    start = time.perf_counter()
    readme.render(Catalog(catalog.taxonomy, catalog.teachers, many), {})
    assert time.perf_counter() - start < 2


def test_a_recorded_benchmark_becomes_a_table(tmp_path, monkeypatch):
    def result(name, seconds, peak, note=""):
        return {"implementation": name, "seconds": seconds, "peak_bytes": peak, "note": note}

    case = {"divergence": "forward_kl", "dtype": "float32", "positions": 2048}
    case |= {"student_width": 256, "teacher_width": 512}
    results = [
        result("four GEMMs (floor)", 0.5, None),
        result("ours | fused", 0.96, 220_000_000),
        result("full logits", 6.7, -1),
        result("peer", None, None, "not installed"),
    ]
    record = {
        "device": "a processor",
        "versions": {"torch": "2.13.0", "liger-kernel": None},
        "cases": [
            {**case, "vocabulary": 32000, "results": results},
            {**case, "vocabulary": 128256, "results": results},
            {**case, "vocabulary": 32000, "divergence": "jensen_shannon", "results": results},
        ],
    }
    (tmp_path / "fused-cpu-float32.json").write_text(json.dumps(record))
    assert readme.benchmarks(tmp_path / "absent") == []
    monkeypatch.setattr(readme, "BENCHMARKS", tmp_path)
    text = readme.render()
    assert "| forward KL | vocabulary 32,000 | vocabulary 128,256 |" in text
    assert "| JSD(0.5) | vocabulary 32,000 |\n" in text
    assert r"| ours \| fused | 0.96 s, 0.22 GB | 0.96 s, 0.22 GB |" in text
    assert "6.7 s, out of memory" in text and "not installed" in text
    assert "a processor, float32, 1024 completion positions, hidden sizes 256 and 512; torch 2.13.0" in text


def test_a_recorded_store_becomes_tables(tmp_path, monkeypatch):
    found = {
        "codec": "KD Atlas",
        "bytes": 51.12,
        "error": 0.00165,
        "worst": 0.0075,
        "encode": 60529.7,
        "decode": 1e5,
    }
    missing = {"codec": "other", "bytes": None, "note": "not installed"}
    case = {"rows": "Zipf", "vocabulary": 32000, "tokens": 1000, "results": [found, missing]}
    steps = [{"vocabulary": 32000, "seconds": {"no teacher": 0.5, "store": 0.52, "live teacher": 1.25}}]
    record = {"device": "a processor", "cases": [case], "steps": steps}
    (tmp_path / "store-cpu.json").write_text(json.dumps(record))
    assert readme.store_benchmarks(tmp_path / "absent") == []
    monkeypatch.setattr(readme, "BENCHMARKS", tmp_path)
    text = readme.render()
    assert "Zipf, 1,000 tokens, vocabulary 32,000; a processor:" in text and "not installed" not in text
    assert "| KD Atlas | 51.1 | 0.0016 | 0.0075 | 60,530 | 100,000 |" in text
    assert "| store | 1.040 |" in text and "| live teacher | 2.500 |" in text


def test_recorded_speculative_decoding_becomes_a_table(tmp_path, monkeypatch):
    found = {
        "speculative_tokens_per_second": 812.4,
        "plain_tokens_per_second": 1000.0,
        "speed_up": 0.812,
        "speed_up_range": [0.79, 0.83],
        "draft_cost": 0.55,
        "acceptance": 0.8312,
        "block_efficiency": 2.9,
        "foretold_speed_up": 1.1,
    }
    record = {"what": "tiny drafts", "words": 60, "rounds": 5, "figures": {"sft, greedy": found}}
    (tmp_path / "speculative-tiny-cpu.json").write_text(json.dumps(record))
    assert readme.speculative_benchmarks(tmp_path / "absent") == []
    monkeypatch.setattr(readme, "BENCHMARKS", tmp_path)
    text = readme.render()
    assert "tiny drafts; 60 words, medians of 5 rounds:" in text
    assert "| sft, greedy | 1,000 | 812 | 0.81 (0.79 to 0.83) | 83.1% | 0.55 | 1.10 |" in text


def test_recorded_steps_and_rollouts_become_tables(tmp_path, monkeypatch):
    about = {"device": "a processor", "versions": {"torch": "2.13.0", "liger-kernel": None}}

    def step(vocabulary, on_policy, seconds):
        shape = {"batch": 4, "length": 240, "student": [256, 4], "teacher": [512, 8]}
        results = [
            {"implementation": "ours", "seconds": seconds, "peak_bytes": 350_000_000, "note": ""},
            {"implementation": "peer", "seconds": None, "peak_bytes": None, "note": "not in this TRL"},
        ]
        case = {"vocabulary": vocabulary, "divergence": "forward_kl", "on_policy": on_policy}
        return {**case, **shape, "results": results}

    steps = [step(32_000, False, 1.5), step(32_000, True, 4.0)]
    sampled = {"model": "some/Model", "batch": 8, "greedy": False}
    sampled["results"] = [{"implementation": "bare | loop", "tokens_per_second": 1234.5}]
    (tmp_path / "step-cpu.json").write_text(json.dumps({**about, "cases": steps}))
    (tmp_path / "rollouts-cpu.json").write_text(json.dumps({**about, "cases": [sampled]}))
    assert readme.step_benchmarks(tmp_path / "absent") == readme.rollout_benchmarks(tmp_path / "absent") == []
    monkeypatch.setattr(readme, "BENCHMARKS", tmp_path)
    text = readme.render()
    assert "\n## A whole training step\n" in text and "\n## Sampling\n" in text
    assert "| forward KL | vocabulary 32,000, fixed data | vocabulary 32,000, on-policy |" in text
    assert "| ours | 1.5 s, 0.35 GB | 4 s, 0.35 GB |" in text
    assert "| peer | not in this TRL | not in this TRL |" in text
    assert "4 sequences of 240 tokens, 4 layers of 256 and 8 layers of 512; torch 2.13.0:" in text
    assert "| tokens a second | Model, 8 prompts, sampled |" in text
    assert r"| bare \| loop | 1,234 |" in text
