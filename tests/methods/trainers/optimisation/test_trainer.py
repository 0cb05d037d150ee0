"""The policy trainer beside TRL's own loss, and what it counts, refuses and hands over."""

import pytest
import torch
from datasets import Dataset

from methods.errors import MethodError
from methods.modeling.rollouts import rollout
from methods.slots.advantages import ByColumn, GroupReward, LogRatio, Where
from methods.slots.advantages import Sign as SignOf
from methods.slots.rewards import ExactAnswer
from methods.slots.terms import ClippedKL, Divergence, LearnedBand
from methods.tokenizers.terms import ContinuationUnits
from methods.trainers import Distiller, SFTConfig
from methods.trainers.optimisation import OptimisationConfig, PolicyOptimiser
from methods.trainers.optimisation.given import with_given
from methods.trainers.optimisation.scoring import opinions
from methods.trainers.trl_compat import GRPOTrainer
from tests.methods.conftest import ONE_STEP, make_model, pair_tokenizer

ROWS = Dataset.from_list(
    [
        {"prompt": f"{letter}|", "completion": letter, "domain": "ab"[n % 2]}
        for n, letter in enumerate("abcdefgh")
    ]
)


def make(folder, tokenizer, *, teachers=(), settings=None, model=None, **parts) -> PolicyOptimiser:
    settings = {"per_device_train_batch_size": 4, "num_generations": 2, **(settings or {})}
    args = OptimisationConfig(
        **{**ONE_STEP, "output_dir": str(folder), "max_completion_length": 6, **settings}
    )
    return PolicyOptimiser(
        make_model(seed=0) if model is None else model, args=args, train_dataset=ROWS,
        processing_class=tokenizer, teacher=list(teachers), **parts,
    )  # fmt: skip


def vowels(completion_ids, **_):
    """A figure that differs between completions of one prompt."""
    return [sum(i % 5 for i in ids) / 10 for ids in completion_ids]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "cispo"])
@pytest.mark.parametrize("moved", [False, True])
def test_the_loss_is_that_of_trl(loss_type, moved, tokenizer, tmp_path):
    """A second implementation: TRL's own loss on the same completions, the policy moved so far that it is clipped."""
    settings = {"loss_type": loss_type, "steps_per_generation": 2, "epsilon_high": 0.28}
    trainer = make(tmp_path, tokenizer, settings=settings, advantage=GroupReward(), rewards=[vowels])
    torch.manual_seed(0)
    inputs = trainer.scored(trainer.sampled([row for row in ROWS for _ in range(2)][:8]))
    if moved:
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    trainer.current_gradient_accumulation_steps = 1
    trainer._begin([inputs])
    ours = trainer._compute_loss(
        trainer.model, {**inputs, "batch": trainer._window[0], "window": trainer._counts}
    )
    tokens = (
        inputs["mask"].sum() * trainer.args.steps_per_generation
    )  # TRL's count is of the generation batch
    advantages = inputs["advantages"][:, 0]
    assert advantages.abs().max() > 0.1
    theirs = GRPOTrainer._compute_loss(
        trainer, trainer.model,
        {**inputs, "advantages": advantages, "old_per_token_logps": inputs["anchor"], "num_items_in_batch": tokens},
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    mine, other = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trainer.model.parameters()))])
        for loss in (ours, theirs)
    )
    torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
    if moved:
        ratio = (inputs["anchor"] - opinions(trainer, inputs)["log_probs student"]).exp()
        assert ((ratio - 1).abs() > 0.3).any(), "nothing was clipped"


def test_group_advantages_are_those_of_trl(tokenizer, tmp_path):
    trainer = make(tmp_path, tokenizer, advantage=GroupReward(), rewards=[vowels, ExactAnswer()])
    record = trainer.sampled([row for row in ROWS for _ in range(2)][:8])
    grouped = record.rewards.sum(1).view(-1, 2)
    expected = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    got = trainer.scored(record)["advantages"][:, 0]
    torch.testing.assert_close(got, expected.flatten(), rtol=1e-4, atol=1e-5)


