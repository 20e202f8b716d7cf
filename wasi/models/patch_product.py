"""Patch embeddings as one product: a convolution whose patches do not overlap is nothing else."""

import torch.nn.functional as F
from torch import Tensor, nn


class PatchConv2d(nn.Conv2d):
    """`nn.Conv2d` of patches side by side, `[B, C, H, W]` to `[B, O, H / p, W / q]`, computed by BLAS on a CPU.

    The result lies in memory as `[B, H / p, W / q, O]`, which is the order that transformers want tokens in.
    """

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.kernel_size
        if x.device.type != "cpu" or x.dim() != 4 or x.shape[2] % p or x.shape[3] % q:
            return super().forward(x)
        batch, channels, height, width = x.shape
        patches = x.reshape(batch, channels, height // p, p, width // q, q).permute(0, 2, 4, 1, 3, 5)
        out = F.linear(patches.flatten(3), self.weight.flatten(1), self.bias)
        return out.permute(0, 3, 1, 2)


def multiply_patches(model: nn.Module) -> nn.Module:
    """Put, in place, `PatchConv2d` with the very parameters for every convolution of patches side by side."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if _is_of_patches(child):
                setattr(parent, name, _of_patches(child))
    return model


def _is_of_patches(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.stride == module.kernel_size
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    )


def _of_patches(conv: nn.Conv2d) -> PatchConv2d:
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride
    made = PatchConv2d(*sizes, bias=conv.bias is not None, device="meta")
    made.weight, made.bias = conv.weight, conv.bias
    return made.train(conv.training)
