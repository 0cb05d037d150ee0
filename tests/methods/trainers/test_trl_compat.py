"""The surface of TRL that the trainers lean on. When TRL moves a name, this says which one."""

import inspect

import pytest
import torch
import transformers
import trl

from methods.trainers import trl_compat
from methods.trainers.trl_compat import (
    GRPOConfig,
    GRPOTrainer,
    RepeatSampler,
    SFTConfig,
    SFTTrainer,
    VLLMGeneration,
    through_wrapper,
)


def test_the_pinned_minor_version_is_installed():
    assert trl.__version__.split(".")[:2] == ["1", "16"]


@pytest.mark.parametrize(
    "method",
    [
        "_generate_and_score_completions",
        "_prepare_inputs",
        "_compute_loss",
        "compute_loss",
        "training_step",
        "_get_train_sampler",
        "_save_rng_state",
        "_load_optimizer_and_scheduler",
    ],
)
def test_hooks_of_grpo_exist(method):
    assert callable(getattr(GRPOTrainer, method))


def test_signatures_that_are_overridden():
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == ["self", "model", "inputs"]
    assert list(inspect.signature(GRPOTrainer._generate_and_score_completions).parameters) == [
        "self",
        "inputs",
    ]
    sft = inspect.signature(SFTTrainer.compute_loss).parameters
    assert list(sft) == ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]


def test_grpo_still_buffers_rollouts_the_way_windows_are_counted():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in source
    assert "self._step % generate_every == 0" in source


def test_grpo_s_order_is_drawn_once_an_epoch_from_a_generator():
    """What MiniLLM draws again when it goes on from a checkpoint."""
    sampler = RepeatSampler(list(range(5)), mini_repeat_count=1, shuffle=True, seed=3)
    orders = [list(sampler) for _ in range(3)]
    again = torch.Generator().manual_seed(3)
    assert orders == [torch.randperm(sampler.num_samples, generator=again).tolist() for _ in range(3)]
    assert sampler.shuffle and orders[0] != orders[1]


def test_vllm_is_asked_as_trl_asks_it():
    """What `methods.trainers.engine` hands over, sets before a call, and calls."""
    made = inspect.signature(VLLMGeneration.__init__).parameters
    own = {"model", "accelerator", "processing_class", "max_model_length", "logprobs", "trust_remote_code"}
    mode = {"mode", "server_base_url", "gpu_memory_utilization", "enable_sleep_mode"}
    assert own | mode <= set(made)
    asked = ["self", "prompts", "images", "num_generations", "profiler"]
    assert list(inspect.signature(VLLMGeneration.generate).parameters) == asked
    assert list(inspect.signature(VLLMGeneration.sync_weights).parameters) == ["self"]
    source = inspect.getsource(VLLMGeneration.generate)
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_completion_length"):
        assert f"{name} = self.{name}\n" in source, f"{name} is read at each call"
    assert "generation_kwargs.update(self.generation_kwargs)" in source
    assert "return prompt_ids, completion_ids, logprobs, logprob_token_ids" in source


def test_options_with_their_defaults(tmp_path):
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, beta=0.0)
    assert (args.num_iterations, args.epsilon, args.temperature, args.beta) == (1, 0.2, 1.0, 0.0)
    assert SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False).packing is False


def test_trainer_knows_that_losses_are_scaled():
    """transformers must ask the trainer whether compute_loss has divided by the accumulation window already."""
    assert "loss_is_scaled_for_ga" in inspect.getsource(transformers.Trainer)


def test_through_wrapper_runs_inside_the_wrapper_s_forward():
    seen = []

    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            seen.append("hook")
            return self.module(*args, **kwargs)

    core = torch.nn.Linear(2, 2)
    assert through_wrapper(Wrapper(core), core, lambda: "inside") == "inside"
    assert seen == ["hook"]
    assert through_wrapper(core, core, lambda: "bare") == "bare"
    assert core(torch.zeros(1, 2)).shape == (1, 2), "the module's own forward is back"


def test_nothing_else_in_methods_imports_trl():
    from pathlib import Path

    root = Path(trl_compat.__file__).parent
    others = [p for p in root.rglob("*.py") if p.name != "trl_compat.py"]
    assert others and not [p for p in others if "from trl" in p.read_text() or "import trl" in p.read_text()]