def test_behaviour_is_what_the_student_gave_its_own_tokens(tokenizer, tmp_path):
    trainer = make(tmp_path, tokenizer, teachers=[make_model(seed=1)], advantage=LogRatio())
    for heat in (1.0, 1.7):
        trainer.temperature = heat
        record = trainer.sampled(list(ROWS)[:4])
        seen = opinions(trainer, 
            {
                "prompt_ids": record.rollouts.prompt_ids, "prompt_mask": record.rollouts.prompt_mask,
                "completion_ids": record.rollouts.completion_ids,
                "completion_mask": record.rollouts.completion_mask, "mask": record.mask,
            }
        )  # fmt: skip
        torch.testing.assert_close(record.rollouts.log_probs, seen["log_probs student"], rtol=1e-4, atol=1e-4)


def test_a_mixture_is_weighed_by_the_student_s_share(tokenizer, tmp_path):
    """MiniLLM's importance weight q / ((1 - a) q + a p), from what was sampled from."""
    teacher, mix = make_model(seed=1), 0.4
    trainer = make(
        tmp_path, tokenizer, teachers=[teacher], settings={"teacher_mix": mix}, advantage=LogRatio()
    )
    inputs = trainer.scored(trainer.sampled(list(ROWS)[:4]))
    keep = inputs["mask"].bool()
    trainer._asked |= {0}
    seen = opinions(trainer, inputs)
    q, p = (seen[f"log_probs {who}"].exp() for who in ("student", 0))
    expected = q / ((1 - mix) * q + mix * p)
    torch.testing.assert_close(inputs["weights"][keep], expected[keep], rtol=1e-3, atol=1e-4)
    assert inputs["weights"].max() <= 1 / (1 - mix) + 1e-3


def test_a_verifier_alone_needs_no_pass_but_the_update_s(tokenizer, tmp_path):
    trainer = make(tmp_path, tokenizer, advantage=GroupReward(), rewards=[vowels], settings={"max_steps": 2})
    trainer.train()
    counts = trainer.token_counts
    assert trainer.rollout_counts["completions"] == 8 and counts["teacher"] == 0
    assert counts["student"] == 8 * 2 + counts["generated"], "read once, in the update"


def test_several_updates_of_one_generation_batch(tokenizer, tmp_path):
    settings = {"max_steps": 4, "num_iterations": 2, "steps_per_generation": 2}
    trainer = make(tmp_path, tokenizer, advantage=GroupReward(), rewards=[vowels], settings=settings)
    trainer.train()
    assert trainer.rollout_counts["completions"] == 8


def test_columns_choose_the_teacher(tokenizer, tmp_path):
    teachers = [make_model(seed=1), make_model(seed=2)]
    trainer = make(
        tmp_path, tokenizer, teachers=teachers,
        advantage=ByColumn(["a", "b"], [LogRatio(0), LogRatio(1)]),
    )  # fmt: skip
    record = trainer.sampled(list(ROWS)[:4])
    got = trainer.scored(record)["advantages"]
    for place, teacher in enumerate([0, 1, 0, 1]):
        other = make(tmp_path, tokenizer, teachers=teachers, advantage=LogRatio(teacher))
        torch.testing.assert_close(got[place], other.scored(record)["advantages"][place])


def test_terms_may_ask_for_prompts_by_a_column(tokenizer, tmp_path):
    trainer = make(tmp_path, tokenizer, advantage=GroupReward(), rewards=[vowels])
    found = trainer.examples_by("domain", ROWS)
    assert list(found) == ["a", "b"] and [len(some) for some in found.values()] == [4, 4]
    assert found["b"][0].prompt == tokenizer("b|")["input_ids"]
    with pytest.raises(MethodError, match="no column 'skill', only prompt, completion, domain"):
        trainer.examples_by("skill", ROWS)


