"""What every method has; a method is a subclass with an `apply`, named by `conf/method/NAME.yaml`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer


class Method:
    """Base class of all methods.

    A subclass declares, beside `apply`, what is special about it, all of it optional:

    - `appearance`: per name (of a YAML) how reports show it, see `wasi.config.declared.Appearance`;
    - `worth_tuning`: per name the options that `tune.declared=true` tries beside learning rate and optimizer;
    - `null_means`: per name the options whose null stands for a value, so that both are the same run;
    - `trains_matrices`: whether more trains than the head and vectors, for an estimate of memory;
    - `merge`: whether inference is measured with adapters merged into the weights, as one would deploy the model;
    - `parameter_groups`, `wrap_step`: how its training differs;
    - `artifacts`: file name -> JSON content that `apply` leaves beside the result, for example `perplexity.json`;
    - `step_parts`: which of its callables belong to which part of a step in a breakdown of time.

    Work that its layers do around an optimizer step follows from the layers themselves (`LowRankLayer`).
    """

    appearance: ClassVar[dict[str, dict[str, Any]]] = {}
    worth_tuning: ClassVar[dict[str, dict[str, list[Any]]]] = {}
    null_means: ClassVar[dict[str, dict[str, Any]]] = {}
    trains_matrices: bool = True
    merge: bool = True

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        """Make of a pretrained model what is to be trained; parameters with `requires_grad` train.

        Args:
            calibration: batches of training data to look at, the same each time it is iterated.
        """
        raise NotImplementedError

    def parameter_groups(self, model: nn.Module, defaults: dict[str, Any]) -> list[dict[str, Any]]:
        """Trainable parameters for which the optimizer has options of their own; all others keep theirs.

        LoRA+, for example, would give `[{"params": [every B], "lr": 1.6}]`.

        >>> Method().parameter_groups(nn.Linear(2, 2), {"lr": 0.1})
        []

        Args:
            defaults: the optimizer's options.
        """
        return []

    def wrap_step(self, step):
        """The `TrainStep` as it is to be used; for example with hooks on `step.optimizer`, or with `step.penalties`.

        `step.total_steps` is None until a training begins.
        """
        return step

    def step_parts(self) -> dict[str, list[tuple[object, str]]]:
        """Part of a step (`decomposition`, `factor_algebra`) -> (owner, attribute) of callables in it."""
        return {}

    def merged(self, layer: nn.Module) -> nn.Module | None:
        """What computes the same as `layer` in inference, with its adapters merged; None for all other layers.

        It shares no memory with `layer`, so that both can go their own ways.
        """
        merged = getattr(layer, "merged", None) if isinstance(layer, LowRankLayer) else None
        return merged() if self.merge and merged is not None else None

    @contextmanager
    def deployed(self, model: nn.Module) -> Iterator[None]:
        """Inside, `model` is as one would deploy it: each layer that has adapters is replaced by its merged form, and
        layers are without what serves training alone (`LowRankLayer.training_only`).

        Afterwards the very same layers are back, untouched. Adding `B A` to a weight in place and subtracting it
        again would round it twice and so change the training that follows; so merged weights are new tensors, and
        while the context lasts these weights exist twice. Inference's measured memory does not include that: the
        original layers are not part of the model meanwhile, and on a GPU they wait in the host's memory.
        Evaluation during training needs none of this, since unmerged outputs are equal to rounding.
        """
        children = ((parent, *entry) for parent in model.modules() for entry in parent._modules.items())
        places = [(parent, name, child) for parent, name, child in children if child is not None]
        forms = {child: self.merged(child) for child in dict.fromkeys(child for *_, child in places)}
        places = [(parent, name, child) for parent, name, child in places if forms.get(child) is not None]
        for parent, name, child in places:
            setattr(parent, name, forms[child])
        layers = [layer for layer in model.modules() if isinstance(layer, LowRankLayer)]
        found = [(layer, name, getattr(layer, name)) for layer in layers for name in layer.training_only]
        training_state = [(layer, name, value) for layer, name, value in found if value is not None]
        aside: list[tuple[Tensor, torch.device]] = []
        try:
            for layer, name, _ in training_state:
                setattr(layer, name, None)
            for tensor in _only_in((value for *_, value in [*places, *training_state]), model):
                aside.append((tensor, tensor.device))
                tensor.data = tensor.data.cpu()
            yield
        finally:
            for tensor, device in aside:
                tensor.data = tensor.data.to(device)
            for owner, name, value in [*training_state, *places]:
                setattr(owner, name, value)


def _only_in(parts: Iterable[nn.Module | Tensor], model: nn.Module) -> list[Tensor]:
    """Tensors of `parts` that `model` does not have, each once."""
    there = {id(tensor) for tensor in _tensors(model)}
    return list({id(t): t for part in parts for t in _tensors(part) if id(t) not in there}.values())


def _tensors(part: nn.Module | Tensor) -> Iterable[Tensor]:
    return [part] if isinstance(part, Tensor) else [*part.parameters(), *part.buffers()]
