"""Teachers that are no server: a local model, recorded outputs, an oracle."""

import json

import pytest
import torch

from methods.elicitation.writers.local import LocalWriter
from methods.elicitation.writers.oracle import OracleWriter, Skill
from methods.elicitation.writers.protocol import LENGTH, STOP, ask
from methods.elicitation.writers.recorded import RecordedWriter, read_recorded
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from tests.methods.conftest import make_model

PROMPTS = ["ab|", "hello|", "x|", "distil|"]


@pytest.fixture
def teacher(tokenizer):
    model = make_model(seed=5)
    model.generation_config.eos_token_id = list(range(1, 29, 4))  # an untrained model hardly ever says EOS
    return LocalWriter(model, tokenizer, "toy", batch=3)


def test_greedy_texts_are_the_models_argmax(teacher, tokenizer):
    answers = Session(teacher).ask([ask(prompt, max_tokens=5) for prompt in PROMPTS])
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids, said = tokenizer(prompt)["input_ids"], []
        for _ in range(5):
            said.append(int(teacher.model(torch.tensor([ids + said])).logits[0, -1].argmax()))
            if said[-1] in teacher._stops:
                break
        whole = said[-1] in teacher._stops
        assert answer.ended == (STOP if whole else LENGTH,)
        assert answer.text == tokenizer.decode(said[:-1] if whole else said, skip_special_tokens=True)
        assert (answer.usage.read, answer.usage.written) == (len(ids), len(said))


def test_what_is_sampled_depends_on_the_request_and_not_on_who_else_is_asked(teacher, tokenizer):
    requests = [ask(prompt, max_tokens=6, temperature=1.0, samples=2, top_p=0.95) for prompt in PROMPTS]
    together = Session(teacher, seed=4).ask(requests)
    alone = [Session(teacher, seed=4).ask([request])[0] for request in requests]
    assert [answer.texts for answer in together] == [answer.texts for answer in alone]
    assert [a.texts for a in together] != [a.texts for a in Session(teacher, seed=5).ask(requests)]
    assert any(one != other for one, other in (answer.texts for answer in together))


def test_sampling_has_the_models_own_probabilities(teacher, tokenizer):
    """The first token of 3,000 texts against the softmax at temperature 0.7, within its nucleus; two-sided bound."""
    request = ask("ab|", max_tokens=1, temperature=0.7, top_p=0.8, samples=3000)
    wide = LocalWriter(teacher.model, tokenizer, "wide", batch=3000)
    (answer,) = Session(wide).ask([request])
    probs = (
        (teacher.model(torch.tensor([tokenizer("ab|")["input_ids"]])).logits[0, -1] / 0.7)
        .softmax(-1)
        .detach()
    )
    ordered, order = probs.sort(descending=True)
    kept = order[: int((ordered.cumsum(-1) < 0.8).sum()) + 1]
    expected = {int(i): float(probs[i] / probs[kept].sum()) for i in kept}
    said = [text for text, end in zip(answer.texts, answer.ended, strict=True) if end == LENGTH]
    for i, p in expected.items():
        if i not in teacher._stops:
            share = said.count(tokenizer.decode([i], skip_special_tokens=True)) / 3000
            assert abs(share - p) < 5 * (p * (1 - p) / 3000) ** 0.5 + 1e-9, (i, share, p)
    assert len(set(said)) <= len(expected)


def test_scores_are_log_probabilities_of_the_text_and_its_end(teacher, tokenizer):
    session = Session(teacher)
    (values,) = session.score([ask("ab|")], ["cd"])
    ids = tokenizer("ab|")["input_ids"]
    answer = tokenizer("cd", add_special_tokens=False)["input_ids"] + teacher._stops[:1]
    logp = teacher.model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
    want = [float(logp[len(ids) - 1 + n, token]) for n, token in enumerate(answer)]
    assert values == pytest.approx(want, abs=1e-5)
    teacher.model = None
    assert session.score([ask("ab|")], ["cd"]) == [values], "kept in the journal"


def test_a_prompt_that_does_not_fit_is_said(teacher):
    (answer,) = Session(teacher).ask([ask("ab|", max_tokens=10_000)])
    assert "do not fit into" in answer.failure


def test_recorded_outputs_are_given_again(tmp_path):
    rows = [
        {"instruction": "q ", "output": "one"},
        {"instruction": "q", "output": "two"},
        {"instruction": "r", "output": "x"},
    ]
    path = tmp_path / "said.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    writer = RecordedWriter("said", read_recorded([path]), terms="llama-3")
    session = Session(writer, tmp_path / "journal")
    requests = [ask("q", samples=3), ask("other words", note={"question": "r"}), ask("never asked")]
    three, noted, missing = session.ask(requests)
    assert (
        three.texts == ("one", "two", "") and three.whole == ["one", "two"] and three.dropped(2) == "failed"
    )
    assert (
        noted.text == "x" and noted.terms == "llama-3" and missing.failure == "not among the recorded outputs"
    )
    session.close()
    assert Session(writer, tmp_path / "journal").ask(requests)[0] == three
    drawn = {Session(writer, seed=seed).ask([ask("q", temperature=1.0)])[0].text for seed in range(12)}
    assert drawn == {"one", "two"}
    path.write_text('{"instruction": "q", "output": 3}\n')
    with pytest.raises(MethodError, match="said.jsonl:1"):
        read_recorded([path])


def test_an_oracle_is_as_good_as_it_says():
    def oracle(**skill):
        return OracleWriter(
            "sums",
            lambda note, draws: str(note["a"] + note["b"]),
            lambda note, draws: str(note["a"] + note["b"] + draws.choice([-1, 1])),
            Skill(**skill),
            kind=lambda note: "hard" if note["a"] > 500 else "easy",
        )

    notes = [{"a": n, "b": 1} for n in range(1001)]
    requests = [ask(f"{note['a']} + 1", note=note) for note in notes]
    answers = Session(oracle(right=0.9, kinds={"hard": 0.5})).ask(requests)
    right = [answer.text == str(note["a"] + 1) for answer, note in zip(answers, notes, strict=True)]
    assert 0.86 < sum(right[:501]) / 501 < 0.94 and 0.43 < sum(right[501:]) / 500 < 0.57
    again = Session(oracle(right=0.9, kinds={"hard": 0.5})).ask(requests)
    assert [a.texts for a in again] == [a.texts for a in answers]
    cut = Session(oracle(cut=0.3)).ask(requests)
    assert 0.25 < sum(answer.dropped() == "truncated" for answer in cut) / 1001 < 0.35
    assert oracle(right=0.9).identity != oracle(right=0.8).identity
    with pytest.raises(MethodError, match="a share between 0 and 1"):
        Skill(right=1.2)
