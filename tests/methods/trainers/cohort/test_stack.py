"""A stack of models: what goes in comes out, and each computes what it computes alone."""

import pytest
import torch

from methods.errors import MethodError
from methods.modeling.core import hidden_states
from methods.modeling.rollouts import rollout
from methods.slots.features import recorded_blocks
from methods.trainers.cohort import StackedModel, cannot_stack, passes, rollouts, stack, unstack
from methods.trainers.cohort.rollouts import Meeting, Request, stacked_rollouts
from methods.trainers.cohort.stack import at_tokens
from tests.methods.conftest import make_model

PROMPTS = [[[3, 4, 5], [6, 7], [8, 9, 10, 11], [4]], [[5]], [[6, 7, 8], [9, 3]]]


def models(count=3, **settings):
    return [make_model(seed=seed, **settings).eval() for seed in range(count)]


@pytest.mark.parametrize("tied", [True, False])
def test_what_goes_in_comes_out_to_the_last_bit(tied):
    given = models(tie_word_embeddings=tied)
    before = [{n: t.clone() for n, t in model.state_dict().items()} for model in given]
    for model, found, was in zip(given, unstack(stack(given)), before, strict=True):
        for name, tensor in was.items():
            assert torch.equal(model.state_dict()[name], tensor)
            assert torch.equal(found.state_dict()[name], tensor)
        assert found.lm_head.weight.data_ptr() == found.model.embed_tokens.weight.data_ptr() or not tied


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hidden_states_are_those_of_each_model(dtype):
    given = [model.to(dtype) for model in models()]
    ids = torch.randint(0, 29, (3, 4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, states_of = StackedModel(given)(ids, blocks=(0,))
        hidden, block = found.view(3, 4, 9, -1), states_of[0].view(3, 4, 9, -1)
        for place, model in enumerate(given):
            with recorded_blocks(model, (0,)) as states:
                torch.testing.assert_close(
                    hidden[place], hidden_states(model, ids[place], torch.ones_like(ids[place]))
                )
                torch.testing.assert_close(block[place], states[0])


def test_only_some_tokens_are_asked_for():
    stacked = StackedModel(models())
    ids = torch.randint(0, 29, (3, 4, 9), generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[0, 35, 8], [9, 9, 1], [4, 30, 2]])
    with torch.no_grad():
        whole, all_blocks = stacked(ids, blocks=(0, 1))
        some, blocks = stacked(ids, tokens, blocks=(0, 1))
        torch.testing.assert_close(some, at_tokens(whole, tokens))
        for block in (0, 1):
            torch.testing.assert_close(blocks[block], at_tokens(all_blocks[block], tokens))


@pytest.mark.parametrize("tokens", [1, 40, 10**9])
def test_passes_of_any_size_give_the_same(tokens, monkeypatch):
    stacked, draws = StackedModel(models()), torch.Generator().manual_seed(0)
    batches = []
    for rows, width in ((4, 9), (2, 5), (3, 12)):
        lengths = torch.randint(3, width + 1, (rows,), generator=draws)
        ids = torch.randint(3, 29, (rows, width), generator=draws)
        mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
        begins = (torch.arange(width) >= 2) & mask.bool()
        labels = torch.where(begins, ids, torch.tensor(-100))
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    monkeypatch.setattr(passes, "TOKENS", tokens)
    for stack_of in (stacked, StackedModel(models()[:1])):
        where = passes.Where(batches)
        with torch.no_grad():
            found = where.split(where.states(stack_of)[0])
        for place, (batch, states) in enumerate(zip(batches, found, strict=True)):
            model = models()[place if stack_of.size > 1 else 0]
            with torch.no_grad():
                hidden = hidden_states(model, batch["input_ids"], batch["attention_mask"])[:, :-1]
            torch.testing.assert_close(states, hidden[batch["labels"][:, 1:] != -100])


def test_seated_models_read_the_stack():
    given = models(2)
    stacked = StackedModel(given)
    stacked.seat(given)
    stacked.weight("model.norm.weight").data += 1.0
    own = given[1].model.norm.weight
    assert torch.equal(own, stacked.weight("model.norm.weight")[1])
    own.sum().backward()
    assert torch.equal(stacked.weight("model.norm.weight").grad.sum(1), torch.tensor([0.0, float(len(own))]))
    stacked.zero_grad()
    assert own.grad.abs().sum() == 0


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("asking", [(0, 1, 2), (0, 2), (1,)])
def test_rollouts_are_those_of_each_model(greedy, asking):
    given, teacher = models(), make_model(seed=8, width=24).eval()
    settings = {"max_new_tokens": 7, "eos_ids": [1, 2], "pad_id": 0, "temperature": 0.8, "greedy": greedy}
    for mix in (0.0, 0.4):
        more = {**settings, "teacher_mix": mix}
        found = stacked_rollouts(
            StackedModel(given),
            {s: Request(PROMPTS[s], torch.Generator().manual_seed(s), {}) for s in asking},
            teacher=StackedModel([teacher]),
            **more,
        )
        assert list(found) == list(asking)
        for place in asking:
            draws = torch.Generator().manual_seed(place)
            alone = rollout(given[place], PROMPTS[place], teacher=teacher, generator=draws, **more)
            for name, tensor in vars(alone).items():
                same = getattr(found[place], name)
                assert same is None if tensor is None else torch.equal(same, tensor), name


@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_rows_that_ended_leave_the_batch_and_change_no_draw(mix, monkeypatch):
    """Members with 3, 24 and 7 prompts; about one token in eight ends a row."""
    given, teacher = models(), make_model(seed=8, width=24).eval()
    asked = {place: (PROMPTS[place] * 24)[:size] for place, size in enumerate((3, 24, 7))}
    settings = {
        "max_new_tokens": 12,
        "eos_ids": [1, 6, 9, 12],
        "pad_id": 0,
        "teacher_mix": mix,
        "log_probs": True,
    }
    sizes = []
    pass_of = rollouts._StackDecoder.__call__
    monkeypatch.setattr(
        rollouts._StackDecoder,
        "__call__",
        lambda decoder, *given: sizes.append(decoder.batch) or pass_of(decoder, *given),
    )
    found = stacked_rollouts(
        StackedModel(given),
        {
            place: Request(prompts, torch.Generator().manual_seed(place), {})
            for place, prompts in asked.items()
        },
        teacher=StackedModel([teacher]),
        **settings,
    )
    assert sizes[0] == 24 and min(sizes) < 7, "also the smaller members lost rows"
    for place, prompts in asked.items():
        draws = torch.Generator().manual_seed(place)
        alone = rollout(given[place], prompts, teacher=teacher, generator=draws, **settings)
        for name, tensor in vars(alone).items():
            same = torch.testing.assert_close if name == "log_probs" else torch.equal
            assert same(getattr(found[place], name), tensor) in (None, True), name


def test_what_cannot_be_stacked_is_said():
    assert cannot_stack(models()) is None
    cases = {
        "no plain LlamaForCausalLM": [make_model("gpt2")],
        "share a key": [make_model(attention_bias=False).__class__(grouped())],
        "differ in shape": [make_model(), make_model(width=32)],
        "attention_bias": [make_model(attention_bias=True)],
    }
    for why, given in cases.items():
        assert why in cannot_stack(given)
        with pytest.raises(MethodError, match=why):
            stack(given)


def grouped():
    config = make_model().config
    config.num_key_value_heads = 1
    return config


def test_a_meeting_answers_all_who_ask_at_once_and_ends_when_one_fails():
    served = []

    def serve(asked):
        served.append(dict(asked))
        return {place: what * 10 for place, what in asked.items()}

    meeting = Meeting(serve)
    found = meeting.hold(
        [
            lambda: meeting.ask(0, 1) + meeting.ask(0, 2),
            lambda: 5,
            lambda: meeting.ask(2, 3),
        ]
    )
    assert found == [30, 5, 30]
    assert served == [{0: 1, 2: 3}, {0: 2}]

    def fails():
        meeting.ask(1, 1)
        raise ValueError("a sampler's own")

    with pytest.raises(ValueError, match="a sampler's own"):
        meeting.hold([lambda: meeting.ask(0, 1) + meeting.ask(0, 1), fails])
