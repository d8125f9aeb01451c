"""Max pooling by way of the memory format in which a CPU is fast at it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaxPool2d(nn.MaxPool2d):
    """A `torch.nn.MaxPool2d` in less time on a CPU, with the same values and derivatives, bit for
    bit.

    torch's kernel for channels_last takes a tenth of the time of that for contiguous images, and
    goes over a window in the same order, so that of equal values the same one counts. Where windows
    do not overlap, only the places come from it, and the values are gathered there: the derivative
    then has the format of x, in which the layers before are fast.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns pooled images, in the memory format of x, float ``[B, c, h, w]``."""
        apart = self.kernel_size == self.stride and self.dilation == 1
        if not (apart and x.device.type == "cpu" and x.dim() == 4 and x.is_contiguous()):
            return super().forward(x)
        with torch.no_grad():
            # `contiguous` to channels_last in two steps, as `torch.func.vmap` knows no other.
            channels_last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
            window = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            pooled, places = F.max_pool2d(channels_last, *window, return_indices=True)
        if not torch.is_grad_enabled():
            return pooled.contiguous()
        return x.flatten(2).gather(2, places.contiguous().flatten(2)).view(places.shape)
