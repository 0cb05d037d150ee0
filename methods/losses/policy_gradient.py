"""The pieces of sequence-level policy-gradient distillation: rewards, returns, importance weights, clipping.

Shapes: B completions of at most C tokens, right-padded; `mask` (B, C) is 1 on completion tokens. Everything is a pure
function. Source of the formulas: MiniLLM, arXiv 2306.08543, section 2.2.
"""

import math

import torch


def log_ratio_rewards(
    teacher_logps: torch.Tensor, student_logps: torch.Tensor, mask: torch.Tensor, *, clip: float | None = None
) -> torch.Tensor:
    """r_t = log p(y_t) - log q(y_t) in nats, (B, C), zero off the mask; p teacher, q student at the time of sampling.

    `clip` bounds |r_t|. No gradient flows through a reward.
    """
    rewards = (teacher_logps - student_logps).detach()
    if clip is not None:
        rewards = rewards.clamp(-clip, clip)
    return rewards.masked_fill(mask == 0, 0.0)


def return_to_go(
    rewards: torch.Tensor,
    mask: torch.Tensor,
    *,
    include_present: bool,
    normalize: bool,
    discount: float = 1.0,
) -> torch.Tensor:
    """Sum of future rewards at each token, (B, C).

    `include_present=True` gives R_t = sum_{k >= t} r_k (the undivided gradient, eq. 2); False gives R_{t+1}, the
    long-term part that remains once the single step is taken exactly (eq. 3). `normalize` divides by the number of
    rewards in the sum, the length normalisation R^Norm_{t+1} = 1/(T-t-1) sum_{k > t} r_k (eq. 5); an empty sum is 0.
    `discount` multiplies r_k by discount^(k - first term): 1 in the paper, .95 in its scripts.
    """
    mask = mask.to(rewards.dtype)
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        if include_present:
            running = rewards[:, t] + discount * running
            returns[:, t] = running
        else:
            returns[:, t] = running
            running = rewards[:, t] + discount * running
    if normalize:
        terms = mask.flip(1).cumsum(1).flip(1) - (0.0 if include_present else mask)
        returns = returns / terms.clamp_min(1)
    return returns * mask


def importance_weights(
    student_logps: torch.Tensor, teacher_logps: torch.Tensor, mask: torch.Tensor, *, teacher_mix: float
) -> torch.Tensor:
    """w_t = q(y_t) / ((1 - a) q(y_t) + a p(y_t)), a = `teacher_mix`; (B, C), at most 1/(1 - a), 0 off the mask.

    The exact weight is the product over the prefix; the paper keeps the last factor only, for its variance (eq. 7).
    """
    if teacher_mix == 0:
        return mask.to(student_logps.dtype)
    log_mixture = torch.logaddexp(
        student_logps + math.log1p(-teacher_mix),
        teacher_logps + math.log(teacher_mix),
    )
    return torch.exp(student_logps - log_mixture).detach().masked_fill(mask == 0, 0.0)


def clipped_policy_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip: float | None,
) -> torch.Tensor:
    """-min(rho A, clip(rho, 1 - clip, 1 + clip) A) per token, (B, C); rho = weights * q / q_old.

    Differentiable in `logps` only. `clip=None` leaves the ratio alone. On the policy itself (q = q_old) the gradient of
    the unclipped branch is -weights * A * grad log q.
    """
    ratio = weights.detach() * torch.exp(logps - old_logps.detach())
    advantages = advantages.detach()
    gain = ratio * advantages
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -(gain * mask)


def surrogate(
    logps: torch.Tensor,
    anchor: torch.Tensor,
    advantages: torch.Tensor,
    *,
    low: float | None,
    high: float | None,
    capped: bool = False,
) -> torch.Tensor:
    """The loss per token (...) whose gradient is the policy gradient, of log-probabilities (...).

    -min(rho A, clip(rho, 1 - low, 1 + high) A), rho = exp(logps - anchor): PPO, with ends of its own on both sides
    (DAPO). `low=None` leaves rho alone. `capped`: -sg(min(rho, high)) A logps instead (CISPO), which never stops a
    token's gradient.
    Differentiable in `logps` only. Where the anchor is the policy itself the gradient is -A grad log q for all of them.
    Source: PPO, arXiv 1707.06347, eq. 7; DAPO, arXiv 2503.14476, eq. 10; CISPO, MiniMax-M1, arXiv 2506.13585, eq. 4.
    """
    advantages = advantages.detach()
    ratio = torch.exp(logps - anchor.detach())
    if capped:
        return -ratio.detach().clamp(max=high) * advantages * logps
    gain = ratio * advantages
    if low is not None:
        assert high is not None, "both ends, or none"
        gain = torch.minimum(gain, ratio.clamp(1 - low, 1 + high) * advantages)
    return -gain


def shaped_surrogate(logps: torch.Tensor, advantages: torch.Tensor, *, shape: float | None) -> torch.Tensor:
    """-A q / (q + shape) per token (...), of log-probabilities (...) of tokens that somebody else wrote.

    The importance ratio q / p with p taken as 1, and shaped: its gradient is -A shape q / (q + shape)^2 grad log q,
    largest at q = shape, so that tokens which the student hardly ever writes still teach it something. `shape` None
    leaves the ratio alone: -A q.
    Differentiable in `logps` only. Source: LUFFY, arXiv 2504.14945, policy shaping (f(x) = x / (x + 0.1)).
    """
    q = logps.exp()
    return -advantages.detach() * (q if shape is None else q / (q + shape))


def summed(
    per_token: torch.Tensor, mask: torch.Tensor, loss_type: str, *, longest: int | None
) -> torch.Tensor:
    """Losses of the completion tokens (N,), those where `mask` (B, C) is not 0, as a sum that is still to be divided.

    "dapo", "cispo": the sum, to divide by the tokens. "grpo": of each completion the mean of its tokens, to divide by
    the completions; "dr_grpo": of each its sum over `longest` tokens instead.
    Source: DAPO, arXiv 2503.14476; GRPO, arXiv 2402.03300; Dr. GRPO, arXiv 2503.20783.
    """
    if loss_type in ("dapo", "cispo"):
        return per_token.sum()
    if loss_type == "dr_grpo":
        return per_token.sum() / float(longest or 1)
    lengths = mask.sum(1, keepdim=True).clamp_min(1).expand(mask.shape)
    return (per_token / lengths[mask.bool()]).sum()
