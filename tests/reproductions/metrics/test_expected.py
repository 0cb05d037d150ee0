"""Exact expectations, several right answers and matched decoding, against every answer that a tiny model can give."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reproductions.engine.errors import KDError
from reproductions.metrics.answers import Answers
from reproductions.metrics.decoding.decoder import Decoder
from reproductions.metrics.decoding.evaluation import Evaluation
from reproductions.metrics.modes import Modes
from reproductions.tasks.base import Score, Task
from reproductions.tasks.scores import rouge_l

PAD, EOS, V, LIMIT = 0, 1, 5, 3
PROMPTS = {"a": [2], "b": [3, 4], "c": [4, 2, 3], "d": [2, 2]}
REFERENCES = {
    "test": [[[2, 3], [4]], [[3]], [[2], [2, 3, 4], [3, 3]], [2]],  # the last as one answer, not in a list
    "validation": [[[2], [4, 4]], [[3], [3, 3], [2]], [[4], [0]], [[2, 4], [3], [4, 0]]],
}


def right(said, references):
    """By one comparison after the other: independent of the library's scores."""
    found = []
    for answer, known in zip(said, references, strict=True):
        several = known if isinstance(known[0], list) else [known]
        found.append(100.0 * any(answer == one for one in several))
    return np.array(found)


class Toy(Task):
    scores = {"exact_match": Score(right, "exact"), "rouge_l": Score(rouge_l, "ROUGE-L", 1)}
    expected = ("exact_match",)

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def rows(self, name):
        rows = {"prompt": list(PROMPTS)}
        return type("Rows", (dict,), {"column_names": ["prompt"], "__len__": lambda self: 4})(rows)

    def references(self, split):
        return REFERENCES[split]

    def said(self, ids, tokenizer):
        return list(ids)


class Tokenizer:
    eos_token_id, pad_token_id = EOS, PAD

    def __call__(self, texts, **_):
        return {"input_ids": [PROMPTS[text] for text in texts]}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.6,
    )
    return LlamaForCausalLM(config).eval()


def evaluation(model, samples=8, tokenizer=None, reads=None, **more):
    own = Tokenizer()
    bed = SimpleNamespace(
        name="toy",
        task=Toy(own),
        samples=samples,
        temperatures=(0.2, 0.6, 1.0),
        decoder=Decoder(reads or own, prompt_tokens=4, new_tokens=LIMIT, batch=64),
    )
    run = SimpleNamespace(seed=2, device=torch.device("cpu"), settings={})
    return Evaluation(bed, model, run, split="test", limit=None, **more)


def every_answer(model, prompt, temperature=1.0):
    """What a sample can be, without EOS -> its probability, in float64, token by token without a cache."""
    precise, found = model.double(), {}
    for answer in itertools.product(range(V), repeat=LIMIT):
        said, probability = [], 1.0
        for token in answer:
            with torch.no_grad():
                logits = precise(torch.tensor([[*prompt, *said]])).logits[0, -1]
            probability *= float((logits / temperature).softmax(-1)[token])
            if token == EOS:
                break
            said.append(token)
        found[tuple(said)] = probability  # that of all that goes on behind EOS is the same
    model.float()
    return found


def known(row):
    return [tuple(one) for one in (row if isinstance(row[0], list) else [row])]


def test_the_expectation_is_the_share_of_all_that_can_be_said(model):
    """Among the references one that fills the token limit and so has no EOS, and one beyond it."""
    got, _ = Answers(expected=["exact_match"]).columns(evaluation(model))["expected_exact_match"]
    for figure, prompt, row in zip(got, PROMPTS.values(), REFERENCES["test"], strict=True):
        every = every_answer(model, prompt)
        assert sum(every.values()) == pytest.approx(1)
        assert figure == pytest.approx(100 * sum(every[answer] for answer in known(row)), abs=1e-4)
    assert any(len(answer) == LIMIT for row in REFERENCES["test"] for answer in known(row))


def test_an_answer_beyond_the_limit_is_never_said_and_one_listed_twice_counts_once(model, monkeypatch):
    monkeypatch.setitem(REFERENCES, "test", [[[2, 3, 4, 2]], [[3], [3]], [[2]], [[2]]])
    got, _ = Answers(expected=["exact_match"]).columns(evaluation(model))["expected_exact_match"]
    assert got[0] == 0
    assert got[1] == pytest.approx(100 * every_answer(model, PROMPTS["b"])[(3,)], abs=1e-4)


def test_the_mean_over_many_samples_comes_near_the_expectation(model):
    many = evaluation(model, samples=4000)
    columns = Answers(sampled=["exact_match"], expected=["exact_match"]).columns(many)
    gap = columns["exact_match"][0] - columns["expected_exact_match"][0]
    assert np.abs(gap).max() < 4 * 50 / 4000**0.5


def test_the_oracle_sees_a_forgotten_end_of_sequence(model, monkeypatch):
    from reproductions.metrics.decoding import sampling

    whole = sampling.completion_logprobs

    def without_eos(model, ids, mask, samples):
        logp = whole(model, ids, mask, samples).clone()
        logp[..., EOS] = 0
        return logp

    monkeypatch.setattr(sampling, "completion_logprobs", without_eos)
    got, _ = Answers(expected=["exact_match"]).columns(evaluation(model))["expected_exact_match"]
    exact = [
        100 * sum(every_answer(model, p)[a] for a in known(row))
        for p, row in zip(PROMPTS.values(), REFERENCES["test"], strict=True)
    ]
    assert np.abs(got - exact).max() > 0.5


