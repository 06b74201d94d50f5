"""Convolutions with standardised weights (arXiv:1903.10520), as BiT has them (arXiv:1912.11370)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.layers.same import pad_same


def standardise(weight: Tensor, *, eps: float = 1e-8, std_eps: float = 0.0) -> Tensor:
    """Each filter less its mean, over its deviation: (D, C, k, k) -> (D, C, k, k).

    `eps` is added to the variance, as in timm, and `std_eps` to the deviation, as in Google's code.
    """
    if not std_eps:
        return F.layer_norm(weight, weight.shape[1:], eps=eps)  # the same in one kernel
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
    return (weight - mean) / ((variance + eps).sqrt() + std_eps)


class StdConv2d(nn.Conv2d):
    """A convolution that standardises its filters at each call, without a bias, SAME padding.

    (B, C, h, w) -> (B, D, ceil(h / stride), ceil(w / stride)). The kernel is square and odd.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        eps: float = 1e-8,
        std_eps: float = 0.0,
    ) -> None:
        padding = kernel_size // 2 if stride == 1 else 0  # else it depends on the map
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.eps, self.std_eps = eps, std_eps
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        stride = self.stride[0]
        x = x if stride == 1 else pad_same(x, self.kernel_size[0], stride)
        weight = standardise(self.weight, eps=self.eps, std_eps=self.std_eps)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)
