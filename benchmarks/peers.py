"""The competition: the same operations by PyTorch (on a GPU: cuDNN and cuBLAS).

Conditions that a fair peer needs: float32 with TF32 off, channels_last memory (our NHWC arrays as they
are), ``cudnn.benchmark`` on, inputs padded beforehand where a padding is asymmetric (PyTorch has none; the
copy is not timed). Every method returns a function without arguments that does the work and returns its
result in our layouts (NHWC, KRSC).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Work = Callable[[], Any]


def find(device: Any) -> tuple[Torch | None, str | None]:
    """PyTorch on the device, or (None, the reason why not)."""
    try:
        import torch
    except ImportError as error:
        return None, str(error)
    if device.kind == "cuda" and not torch.cuda.is_available():
        return None, "PyTorch has no CUDA here"
    return Torch(torch, f"cuda:{device.index}" if device.kind == "cuda" else "cpu"), None


def nchw(tensor: Any) -> Any:
    """An NHWC tensor seen as NCHW (channels_last); KRSC filters seen as KCRS. No copy."""
    return tensor.permute(0, 3, 1, 2)


def nhwc(tensor: Any) -> Any:
    """The way back from :func:`nchw`."""
    return tensor.permute(0, 2, 3, 1)


class Torch:
    """PyTorch's operations on tensors in our layouts."""

    def __init__(self, torch: Any, device: str):
        self.torch, self.device = torch, device
        self.f = torch.nn.functional
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        cudnn = torch.backends.cudnn.version() if device != "cpu" else None
        self.name = (
            f"torch {torch.__version__}" + (f", cuDNN {cudnn}" if cudnn else "") + ", float32 without TF32"
        )

    def tensors(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """The inputs as tensors on the device."""
        return {
            name: self.torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for name, a in arrays.items()
        }

    def to_numpy(self, tensor: Any) -> np.ndarray:
        """A result on the host."""
        return tensor.detach().cpu().numpy()

    def autograd(self, function: Callable[[Any], Any], x: Any, dy: Any) -> Work:
        """The gradient of `function` at x by autograd; the forward pass is not timed."""
        x = x.detach().requires_grad_()
        y = function(x)
        return lambda: self.torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    # -- convolution, fully connected

    def _padded(self, x: Any, pad: Any) -> tuple[Any, tuple[int, int], Any]:
        """NCHW input, the padding left for PyTorch, and what is done: ((top, bottom), (left, right))."""
        pad = (pad, pad) if isinstance(pad, int) else pad
        (top, bottom), (left, right) = [(p, p) if isinstance(p, int) else p for p in pad]
        if top == bottom and left == right:
            return nchw(x), (top, left), ((0, 0), (0, 0))
        x = self.f.pad(nchw(x), (left, right, top, bottom)).contiguous(memory_format=self.torch.channels_last)
        return x, (0, 0), ((top, bottom), (left, right))

    def conv2d(self, x, w, b=None, stride=1, pad=0, groups=1, activation=None) -> Work:
        """Bias and ReLU as a call of their own where asked for: PyTorch does not fuse them."""
        x, pad, _ = self._padded(x, pad)
        w = nchw(w)

        def work() -> Any:
            y = self.f.conv2d(x, w, b, stride, pad, 1, groups)
            return nhwc(y.relu_() if activation == "relu" else y)

        return work

    def _conv_backward(self, dy, x, w, stride, pad, groups, which) -> Any:
        stride = (stride, stride) if isinstance(stride, int) else stride
        mask = [which == "x", which == "w", False]
        return self.torch.ops.aten.convolution_backward(
            dy, x, w, None, stride, pad, (1, 1), False, (0, 0), groups, mask
        )

    def conv2d_dgrad(self, dy, w, x_shape, stride=1, pad=0, groups=1) -> Work:
        x = self.torch.empty(x_shape, dtype=dy.dtype, device=dy.device)
        x, inner, ((top, bottom), (left, right)) = self._padded(x, pad)
        dy, w = nchw(dy), nchw(w)
        h, wd = x.shape[2] - bottom, x.shape[3] - right
        return lambda: nhwc(self._conv_backward(dy, x, w, stride, inner, groups, "x")[0])[:, top:h, left:wd]

    def conv2d_wgrad(self, dy, x, w_shape, stride=1, pad=0, groups=1) -> Work:
        x, inner, _ = self._padded(x, pad)
        dy, w = nchw(dy), nchw(self.torch.empty(w_shape, dtype=dy.dtype, device=dy.device))
        return lambda: nhwc(self._conv_backward(dy, x, w, stride, inner, groups, "w")[1])

    def linear(self, x, w, b=None, activation=None) -> Work:
        def work() -> Any:
            y = self.f.linear(x, w, b)
            return y.relu_() if activation == "relu" else y

        return work

    def linear_dgrad(self, dy, w) -> Work:
        return lambda: dy @ w

    def linear_wgrad(self, dy, x) -> Work:
        return lambda: dy.T @ x

    # -- pooling, normalisation

    def max_pool2d(self, x, size=3, stride=2, pad=0, ceil_mode=False) -> Work:
        """Returns y alone: PyTorch's indices count pixels of the image, ours positions inside the window."""
        x = nchw(x)
        return lambda: nhwc(self.f.max_pool2d(x, size, stride, pad, 1, ceil_mode, return_indices=True)[0])

    def max_pool2d_backward(self, dy, x, size=3, stride=2, pad=0, ceil_mode=False) -> Work:
        """Takes the forward input `x`, from which it makes PyTorch's own indices."""
        x, dy = nchw(x), nchw(dy)
        _, indices = self.f.max_pool2d(x, size, stride, pad, 1, ceil_mode, return_indices=True)
        size, stride, pad = ((v, v) if isinstance(v, int) else v for v in (size, stride, pad))
        backward = self.torch.ops.aten.max_pool2d_with_indices_backward
        return lambda: nhwc(backward(dy, x, size, stride, pad, (1, 1), ceil_mode, indices))

    def avg_pool2d(self, x, size=3, stride=2, pad=0, ceil_mode=False, count_include_pad=False) -> Work:
        x = nchw(x)
        return lambda: nhwc(self.f.avg_pool2d(x, size, stride, pad, ceil_mode, count_include_pad))

    def avg_pool2d_backward(
        self, dy, x_shape, size=3, stride=2, pad=0, ceil_mode=False, count_include_pad=False
    ) -> Work:
        x, dy = nchw(self.torch.zeros(x_shape, dtype=dy.dtype, device=dy.device)), nchw(dy)
        size, stride, pad = ((v, v) if isinstance(v, int) else v for v in (size, stride, pad))
        backward = self.torch.ops.aten.avg_pool2d_backward
        return lambda: nhwc(backward(dy, x, size, stride, pad, ceil_mode, count_include_pad, None))

    def _lrn(self, x, size, alpha, beta, k, groups) -> Any:
        """PyTorch divides alpha by the window's size; a group is an axis behind the channels."""
        n, h, w, c = x.shape
        towers = x.reshape(n, h, w, groups, c // groups).permute(0, 4, 3, 1, 2)
        y = self.f.local_response_norm(towers, size, alpha * size, beta, k)
        return y.permute(0, 3, 4, 2, 1).reshape(n, h, w, c)

    def lrn(self, x, size=5, alpha=1e-4, beta=0.75, k=2.0, groups=1) -> Work:
        return lambda: self._lrn(x, size, alpha, beta, k, groups)

    def lrn_backward(self, dy, x, size=5, alpha=1e-4, beta=0.75, k=2.0, groups=1) -> Work:
        return self.autograd(lambda v: self._lrn(v, size, alpha, beta, k, groups), x, dy)

    def _lrn_spatial(self, x, size, alpha, beta, k) -> Any:
        sums = self.f.avg_pool2d(nchw(x).square(), size, 1, size // 2, divisor_override=1)
        return x * nhwc(sums).mul(alpha).add(k).pow(-beta)

    def lrn_spatial(self, x, size=5, alpha=1e-4, beta=0.75, k=1.0) -> Work:
        """Odd sizes."""
        return lambda: self._lrn_spatial(x, size, alpha, beta, k)

    def lrn_spatial_backward(self, dy, x, size=5, alpha=1e-4, beta=0.75, k=1.0) -> Work:
        """Odd sizes."""
        return self.autograd(lambda v: self._lrn_spatial(v, size, alpha, beta, k), x, dy)

    # -- pointwise

    def relu(self, x) -> Work:
        return lambda: self.torch.relu(x)

    def relu_backward(self, dy, y) -> Work:
        return lambda: self.torch.ops.aten.threshold_backward(dy, y, 0)

    def tanh(self, x) -> Work:
        return lambda: self.torch.tanh(x)

    def tanh_backward(self, dy, y) -> Work:
        return lambda: self.torch.ops.aten.tanh_backward(dy, y)

    def logistic(self, x) -> Work:
        return lambda: self.torch.sigmoid(x)

    def logistic_backward(self, dy, y) -> Work:
        return lambda: self.torch.ops.aten.sigmoid_backward(dy, y)

    def add_bias(self, x, b) -> Work:
        return lambda: x + b

    def bias_backward(self, dy) -> Work:
        return lambda: dy.sum(tuple(range(dy.ndim - 1)))

    def add(self, a, b, alpha=1.0, beta=1.0) -> Work:
        if alpha == 1.0:
            return lambda: self.torch.add(a, b, alpha=beta)
        return lambda: alpha * a + beta * b

    def concat(self, xs) -> Work:
        return lambda: self.torch.cat(xs, -1)

    def split(self, x, sizes) -> Work:
        return lambda: tuple(part.contiguous() for part in self.torch.split(x, sizes, -1))

    def dropout(self, x, p=0.5) -> Work:
        """Other random numbers than ours: time only."""
        return lambda: self.torch.native_dropout(x, p, True)

    def bias_relu_dropout(self, x, b, p=0.5) -> Work:
        """Other random numbers than ours: time only."""
        return lambda: self.torch.native_dropout((x + b).relu_(), p, True)

    def dropout_backward(self, dy, mask, p=0.5) -> Work:
        mask = mask.bool()
        return lambda: self.torch.ops.aten.native_dropout_backward(dy, mask, 1 / (1 - p))

    # -- loss, optimiser

    def softmax_cross_entropy(self, logits, labels) -> Work:
        """Loss and gradient, as ours; without the top-k counts."""
        labels = labels.long()
        logits = logits.detach().requires_grad_()

        def work() -> Any:
            loss = self.f.cross_entropy(logits, labels)
            return loss.detach(), self.torch.autograd.grad(loss, logits)[0]

        return work

    def softmax(self, logits) -> Work:
        return lambda: self.torch.softmax(logits, -1)

    def sgd_momentum(self, w, g, lr=0.01, momentum=0.9, weight_decay=5e-4) -> Work:
        """PyTorch's fused SGD on one flat parameter; its buffer is another multiple of ours: time only."""
        parameter = self.torch.nn.Parameter(w.clone())
        parameter.grad = g
        optimiser = self.torch.optim.SGD([parameter], lr, momentum, weight_decay=weight_decay, fused=True)

        def work() -> Any:
            optimiser.step()
            return parameter.detach()

        return work