def test_a_writer_takes_the_place_of_one_completion(tokenizer, tmp_path):
    """An environment that answers after the third token: its answer is in the context and not in the loss."""
    told = []

    def writer(rows, trainer):
        prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
        made = rollout(
            trainer.model, prompts, max_new_tokens=6, eos_ids=[1], pad_id=0, greedy=True, log_probs=True
        )
        own = torch.ones_like(made.completion_ids)
        own[:, 3:4] = 0
        turn = (torch.arange(own.shape[1]) > 3).long().expand(own.shape)
        return made, own, turn

    trainer = make(
        tmp_path, tokenizer, teachers=[make_model(seed=1)], advantage=LogRatio(), writer=writer,
        model=make_model(seed=4),
    )  # fmt: skip
    trainer.listeners.append(lambda record, advantages: told.append((record, advantages)))
    trainer.train()
    record, advantages = told[0]
    assert record.turn is not None and record.columns["domain"]
    assert not advantages[:, 3].any() and advantages[:, 2].any()


def test_of_a_group_some_completions_are_the_data_s(tokenizer, tmp_path):
    """Read, rewarded and told apart as given; what the student sampled is what it samples without them."""
    asked = []

    def told(prompts, completions, completion_ids, **_):
        asked.append(list(zip(prompts, completions, strict=True)))
        return [float(len(ids)) for ids in completion_ids]

    rows = [row for row in ROWS.select(range(2)) for _ in range(4)]
    settings = {"per_device_train_batch_size": 8, "num_generations": 4, "given_completions": 2}
    trainer = make(
        tmp_path, tokenizer, settings=settings, advantage=GroupReward("mean", own=True), rewards=[told]
    )
    record = trainer.sampled(rows)
    alone = make(tmp_path, tokenizer, settings={**settings, "given_completions": 0}, advantage=GroupReward())
    own = alone.sampled(rows).rollouts
    assert record.given.tolist() == [False, False, True, True] * 2
    assert [pair for n, pair in enumerate(asked[0]) if n % 4 > 1] == [("a|", "a")] * 2 + [("b|", "b")] * 2
    eos = tokenizer.eos_token_id
    for place, mine in enumerate((~record.given).tolist()):
        ids = record.rollouts.completion_ids[place][record.rollouts.completion_mask[place].bool()].tolist()
        sampled = own.completion_ids[place][own.completion_mask[place].bool()].tolist()
        assert ids == (sampled if mine else [*tokenizer(rows[place]["completion"])["input_ids"], eos])
    assert trainer.rollout_counts == alone.rollout_counts, "what is given is no rollout"
    inputs = trainer.scored(record)
    lengths = record.rollouts.completion_mask.sum(1).float()
    for group in (slice(0, 4), slice(4, 8)):
        wanted = lengths[group] - lengths[group][:2].mean()
        torch.testing.assert_close(inputs["advantages"][group][:, 0], wanted)


@pytest.mark.parametrize("longest", [2, 4, 9])
def test_a_given_completion_is_as_long_as_it_is_up_to_the_limit(longest, tokenizer):
    sampled = rollout(
        make_model(seed=0), [[5, 6], [7]], max_new_tokens=2, eos_ids=[1], pad_id=0, log_probs=True
    )
    before = sampled.completion_ids.clone()
    columns = {"prompt": ["ab", "c"], "completion": ["abcde", "abcde"]}
    made = with_given(sampled, columns, torch.tensor([False, True]), tokenizer, longest=longest)
    whole = [*tokenizer("abcde")["input_ids"], tokenizer.eos_token_id]
    assert made.completion_ids[1][made.completion_mask[1].bool()].tolist() == whole[:longest]
    assert made.truncated.tolist() == [sampled.truncated[0].item(), longest < len(whole)]
    assert not made.log_probs[1].any() and not made.empty[1]
    assert torch.equal(made.completion_ids[0, : before.shape[1]], before[0])
    assert torch.equal(sampled.completion_ids, before), "what was sampled stays"
    with pytest.raises(MethodError, match="the row of prompt 'c' gives no completion"):
        with_given(
            sampled,
            {**columns, "completion": ["abcde", None]},
            torch.tensor([False, True]),
            tokenizer,
            longest=4,
        )


