"""An experiment about elicited data parses and plans: swept rows, text teachers by description, contrasts, equivalence.

Its text teachers come with the components of elicitation; here one is registered by the test.
"""

from __future__ import annotations

import pytest

from methods import registry
from reproductions.engine.plan.spec import key_of, specs_at
from reproductions.engine.show.gather import claims_of

from .conftest import BED

TEXT = """\
paper: mine
claims:
  source: {arxiv: "2305.02301", where: "Figures 4-5, ablation tables"}
  metric: exact_match
  scales: [tiny]
  orderings:
    beats-labels-only:  {better: step-by-step, worse: labels}
    beats-one-target:   {better: step-by-step, worse: rationale-then-label}
    weak-teacher-helps: {better: weak-teacher, worse: labels}
    strong-beats-weak:  {better: step-by-step, worse: weak-teacher}
  contrasts:
    gap-widens-with-fewer-labels:
      greater: {step-by-step@share=0.125: 1, labels@share=0.125: -1, step-by-step@share=1: -1, labels@share=1: 1}
  equivalences:
    no-overhead-at-inference: {arms: [step-by-step, labels], metric: answer_tokens, within: 1}
data:
  gold:       {from: testbed.train, share: $share}
  rationales: {use: rationales, of: gold, teacher: $teacher, prompt: rationale.j2, keep: [parses, agrees-with-gold]}
arms:
  labels:               {method: sft, data: gold}
  rationale-then-label: {method: sft, data: {join: [rationales.rationale, gold.completion]}}
  step-by-step:
    role: method
    method: sft
    data:
      mix: [{data: gold, prefix: "[label] ", weight: 0.5}, {data: rationales, prefix: "[rationale] ", weight: 0.5}]
  weak-teacher:         {like: step-by-step, teacher: weak}
sweep: {share: [0.125, 0.5, 1]}
budget: {equal: [steps, gold rows], report: [teacher_calls, generated_tokens]}
scales:
  tiny:
    testbed: bed
    seeds: 5
    learning_rate: 1.0e-3
    teacher: {main: {oracle: scripted, wrong: 0.02}, weak: {oracle: scripted, wrong: 0.3}}
"""


@pytest.fixture
def rationales(monkeypatch):
    """A step that asks for rationales, as elicitation will bring it."""

    def step(rows, teacher, surroundings, *, prompt: str = "", keep: list | None = None):
        """Rationales."""

    monkeypatch.setitem(registry._made, ("data", "rationales"), step)


def test_it_parses_and_plans(papers, rationales):
    experiment = papers(text=TEXT)
    assert list(experiment.arms_at("tiny")) == [
        f"{arm}@share={share}"
        for arm in ("labels", "rationale-then-label", "step-by-step", "weak-teacher")
        for share in ("0.125", "0.5", "1")
    ]
    specs = specs_at(experiment, "tiny", BED)
    assert len({key_of(spec) for spec in specs.values()}) == 12
    half = specs["weak-teacher@share=0.5"]
    gold = {"from": "train", "share": 0.5}
    assert half["method"]["data"] == {
        "mix": [
            {"data": gold, "prefix": "[label] ", "weight": 0.5},
            {
                "data": {
                    "use": "rationales",
                    "of": gold,
                    "teacher": "weak",
                    "prompt": "rationale.j2",
                    "keep": ["parses", "agrees-with-gold"],
                },
                "prefix": "[rationale] ",
                "weight": 0.5,
            },
        ]
    }
    assert half["testbed"]["teachers"]["weak"] == {"oracle": "scripted", "wrong": 0.3}
    assert "weak" not in specs["step-by-step@share=0.5"]["testbed"]["teachers"]
    joined = specs["rationale-then-label@share=1"]["method"]["data"]["join"]
    assert [part if isinstance(part, str) else part["column"] for part in joined] == [
        "rationale",
        "completion",
    ]


def test_its_claims_are_contrasts(papers, rationales):
    claims = {claim.id: claim for claim in claims_of(papers(text=TEXT)).claims}
    widens = claims["gap-widens-with-fewer-labels"].contrast
    assert dict(widens.weights) == {
        "step-by-step@share=0.125": 1.0,
        "labels@share=0.125": -1.0,
        "step-by-step@share=1": -1.0,
        "labels@share=1": 1.0,
    }
    same = claims["no-overhead-at-inference"]
    assert (same.metric, same.contrast.relation, same.contrast.bound) == ("answer_tokens", "within", 1.0)
    # A bare name of a swept arm is its last point: all the data.
    assert dict(claims["beats-labels-only"].contrast.weights) == {
        "step-by-step@share=1": 1.0,
        "labels@share=1": -1.0,
    }
