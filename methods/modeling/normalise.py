"""One normalisation for every trainer: the mean over the tokens of a whole optimizer step.

Dividing each micro-batch by its own token count weights short micro-batches too much, and dividing by a global count
forgets that DDP averages gradients over ranks. Both are silent under Adam. Here every trainer returns *sums* and this
module turns them into the mean over the accumulation window, so that 4x1, 2x2 and 1x4 micro-batches, on one rank or
several, give the same update (tests/methods/trainers/test_invariance.py).
"""

import torch
from accelerate import Accelerator


def window_tokens(local_tokens: torch.Tensor | int, accelerator: Accelerator) -> torch.Tensor:
    """Tokens of the accumulation window over all ranks: a scalar tensor from this rank's count."""
    count = torch.as_tensor(local_tokens, device=accelerator.device, dtype=torch.long).reshape(1)
    return accelerator.gather(count).sum()


def window_mean(total: torch.Tensor, tokens: torch.Tensor | int, accelerator: Accelerator) -> torch.Tensor:
    """The micro-batch's share of the window's mean: `total` (a sum, scalar) over `tokens` (all ranks of the window).

    The factor `num_processes` undoes DDP's average over ranks. An empty window gives 0, not 0/0.
    """
    count = torch.as_tensor(tokens, device=total.device).clamp(min=1)
    return total / count * accelerator.num_processes
