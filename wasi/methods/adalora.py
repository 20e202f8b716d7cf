"""Rank allocation and orthogonality penalty of AdaLoRA (Zhang et al., arXiv 2303.10512), on top of peft's tuner.

An adapter is `B diag(E) A`. While the total rank budget falls, the least important entries of `E` are set to zero.
peft leaves it to the training loop to call the tuner after each step, and holds its importance scores in plain
attributes, which no checkpoint would save.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wasi.errors import UserError

log = logging.getLogger(__name__)

_ADAPTER = "default"  # peft's name of the only adapter
_KINDS = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # peft's RankAllocator: dictionaries of scores by parameter name
_ENDLESS = 2**40  # steps: a training that never reaches its final phase
_WARMUP, _FINAL = 0.1, 0.5  # shares of all steps, about those of the paper's experiments


class RankBudget:
    """Lets peft's tuner reallocate the ranks after every step of `step.optimizer`, by an optimizer hook.

    Importance scores, rank masks and the step count are kept in the optimizer's state, so that checkpoints save them
    and their memory counts as optimizer state. The tuner is set up from that state in every step, not by a hook on
    loading it: bitsandbytes' optimizers call none.

    Args:
        tuner: peft's `AdaLoraModel`.
        step: the `TrainStep`. While its `total_steps` is None, and after that many steps, ranks are allocated as in
            the middle of a training, where a step costs most: this is what benchmarks measure.
        tinit, tfinal: steps before the budget begins to fall, and steps at the end with fixed ranks; None stands for
            a tenth and for half of all steps, see `phases`.
    """

    def __init__(self, tuner: Any, step: Any, tinit: int | None, tfinal: int | None):
        self._tuner, self._step, self._given = tuner, step, (tinit, tfinal)
        self._config = tuner.peft_config[_ADAPTER]
        step.optimizer.register_step_post_hook(lambda *_: self.allocate())

    def allocate(self) -> None:
        """Have the tuner update importance scores and ranks after an optimizer step, and keep its state."""
        count = self._restored() + 1
        total = self._step.total_steps
        if total is None or count > total:
            self._config.total_step, self._config.tinit, self._config.tfinal = _ENDLESS, 0, 0
        else:
            self._config.total_step = total
            self._config.tinit, self._config.tfinal = phases(total, *self._given)
        self._tuner.update_and_allocate(count)
        if count == self._config.total_step - self._config.tfinal:
            kept = [sum(kept) for kept in self._config.rank_pattern.values()]
            log.info("AdaLoRA: ranks from %d to %d, %d in all, stay from step %d on",
                     min(kept), max(kept), sum(kept), count)  # fmt: skip
        self._expose(count)

    def _expose(self, count: int) -> None:
        """Copy the tuner's scores and rank masks, and the step count, into the optimizer's state."""
        allocator, pattern = self._tuner.rankallocator, self._config.rank_pattern or {}
        for name, parameter in self._parameters():
            found = {kind: getattr(allocator, kind).get(name) for kind in _KINDS}
            found |= {"allocations": count, "kept": pattern.get(name)}
            state = self._step.optimizer.state[parameter]
            for key, value in found.items():
                state.pop(key, None)
                state |= {key: value} if value is not None else {}

    def _restored(self) -> int:
        """Set up the tuner from the optimizer's state, the inverse of `_expose`, and return the step count."""
        allocator, pattern, count = self._tuner.rankallocator, {}, 0
        allocator.reset_ipt()
        for name, parameter in self._parameters():
            state = self._step.optimizer.state.get(parameter, {})
            count = state.get("allocations", 0)
            for kind in set(_KINDS) & state.keys():
                getattr(allocator, kind)[name] = state[kind]
            if "kept" in state:
                pattern[name] = state["kept"]
        self._config.rank_pattern = pattern or None
        return count

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield names, as peft's allocator uses them, and parameters of all adapters."""
        return ((n, p) for n, p in self._tuner.model.named_parameters() if "lora_" in n)


def phases(total: int, tinit: int | None, tfinal: int | None) -> tuple[int, int]:
    """Return `tinit` and `tfinal`: the numbers of steps before the rank budget falls, and after it has fallen.

    >>> phases(100, None, None)
    (10, 50)

    Args:
        total: steps of the whole training.
        tinit, tfinal: the given numbers; None stands for a tenth and for half of `total`, less where that is too many.

    Raises:
        UserError: `tfinal` leaves fewer than two of `total` steps, or `tinit` leaves no step for the budget to fall.
    """
    last = total - 2  # one step to estimate the importance, one for the budget to fall
    tfinal = max(0, min(int(_FINAL * total), last)) if tfinal is None else tfinal
    if tfinal > last:
        raise UserError("method.tfinal", tfinal, f"at most {last}, with {total} steps in all" if last >= 0 else
                        f"of a training of 2 steps or more, not {total}: more of dataset.train_size or train.epochs")
    tinit = min(int(_WARMUP * total), total - tfinal - 1) if tinit is None else tinit
    if tinit >= total - tfinal:
        allowed = f"below {total - tfinal}, the steps ({total} in all) before the last method.tfinal={tfinal}"
        raise UserError("method.tinit", tinit, allowed)
    return tinit, tfinal


def distance_from_orthogonal(model: nn.Module) -> Tensor:
    """Return the mean of `||P P^T - I||_F` over all adapter matrices, `P` being `A` (`r x I`) or `B^T` (`r x O`).

    It is AdaLoRA's orthogonality penalty. peft adds it, times `orth_reg_weight`, only to a loss that the model
    itself returns, as those of Hugging Face's transformers do.
    """
    found = []
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            rows = parameter if "lora_A" in name else parameter.T
            identity = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
            found.append(torch.linalg.matrix_norm(rows @ rows.T - identity))
    return torch.stack(found).mean()
