"""What somebody who can calculate writes next, exactly, behind any tokens: the oracle of the task."""

from __future__ import annotations

import torch
from torch import Tensor

from reproductions.engine.errors import KDError
from reproductions.tasks.trace.language import ASKED, EOS, NAMES, SIGNS, Machine, vocabulary


class Tracer:
    """Next-token probabilities (B, L, V) of a policy, in float32.

    It writes the state that follows from the one that is written, right or wrong: nothing is ever taken back. What is
    written in the place of a number and is none is read as the number that was due there. Of the register that an
    instruction changes it writes with the chance `slip` any number instead, each as likely. Behind the last state comes
    EOS. All of it is mixed with `uniform` of the uniform distribution over the vocabulary, so that no token is
    impossible. Before "|", and where no program of the machine is asked, every token is as likely as any other.
    """

    def __init__(self, machine: Machine, *, slip: float, uniform: float) -> None:
        if not 0 <= slip <= 1 or not 0 <= uniform < 1:
            raise KDError(
                "an oracle of trace has a slip from 0 to 1 and a uniform share from 0 to below 1, "
                f"not {slip} and {uniform}"
            )
        self.machine, self.slip, self.uniform = machine, slip, uniform
        words = vocabulary(machine)
        self.size, self.asked, self.eos = len(words), words.index(ASKED), words.index(EOS)
        self.signs, self.names, self.numbers = (words.index(first) for first in (SIGNS[0], NAMES[0], "0"))
        numbers = range(machine.modulus)
        self.outcomes = torch.tensor(  # (signs, M, M)
            [[[machine.outcome(sign, a, b) for b in numbers] for a in numbers] for sign in SIGNS]
        )

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """For ids and mask (B, L), padded on either side."""
        device, ids, mask = ids.device, ids.cpu(), mask.cpu().bool()
        order = (
            mask.logical_not().long().argsort(dim=1, stable=True)
        )  # tokens first, as they stand, and then the padding
        known = mask.gather(1, order)
        said = self._behind(ids.gather(1, order).masked_fill(~known, self.asked), known)
        back = order.argsort(dim=1)
        return said.gather(1, back[..., None].expand_as(said)).to(device)

    def _behind(self, ids: Tensor, known: Tensor) -> Tensor:
        """The same for ids (B, L) padded on the right."""
        machine, first = self.machine, self.machine.prompt_length - 1
        said = torch.full((*ids.shape, self.size), 1 / self.size)
        if ids.shape[1] <= first:
            return said
        values = ids[:, : machine.registers] - self.numbers  # (B, R)
        signs, targets, sources = self._instructions(ids[:, machine.registers : first])
        right = self._are_numbers(values).all(1) & known[:, first] & (ids[:, first] == self.asked)
        right &= ((signs >= 0) & (signs < len(SIGNS)) & (targets != sources)).all(1)
        for named in (targets, sources):
            right &= ((named >= 0) & (named < machine.registers)).all(1)
        asked = (part[right] for part in (values, signs, targets, sources))
        answers = self._answers(ids[right, first + 1 :], *asked)
        said[right, first:] = answers * (1 - self.uniform) + self.uniform / self.size
        return said.masked_fill(~known[..., None], 1 / self.size)

    def _instructions(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K) each: numbers of the signs, of the registers that change, and of those that are used."""
        parts = ids.unflatten(1, (self.machine.instructions, 3))
        return parts[..., 0] - self.signs, parts[..., 1] - self.names, parts[..., 2] - self.names

    def _are_numbers(self, values: Tensor) -> Tensor:
        return (values >= 0) & (values < self.machine.modulus)

    def _answers(
        self, written: Tensor, values: Tensor, signs: Tensor, targets: Tensor, sources: Tensor
    ) -> Tensor:
        """(B, T + 1, V) behind "|" and behind each of the T tokens `written` (B, T)."""
        machine, count = self.machine, written.shape[1] + 1
        said = torch.zeros(len(written), count, self.size)
        said[..., self.eos] = 1.0
        rows = torch.arange(len(written))
        for step in range(min(machine.instructions, -(-count // machine.registers))):
            target = targets[:, step]
            one, other = values[rows, target], values[rows, sources[:, step]]
            due = values.clone()
            due[rows, target] = self.outcomes[signs[:, step], one, other]
            begin = step * machine.registers
            end = min(begin + machine.registers, count)
            said[:, begin:end] = self._state(due, target)[:, : end - begin]
            if end < count:  # else nothing is asked behind this state
                told = written[:, begin:end] - self.numbers
                values = torch.where(self._are_numbers(told), told, due)
        return said

    def _state(self, due: Tensor, target: Tensor) -> Tensor:
        """(B, R, V) of a state that is due (B, R), of which the register `target` (B,) was changed."""
        said = torch.nn.functional.one_hot(self.numbers + due, self.size).float()
        rows = torch.arange(len(due))
        said[rows, target] *= 1 - self.slip
        any_number = slice(self.numbers, self.numbers + self.machine.modulus)
        said[rows, target, any_number] += self.slip / self.machine.modulus
        return said
