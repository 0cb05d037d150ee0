"""Rollouts by vLLM through TRL, with a stand-in for the engine: what it is told, and what is made of its answers."""

import copy
import inspect

import pytest
import torch
from datasets import Dataset

from methods.engine import Engine
from methods.errors import MethodError
from methods.modeling.rollouts import rollout
from methods.slots.advantages import GroupReward
from methods.slots.samplers import OnPolicy
from methods.slots.terms import Divergence
from methods.trainers import Distiller, PolicyConfig, SFTConfig, engine
from methods.trainers.engine import EngineRollouts, roll_out_with
from methods.trainers.optimisation import OptimisationConfig, PolicyOptimiser
from methods.trainers.trl_compat import VLLMGeneration
from tests.methods.conftest import ONE_STEP, make_model

ROWS = Dataset.from_list(
    [{"prompt": f"{word}|", "completion": word[0]} for word in ("ab", "hello", "x", "kd")]
)
COLD = 1e-3  # a temperature at which everybody draws the most probable token


class StandIn:
    """Answers as TRL's VLLMGeneration does, by our own rollouts of the weights that it was given last.

    `off` is added to the log-probabilities that it says: an engine of another precision.
    """

    off = 0.0
    logprobs_mode = "processed_logprobs"

    def __init__(self, **arguments):
        inspect.signature(VLLMGeneration.__init__).bind(
            self, **arguments
        )  # TypeError where TRL would not take it
        self.arguments, self.syncs, self.calls = arguments, 0, []
        self.vllm_client = self

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": self.logprobs_mode}}

    def sync_weights(self):
        self.copy, self.syncs = copy.deepcopy(self.arguments["model"]), self.syncs + 1

    def generate(self, prompts, images, num_generations, profiler=None):
        self.calls.append((prompts, dict(self.generation_kwargs)))
        assert images is None and num_generations == 1
        made = rollout(
            self.copy, prompts, max_new_tokens=self.max_completion_length,
            eos_ids=self.generation_kwargs["stop_token_ids"], pad_id=0, temperature=self.temperature or 1.0,
            greedy=not self.temperature, log_probs=True,
            vocabulary=len(self.generation_kwargs.get("allowed_token_ids", ())) or None,
        )  # fmt: skip
        kept = made.completion_mask.bool()
        written = [ids[keep].tolist() for ids, keep in zip(made.completion_ids, kept, strict=True)]
        said = [
            [[value] for value in (row[keep] + self.off).tolist()]
            for row, keep in zip(made.log_probs, kept, strict=True)
        ]
        return prompts, written, said, None


@pytest.fixture
def stand_in(monkeypatch):
    """The engine that the next trainer gets."""
    made = []

    def start(**arguments):
        made.append(StandIn(**arguments))
        return made[-1]

    monkeypatch.setattr(engine, "VLLMGeneration", start)
    monkeypatch.setattr(engine, "is_vllm_available", lambda: True)
    return made


def distiller(folder, tokenizer, *, sampler, steps=2):
    args = SFTConfig(
        **{**ONE_STEP, "max_steps": steps, "output_dir": str(folder), "per_device_train_batch_size": 4}
    )
    return Distiller(
        make_model(seed=0), terms=[Divergence()], teacher=make_model(seed=1), sampler=sampler, args=args,
        train_dataset=ROWS, processing_class=tokenizer, max_completion_length=6,
    )  # fmt: skip


def optimiser(folder, tokenizer, **settings):
    args = OptimisationConfig(
        **{**ONE_STEP, "output_dir": str(folder), "max_completion_length": 6, "num_generations": 2},
        **{"per_device_train_batch_size": 4, **settings},
    )
    return PolicyOptimiser(
        make_model(seed=0), args=args, train_dataset=ROWS, processing_class=tokenizer,
        advantage=GroupReward(), rewards=[lambda completion_ids, **_: [float(len(i)) for i in completion_ids]],
        teacher=[make_model(seed=1)] if settings.get("teacher_mix") else [],
    )  # fmt: skip


