"""What AdaLoRA (Zhang et al., arXiv 2303.10512) does in a training step, with the tuner of Hugging Face's peft.

Adapters are `B diag(E) A`. While the budget of ranks falls, entries of `E` are set to zero where they matter least to
the loss. peft leaves it to the training loop to call its tuner after each step, and keeps what it has learned about
the entries in memory alone.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wasi.errors import UserError

log = logging.getLogger(__name__)

_ADAPTER = "default"  # peft's name of the only adapter
_KINDS = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # importance of each number, as peft's allocator calls it
_ENDLESS = 2**40  # steps
_WARMUP, _FINAL = 0.1, 0.5  # of all steps, about as in the paper's experiments


class RankBudget:
    """Ranks that move with the importance of adapters, one allocation after every step of `step.optimizer`.

    Importance, the ranks kept and the number of steps done stand in the optimizer's state, so that a checkpoint
    carries them and their memory is counted there.

    Args:
        tuner: peft's `AdaLoraModel`.
        step: the `TrainStep`; without `total_steps`, and after so many, ranks are allocated as in the middle of a
            training, which is where a step costs most.
        tinit, tfinal: steps before the budget begins to fall, and steps at the end with ranks that stay; None = a
            tenth and a half of all.
    """

    def __init__(self, tuner: Any, step: Any, tinit: int | None, tfinal: int | None):
        self._tuner, self._step, self._given = tuner, step, (tinit, tfinal)
        self._config, self._count = tuner.peft_config[_ADAPTER], 0
        step.optimizer.register_step_post_hook(lambda *_: self.allocate())
        step.optimizer.register_load_state_dict_post_hook(lambda *_: self._restore())

    def allocate(self) -> None:
        """Have the tuner allocate ranks, as after every optimizer step, and note its state in the optimizer's."""
        self._count += 1
        total = self._step.total_steps
        if total is None or self._count > total:
            self._config.total_step, self._config.tinit, self._config.tfinal = _ENDLESS, 0, 0
        else:
            self._config.total_step = total
            self._config.tinit, self._config.tfinal = phases(total, *self._given)
        self._tuner.update_and_allocate(self._count)
        if self._count == self._config.total_step - self._config.tfinal:
            kept = [sum(kept) for kept in self._config.rank_pattern.values()]
            log.info("AdaLoRA: ranks from %d to %d, %d in all, stay from step %d on",
                     min(kept), max(kept), sum(kept), self._count)  # fmt: skip
        self._expose()

    def _expose(self) -> None:
        allocator, pattern = self._tuner.rankallocator, self._config.rank_pattern or {}
        for name, parameter in self._parameters():
            found = {kind: getattr(allocator, kind).get(name) for kind in _KINDS}
            found |= {"allocations": self._count, "kept": pattern.get(name)}
            state = self._step.optimizer.state[parameter]
            for key, value in found.items():
                state.pop(key, None)
                state |= {key: value} if value is not None else {}

    def _restore(self) -> None:
        allocator, pattern = self._tuner.rankallocator, {}
        allocator.reset_ipt()
        self._count = 0
        for name, parameter in self._parameters():
            state = self._step.optimizer.state.get(parameter, {})
            self._count = state.get("allocations", 0)
            for kind in set(_KINDS) & state.keys():
                getattr(allocator, kind)[name] = state[kind]
            if "kept" in state:
                pattern[name] = state["kept"]
        self._config.rank_pattern = pattern or None

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The adapters' parameters, by the names that peft's allocator knows them by."""
        return ((n, p) for n, p in self._tuner.model.named_parameters() if "lora_" in n)


def phases(total: int, tinit: int | None, tfinal: int | None) -> tuple[int, int]:
    """Steps before the budget of ranks falls, and after it has fallen.

    >>> phases(100, None, None)
    (10, 50)

    Raises:
        UserError: they leave fewer than two of `total` steps, or none to fall in.
    """
    last = total - 2  # importance is known after one step, and the budget falls in another
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
    """Mean over all `A` and `B` of `||P P^T - I||_F`, `P` being `A` (`r x I`) or `B^T` (`r x O`): a scalar.

    peft's `AdaLoraModel` adds this, times `orth_reg_weight`, to a loss that a model of transformers computes itself.
    """
    found = []
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            rows = parameter if "lora_A" in name else parameter.T
            found.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows)).to(rows)))
    return torch.stack(found).mean()