def test_a_model_of_other_tokens_gives_the_samples_in_its_place(model):
    other = evaluation(model, reads=Tokenizer())
    columns = Answers(sampled=["exact_match"], expected=["exact_match"]).columns(other)
    assert columns["expected_exact_match"][0].tolist() == columns["exact_match"][0].tolist()


def test_an_expectation_that_is_not_known_is_refused(model):
    with pytest.raises(KDError, match="no exact expectation of rouge_l; it has that of exact_match"):
        Answers(expected=["rouge_l"]).metrics(Toy)


def test_modes_by_counting(model):
    """Rows with one right answer have none of the three figures."""
    measured = evaluation(model)
    columns = Modes().columns(measured)
    said = measured.sampled.answers([EOS])
    for n, place in enumerate((0, 2)):
        answers = known(REFERENCES["test"][place])
        own = [tuple(said[copy * 4 + place]) for copy in range(8)]
        assert columns["coverage"][0][n] == pytest.approx(
            100 * sum(answer in own for answer in answers) / len(answers)
        )
        assert columns["validity"][0][n] == pytest.approx(100 * sum(one in answers for one in own) / 8)
        every = every_answer(model, list(PROMPTS.values())[place])
        mass = sum(every[answer] for answer in answers)
        assert columns["mode_probability_mass"][0][n] == pytest.approx(100 * mass, abs=1e-4)
    assert {len(figures) for figures, _ in columns.values()} == {2}


def test_what_modes_tend_to(model):
    """Over many samples coverage goes to 100 and validity to the probability; expectations by every answer."""
    columns = Modes().columns(evaluation(model, samples=4000))
    assert np.abs(columns["validity"][0] - columns["mode_probability_mass"][0]).max() < 4 * 50 / 4000**0.5
    eight = [Modes().columns(one)["coverage"][0] for one in (seeded(model, s) for s in range(200))]
    for n, place in enumerate((0, 2)):
        every, answers = every_answer(model, list(PROMPTS.values())[place]), known(REFERENCES["test"][place])
        expected = np.mean([1 - (1 - every[answer]) ** 8 for answer in answers])
        assert np.mean(eight, 0)[n] == pytest.approx(100 * expected, abs=4 * 50 / 200**0.5)


def seeded(model, seed):
    one = evaluation(model)
    one.run.seed = seed
    return one


def test_modes_need_rows_with_several_answers(model, monkeypatch):
    monkeypatch.setitem(REFERENCES, "test", [[2], [[3], [3]], [[2]], [[2]]])
    with pytest.raises(KDError, match="no row of test has two right answers or more"):
        Modes().columns(evaluation(model))


def test_matched_decoding_takes_the_temperature_that_is_best_on_validation(model):
    """By hand: two samples of each validation row at each temperature, then eight of each test row at the best."""
    measured = evaluation(model)
    columns = Answers(sampled=["rouge_l"], matched=True).columns(measured)
    decoder, prompts = measured.decoder, list(PROMPTS)
    means = {}
    for t in (0.2, 0.6, 1.0):
        said = decoder.sampled(model, measured.run, prompts, 2, t).answers([EOS])
        means[t] = rouge_l(said, REFERENCES["validation"] * 2).mean()
    best = max(t for t in means if means[t] == max(means.values()))
    assert len(set(means.values())) > 1, "every temperature is as good"
    assert columns["temperature_rouge_l"][0].tolist() == [best] * 4
    said = decoder.sampled(model, measured.run, prompts, 8, best).answers([EOS])
    expected = rouge_l(said, REFERENCES["test"] * 8).reshape(8, 4).mean(0)
    assert columns["matched_rouge_l"][0].tolist() == pytest.approx(expected.tolist())


def test_matched_decoding_takes_away_what_sharpness_alone_gains(model):
    """The same model with its logits doubled is better at temperature 1, and as good at its own best one."""
    import copy

    sharp = copy.deepcopy(model)
    sharp.lm_head.weight.data *= 2
    grid = (0.1, 0.2, 0.5, 1.0)
    figures = []
    for one in (model, sharp):
        measured = evaluation(one, samples=200)
        measured.testbed.temperatures = grid if one is model else tuple(2 * t for t in grid)
        columns = Answers(sampled=["exact_match"], matched=True).columns(measured)
        figures.append([float(columns[name][0].mean()) for name in ("exact_match", "matched_exact_match")])
    (plain, matched), (sharper, sharp_matched) = figures
    assert abs(sharper - plain) > 1
    assert sharp_matched == pytest.approx(matched, abs=1e-6)


def test_only_what_is_wanted_is_decoded(model, monkeypatch):
    made = []
    for name in ("sampled", "greedy"):
        whole = getattr(Decoder, name)

        def spy(self, model, run, prompts, *more, _name=name, _whole=whole):
            made.append((_name, *more))
            return _whole(self, model, run, prompts, *more)

        monkeypatch.setattr(Decoder, name, spy)
    everything = Answers(
        sampled=["exact_match", "rouge_l"],
        greedy=["exact_match"],
        calibration="answer",
        expected=["exact_match"],
        matched=True,
    )

    def columns(*wanted):
        made.clear()
        return set(everything.columns(evaluation(model, wanted=list(wanted)))), list(made)

    assert columns("greedy_exact_match") == ({"greedy_exact_match"}, [("greedy",)])
    assert columns("expected_exact_match") == ({"expected_exact_match"}, [])
    assert columns("rouge_l") == ({"rouge_l"}, [("sampled", 8)])
    assert columns("ece") == ({"confidence", "correct"}, [("greedy",)])
    found, decoded = columns("matched_exact_match")
    assert found == {"matched_exact_match", "temperature_exact_match"}
    assert [copies for _, copies, _ in decoded[:3]] == [2, 2, 2] and len(decoded) == 4