def test_a_given_completion_stands_behind_the_whole_prompt():
    """`ab` is one token of this tokenizer: behind the prompt `a` the completion `bc` begins with a `b` of its own."""
    pairs = pair_tokenizer()
    assert len(pairs("ab")["input_ids"]) == 1
    sampled = rollout(make_model(seed=0), [[2, 3]] * 2, max_new_tokens=3, eos_ids=[1], pad_id=0)
    columns = {"prompt": ["a", "a"], "completion": ["bc", "cd"]}
    made = with_given(sampled, columns, torch.tensor([True, True]), pairs, longest=9)
    for place, text in enumerate(columns["completion"]):
        kept = made.completion_ids[place][made.completion_mask[place].bool()].tolist()
        assert kept == [*pairs(text)["input_ids"], pairs.eos_token_id]


def test_what_does_not_fit_is_refused(tokenizer, tmp_path):
    teacher = [make_model(seed=1)]
    cases = [
        ({}, "nothing to learn from"),
        ({"advantage": LogRatio()}, "no teacher is given, and the advantage asks one"),
        ({"advantage": LogRatio(1), "teachers": teacher}, "teacher number 1 is asked, and 1 are given"),
        ({"terms": [ClippedKL(LearnedBand(29))], "teachers": teacher}, "ClippedKL learns along"),
        ({"terms": [ContinuationUnits()], "teachers": teacher}, "ContinuationUnits reads more than"),
        ({"terms": [Divergence()]}, "no teacher is given, and these terms need one"),
        ({"advantage": GroupReward(), "settings": {"loss_type": "bnpo"}}, 'no loss_type "bnpo"'),
        ({"advantage": GroupReward(), "settings": {"loss_type": "cispo"}}, "cispo needs epsilon_high"),
        ({"advantage": GroupReward(), "settings": {"beta": 0.1}}, "sampled-kl"),
        ({"advantage": GroupReward(), "settings": {"num_generations": 3}}, "no whole number of groups of 3"),
        ({"advantage": GroupReward(), "settings": {"given_completions": 1}}, "at least two are the student's own"),
        ({"advantage": GroupReward(), "settings": {"given_shape": 0.0}}, "given_shape is 0.0"),
        (
            {"advantage": LogRatio(), "teachers": teacher, "writer": lambda *_: None,
             "settings": {"num_generations": 4, "given_completions": 1}},
            "an environment writes",
        ),
        (
            {"advantage": GroupReward(), "settings": {"num_generations": 1, "steps_per_generation": 3}},
            "8 prompts do not fill one generation batch of 12",
        ),
        (
            {"advantage": LogRatio(), "settings": {"per_device_train_batch_size": 1, "num_generations": 1}},
            "one completion",
        ),
        (
            {"advantage": GroupReward(), "settings": {"steps_per_generation": 3, "gradient_accumulation_steps": 2}},
            "multiple",
        ),
    ]  # fmt: skip
    for parts, message in cases:
        with pytest.raises(MethodError, match=message):
            make(tmp_path, tokenizer, **parts)


def test_conditions_beside_terms_are_for_this_trainer_alone(tokenizer, tmp_path):
    args = SFTConfig(**ONE_STEP, output_dir=str(tmp_path))
    trainer = Distiller(
        make_model(seed=0), terms=[Divergence(token_weights=Where(SignOf(LogRatio())))], teacher=make_model(seed=1),
        args=args, train_dataset=ROWS.select_columns(["prompt", "completion"]), processing_class=tokenizer,
    )  # fmt: skip
    with pytest.raises(MethodError, match="policy-optimisation"):
        trainer.train()