def weights_of(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("ends", [[1], list(range(1, 20, 3))])
def test_answers_become_the_rollouts_that_our_own_loop_makes(ends, tokenizer, tmp_path, stand_in):
    trainer = distiller(tmp_path, tokenizer, sampler=OnPolicy())
    roll_out_with(trainer, Engine(), 24)
    prompts = [[5, 6, 3], [7, 3], [8, 9, 10, 3]]
    asked = {"max_new_tokens": 5, "eos_ids": ends, "pad_id": 0, "greedy": True, "log_probs": True}
    ours, theirs = (
        rollout(trainer.model, prompts, **asked),
        trainer.sampling.rollout(trainer.model, prompts, **asked),
    )
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "truncated", "empty"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    torch.testing.assert_close(ours.log_probs, theirs.log_probs)
    assert ours.counts() == theirs.counts()


def test_a_trainer_of_terms_learns_what_it_learns_by_itself(tokenizer, tmp_path, stand_in):
    alone = distiller(tmp_path / "a", tokenizer, sampler=OnPolicy(temperature=COLD))
    before = weights_of(alone)
    alone.train()
    asking = distiller(tmp_path / "b", tokenizer, sampler=OnPolicy(temperature=COLD))
    roll_out_with(asking, Engine(memory=0.4, sleep=True), 24)
    asking.train()
    (made,) = stand_in
    assert (made.syncs, len(made.calls)) == (2, 2), "the weights of each step, once"
    torch.testing.assert_close(weights_of(asking), weights_of(alone), rtol=0, atol=1e-7)
    assert (weights_of(alone) - before).abs().max() > 1e-4
    assert asking.rollout_counts == alone.rollout_counts and alone.rollout_counts["completions"] == 8
    given = {name: made.arguments[name] for name in ("mode", "gpu_memory_utilization", "enable_sleep_mode")}
    assert given == {"mode": "colocate", "gpu_memory_utilization": 0.4, "enable_sleep_mode": True}
    assert made.arguments["trust_remote_code"] is False and made.arguments["max_model_length"] == 24


@pytest.mark.parametrize(("off", "ratio"), [(0.0, 1.0), (0.5, 0.6065), (-0.5, 1.6487), (-2.0, 3.0)])
def test_what_the_engine_computes_otherwise_is_weighed(
    off, ratio, tokenizer, tmp_path, stand_in, monkeypatch
):
    """q over what was sampled from, at most 3, as TRL's importance sampling has it for tokens."""
    monkeypatch.setattr(StandIn, "off", off)
    trainer = optimiser(tmp_path, tokenizer)
    roll_out_with(trainer, Engine(), 24)
    inputs = trainer.scored(trainer.sampled(list(ROWS)))
    kept = inputs["weights"][inputs["mask"].bool()]
    torch.testing.assert_close(kept, torch.full_like(kept, ratio), rtol=1e-3, atol=0)
    trainer.train()
    assert trainer.state.global_step == 1 and weights_of(trainer).isfinite().all()


def test_only_ids_that_every_teacher_reads_may_be_drawn(tokenizer, tmp_path, stand_in):
    trainer = distiller(tmp_path, tokenizer, sampler=OnPolicy())
    roll_out_with(trainer, Engine(), 24)
    asked = {"max_new_tokens": 4, "eos_ids": [1], "pad_id": 0}
    trainer.sampling.rollout(trainer.model, [[5, 3]], vocabulary=12, **asked)
    trainer.sampling.rollout(trainer.model, [[5, 3]], **asked)
    (made,) = stand_in
    assert [kwargs.get("allowed_token_ids") for _, kwargs in made.calls] == [list(range(12)), None]
    assert made.syncs == 1, "no step has been made between the two"


def test_a_server_is_found_at_its_address(tokenizer, tmp_path, stand_in):
    trainer = optimiser(tmp_path, tokenizer)
    roll_out_with(trainer, Engine("server", "http://localhost:8000"), 24)
    (made,) = stand_in
    assert (made.arguments["mode"], made.arguments["server_base_url"]) == ("server", "http://localhost:8000")
    assert "gpu_memory_utilization" not in made.arguments


def test_a_server_that_says_other_probabilities_than_it_draws_from_is_refused(
    tokenizer, tmp_path, stand_in, monkeypatch
):
    monkeypatch.setattr(StandIn, "logprobs_mode", "raw_logprobs")
    with pytest.raises(MethodError, match="--logprobs-mode processed_logprobs"):
        roll_out_with(optimiser(tmp_path, tokenizer), Engine("server", "http://localhost:8000"), 24)


def test_what_no_engine_can_do_is_refused(tokenizer, tmp_path, stand_in):
    with pytest.raises(MethodError, match="no rollouts that vLLM could write"):
        roll_out_with(distiller(tmp_path, tokenizer, sampler=None), Engine(), 24)
    with pytest.raises(MethodError, match="from the student alone"):
        roll_out_with(optimiser(tmp_path, tokenizer, teacher_mix=0.2), Engine(), 24)
    asked = {"max_new_tokens": 4, "eos_ids": [1], "pad_id": 0}
    trainer = distiller(tmp_path, tokenizer, sampler=OnPolicy())
    write = EngineRollouts(
        trainer, StandIn(model=trainer.model, accelerator=None, processing_class=tokenizer)
    )
    with pytest.raises(MethodError, match="no share of a teacher's"):
        write(trainer.model, [[5]], teacher_mix=0.5, **asked)
    with pytest.raises(MethodError, match="empty prompt"):
        write(trainer.model, [[5], []], **asked)
    with pytest.raises(MethodError, match="temperature"):
        write(trainer.model, [[5]], temperature=0.0, **asked)


@pytest.mark.parametrize("kind", [OptimisationConfig, PolicyConfig])
def test_trl_s_own_switch_starts_no_engine_that_nobody_asks(kind, tmp_path):
    with pytest.raises(MethodError, match="use_vllm"):
        kind(**{**ONE_STEP, "output_dir": str(tmp_path), "per_device_train_batch_size": 8, "use_vllm": True})


def test_without_the_package_it_says_what_to_install(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "is_vllm_available", lambda: False)
    with pytest.raises(MethodError, match=r"pip install 'trl\[vllm\]'"):
        roll_out_with(distiller(tmp_path, tokenizer, sampler=OnPolicy()), Engine(), 24)
