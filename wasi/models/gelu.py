"""GELUs that need no second wide tensor while no gradient is wanted."""

import torch
from torch import Tensor, nn

from wasi.models.structure import find_blocks


class OverwritingGELU(nn.GELU):
    """`nn.GELU` that writes its result over its input, which nobody else may need, where no gradient is wanted."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return torch.ops.aten.gelu_(x, approximate=self.approximate)


def overwrite_hidden(model: nn.Module) -> nn.Module:
    """Let, in place, the GELUs of the blocks' MLPs overwrite what the linear layer before them has just made."""
    for block in find_blocks(model).values():
        for mlp in filter(_runs_in_order, block.modules()):
            children = list(mlp.named_children())
            for (_, before), (name, gelu) in zip(children, children[1:], strict=False):
                if isinstance(before, nn.Linear) and type(gelu) is nn.GELU:
                    setattr(mlp, name, OverwritingGELU(gelu.approximate).train(gelu.training))
    return model


def _runs_in_order(module: nn.Module) -> bool:
    """Whether each child sees what the one before it made, and nothing else does."""
    kind = type(module)
    if kind.__module__ == "timm.layers.mlp" and kind.__name__ == "Mlp":
        return True
    return isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward
