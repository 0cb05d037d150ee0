import pytest
import torch

from methods.errors import MethodError
from methods.modeling.rollouts import left_pad, rollout
from tests.methods.conftest import make_model

PROMPTS = [[5, 2], [7, 8, 9, 2], [4, 2]]


def run(model, **settings):
    return rollout(model, PROMPTS, max_new_tokens=6, eos_ids=[1], pad_id=0, **settings)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_greedy_equals_recomputing_each_prompt_alone(kind):
    """The cache, the padding and the positions change nothing: argmax of a full forward of each single prompt."""
    model = make_model(kind, seed=3)
    result = run(model, greedy=True)
    for row, prompt in enumerate(PROMPTS):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model.eval()(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 1:
                break
        kept = result.completion_ids[row][result.completion_mask[row].bool()].tolist()
        assert kept == ids[len(prompt) :]


def test_samples_follow_the_mixture():
    """Frequencies of the first token over many draws against (1 - a) q + a p computed from full forwards."""
    student, teacher = make_model(seed=1), make_model(seed=2, width=24)
    torch.manual_seed(0)
    draws = 20_000
    result = rollout(
        student, [[5, 2]] * draws, max_new_tokens=1, eos_ids=[1], pad_id=0, teacher=teacher, teacher_mix=0.3
    )
    frequency = torch.bincount(result.completion_ids[:, 0], minlength=29) / draws
    with torch.no_grad():
        q, p = (m(torch.tensor([[5, 2]])).logits[0, -1].softmax(-1) for m in (student, teacher))
    expected = 0.7 * q + 0.3 * p
    assert (frequency - expected).abs().max() < 4 * (0.25 / draws) ** 0.5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("mixed", [False, True])
def test_dropping_rows_that_ended_changes_no_draw(kind, mixed, monkeypatch):
    teacher = make_model(kind, seed=2, width=24, vocabulary=40)
    settings = {"teacher": teacher, "teacher_mix": 0.5} if mixed else {}
    made, sizes = [], []
    for smallest in (0, 10**9):
        monkeypatch.setattr("methods.modeling.rollouts.DROP_FROM", smallest)
        model = make_model(kind, seed=1).double()
        sizes.append([])
        model.register_forward_pre_hook(
            lambda module, args, given, seen=sizes[-1]: seen.append(len(given["input_ids"])), with_kwargs=True
        )
        draws = torch.Generator().manual_seed(5)
        made.append(
            rollout(
                model,
                PROMPTS * 8,
                max_new_tokens=9,
                eos_ids=[1, 6, 9, 12],
                pad_id=0,
                generator=draws,
                **settings,
            )
        )
    dropped, whole = made
    assert min(sizes[0]) < 24 and set(sizes[1]) == {24}, "rows were dropped in one of the two"
    for name in ("completion_ids", "completion_mask", "truncated", "empty"):
        assert torch.equal(getattr(dropped, name), getattr(whole, name))


def test_mask_ends_with_the_first_eos_and_padding_follows():
    model = make_model(seed=0)
    torch.manual_seed(0)
    result = rollout(model, PROMPTS * 40, max_new_tokens=5, eos_ids=[1, 6], pad_id=0)
    for ids, mask, truncated, empty in zip(
        result.completion_ids, result.completion_mask, result.truncated, result.empty, strict=True
    ):
        length = int(mask.sum())
        assert mask[:length].all() and not mask[length:].any()
        assert not torch.isin(ids[: length - 1], torch.tensor([1, 6])).any()
        assert bool(truncated) == (int(ids[length - 1]) not in (1, 6))
        assert bool(empty) == (length == 1 and not truncated)
        assert (ids[length:] == 0).all()
    counts = result.counts()
    assert counts["completions"] == 120 and 0 < counts["truncated"] < 120


def test_sampling_is_in_evaluation_mode_and_gives_the_mode_back():
    model = make_model(seed=0).train()
    model.config.attention_dropout = 0.9
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    run(model)
    assert seen and not any(seen)
    assert model.training


def test_one_generator_gives_one_result():
    model = make_model(seed=0)
    first, second = (run(model, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.completion_ids, second.completion_ids)


def test_heads_of_different_size_are_mixed_over_the_shared_ids():
    student, teacher = make_model(seed=0, vocabulary=29), make_model(seed=1, vocabulary=40)
    torch.manual_seed(0)
    result = rollout(
        student, PROMPTS * 50, max_new_tokens=4, eos_ids=[1], pad_id=0, teacher=teacher, teacher_mix=0.9
    )
    assert result.completion_ids.max() < 29


def test_an_empty_prompt_is_refused():
    with pytest.raises(MethodError, match="empty prompt"):
        rollout(make_model(), [[5], []], max_new_tokens=2, eos_ids=[1], pad_id=0)


def test_left_padding():
    ids, mask = left_pad([[5], [6, 7]], 0, torch.device("cpu"))
    assert ids.tolist() == [[0, 5], [6, 7]] and mask.tolist() == [[0, 1], [1, 1]]


def test_only_ids_that_everybody_reads_are_sampled():
    """A head padded for speed has ids that no token stands for, and a teacher with a smaller one cannot read them."""
    model = make_model(seed=4, vocabulary=60)
    torch.manual_seed(0)
    free = rollout(model, [[5, 2]] * 200, max_new_tokens=4, eos_ids=[1], pad_id=0)
    torch.manual_seed(0)
    kept = rollout(model, [[5, 2]] * 200, max_new_tokens=4, eos_ids=[1], pad_id=0, vocabulary=29)
    assert int(free.completion_ids.max()) >= 29 > int(kept.completion_ids.max())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none(temperature):
    with pytest.raises(MethodError, match="is not a positive number"):
        run(make_model(), temperature=temperature)
    run(make_model(), temperature=temperature, greedy=True)
