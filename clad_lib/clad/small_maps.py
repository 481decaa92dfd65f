"""Convolutions on maps of a few pixels, which some processors compute slowly."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, unfold
from torch.nn.grad import conv2d_input


def on_small_maps(conv: nn.Conv2d, side: int) -> nn.Module:
    """What computes a 3x3 convolution with padding 1 faster on maps with `side` pixels a side.

    Where one pixel comes out it is a matrix product with the taps that meet the map. The others
    meet padding alone: training would never move them, and they are left out.
    """
    from torchvision.ops import Permute  # the import takes seconds

    if side > conv.stride[0]:
        return SmallMapConv2d(conv) if side <= 2 * conv.stride[0] else conv
    taps = conv.weight.detach().permute(0, 2, 3, 1)[:, 1 : 1 + side, 1 : 1 + side].flatten(1)
    product = nn.Linear(taps.shape[1], len(taps), bias=False, device="meta")
    product.weight = nn.Parameter(taps.clone())  # (C', side side C)
    return nn.Sequential(Permute([0, 2, 3, 1]), nn.Flatten(), product, nn.Unflatten(1, (-1, 1, 1)))


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution whose weight gradient is one matrix product where 2x2 pixels come out.

    Some CPU kernels of torch accumulate that gradient image by image, which is slow for many
    filters on a tiny map; how slow depends on the processor (`benchmarks/training.py`). Results
    are the same up to rounding. It shares the weight of the convolution that it replaces.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__(conv.in_channels, conv.out_channels, 3, conv.stride[0], 1, bias=False)
        self.weight = conv.weight

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, h, h) -> (N, C', 2, 2)."""
        if not self.training or maps.device.type != "cpu":
            return super().forward(maps)
        return _SmallMapProduct.apply(maps, self.weight, self.stride[0])


class _SmallMapProduct(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # inside autocast
    def forward(ctx, maps, weight, stride):
        ctx.save_for_backward(maps, weight)
        ctx.window = dict(stride=stride, padding=1)
        return conv2d(maps, weight, **ctx.window)

    @staticmethod
    def backward(ctx, grad):
        maps, weight = ctx.saved_tensors
        grad_maps = conv2d_input(maps.shape, weight, grad, **ctx.window)
        columns = grad.permute(0, 2, 3, 1).reshape(-1, len(weight))  # (N h' w', C')
        patches = unfold(maps, 3, **ctx.window).transpose(1, 2)  # (N, h' w', C 3 3)
        grad_weight = columns.T @ patches.reshape(len(columns), -1)
        return grad_maps, grad_weight.view_as(weight), None
