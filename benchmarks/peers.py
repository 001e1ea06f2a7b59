"""The competition: the same operations by PyTorch (on a GPU: cuDNN and cuBLAS), eager and compiled.

Conditions that a fair peer needs: channels_last memory (our NHWC arrays as they are, the very same memory),
``cudnn.benchmark`` on, TF32 off in float32 rows and on in TF32 ones, inputs padded or cut into groups
beforehand (the copies are not timed). In bfloat16 rows a peer's bias and its gradients of weights are
bfloat16 too, where ours stay float32. Every method returns a :class:`Work`, or several: ways to do the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from exact import BFLOAT16


class NotOffered(Exception):
    """The peer has no such operation, or not under these conditions: a note, no failure."""


@dataclass
class Work:
    """A peer's way to do something.

    run : what is timed
    join : makes the result in our layout of what `run` returned; not timed
    label : "PyTorch", "cuDNN, groups apart"
    kernel : which of the library's kernels it is, where known
    heat : of the works that share this word only the fastest goes into the final
    """

    run: Callable[[], Any]
    join: Callable[[Any], Any] = lambda result: result
    label: str = ""
    kernel: str | None = None
    heat: str | None = None

    def __call__(self) -> Any:
        """Run it; the result in our layout."""
        return self.join(self.run())


def find(device: Any) -> tuple[Torch | None, str | None]:
    """PyTorch on the device, or (None, the reason why not). The emulator's peer runs on the host."""
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

    label = "PyTorch"

    def __init__(self, torch: Any, device: str):
        self.torch, self.device = torch, device
        self.f = torch.nn.functional
        torch.backends.cudnn.benchmark = True
        self.use("fp32")
        cudnn = torch.backends.cudnn.version() if device != "cpu" else None
        self.name = f"torch {torch.__version__}" + (f", cuDNN {cudnn}" if cudnn else "")

    def use(self, precision: str) -> None:
        """What float32 products are made of from now on: TF32 in TF32 rows alone."""
        self.torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self.torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    def tensors(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """The same memory as tensors (arrays of the host or CuPy's)."""
        result = {}
        for name, a in arrays.items():
            half = a.dtype == BFLOAT16
            a = a.view(np.int16) if half else a
            tensor = (self.torch.from_numpy if isinstance(a, np.ndarray) else self.torch.from_dlpack)(a)
            result[name] = tensor.view(self.torch.bfloat16) if half else tensor
        return result

    def to_numpy(self, tensor: Any) -> np.ndarray:
        """A result on the host; bfloat16 widened."""
        tensor = tensor.detach()
        return (tensor.float() if tensor.dtype == self.torch.bfloat16 else tensor).cpu().numpy()

    def ready(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it will be called."""
        return function

    def work(self, run: Callable[[], Any], join: Callable[[Any], Any] | None = None, how: str = "") -> Work:
        return Work(self.ready(run), join or (lambda result: result), self.label + how)

    def eager(self, run: Callable[[], Any]) -> Work:
        """Work that is never compiled: an optimiser's step, a forward pass with its gradient in one."""
        return Work(run, label=self.label)

    def autograd(self, function: Callable[[Any], Any], x: Any, dy: Any) -> Work:
        """The gradient of `function` at x by autograd; the forward pass is not timed."""
        x = x.detach().requires_grad_()
        y = self.ready(function)(x)
        return Work(lambda: self.torch.autograd.grad(y, x, dy, retain_graph=True)[0], label=self.label)

    # -- convolution, fully connected

    def _padded(self, x: Any, pad: Any) -> tuple[Any, tuple[int, int], Any]:
        """NCHW input, the padding left for PyTorch, and what is done: ((top, bottom), (left, right))."""
        pad = (pad, pad) if isinstance(pad, int) else pad
        (top, bottom), (left, right) = [(p, p) if isinstance(p, int) else p for p in pad]
        if top == bottom and left == right:
            return nchw(x), (top, left), ((0, 0), (0, 0))
        x = self.f.pad(nchw(x), (left, right, top, bottom)).contiguous(memory_format=self.torch.channels_last)
        return x, (0, 0), ((top, bottom), (left, right))

    def _cut(self, x: Any, groups: int) -> list[Any]:
        """The groups' channels of an NCHW tensor, each dense."""
        last = self.torch.channels_last
        return [part.contiguous(memory_format=last) for part in x.chunk(groups, 1)]

    def conv2d(self, x, w, b=None, stride=1, pad=0, groups=1, activation=None) -> list[Work]:
        """Bias and ReLU as a call of their own where asked for; grouped, and each group by itself."""
        f, cat = self.f, self.torch.cat
        x, pad, _ = self._padded(x, pad)
        w = nchw(w)
        b = None if b is None else b.to(x.dtype)

        def run() -> Any:
            y = f.conv2d(x, w, b, stride, pad, 1, groups)
            return y.relu_() if activation == "relu" else y

        works = [self.work(run, nhwc)]
        if groups > 1:
            bs = [None] * groups if b is None else b.chunk(groups)
            parts = list(zip(self._cut(x, groups), w.chunk(groups, 0), bs, strict=True))

            def apart() -> Any:
                ys = [f.conv2d(a, v, c, stride, pad) for a, v, c in parts]
                return [y.relu_() for y in ys] if activation == "relu" else ys

            works.append(self.work(apart, lambda ys: nhwc(cat(ys, 1)), ", groups apart"))
        return works

    def _backward(self, calls: list[tuple[Any, Any, Any]], stride, pad, groups, which) -> Callable[[], Any]:
        """Gradients of (dy, x, w) triples for x (0) or w (1)."""
        stride = (stride, stride) if isinstance(stride, int) else stride
        mask = [which == 0, which == 1, False]
        backward = self.torch.ops.aten.convolution_backward

        def run() -> Any:
            return [
                backward(dy, x, w, None, stride, pad, (1, 1), False, (0, 0), groups, mask)[which]
                for dy, x, w in calls
            ]

        return run

    def _gradients(self, dy, x, w, stride, pad, groups, which, axis, join) -> list[Work]:
        """Grouped, and each group by itself; `axis` is where the groups' results meet."""
        run = self._backward([(dy, x, w)], stride, pad, groups, which)
        works = [self.work(run, lambda parts: join(parts[0]))]
        if groups > 1:
            cut = zip(self._cut(dy, groups), self._cut(x, groups), w.chunk(groups, 0), strict=True)
            run = self._backward(list(cut), stride, pad, 1, which)
            cat = self.torch.cat
            works.append(self.work(run, lambda parts: join(cat(parts, axis)), ", groups apart"))
        return works

    def conv2d_dgrad(self, dy, w, x_shape, stride=1, pad=0, groups=1) -> list[Work]:
        x = self.torch.empty(x_shape, dtype=dy.dtype, device=dy.device)
        x, inner, ((top, bottom), (left, right)) = self._padded(x, pad)
        h, wd = x.shape[2] - bottom, x.shape[3] - right

        def join(dx: Any) -> Any:
            return nhwc(dx)[:, top:h, left:wd]

        return self._gradients(nchw(dy), x, nchw(w), stride, inner, groups, 0, 1, join)

    def conv2d_wgrad(self, dy, x, w_shape, stride=1, pad=0, groups=1) -> list[Work]:
        x, inner, _ = self._padded(x, pad)
        w = nchw(self.torch.empty(w_shape, dtype=dy.dtype, device=dy.device))
        return self._gradients(nchw(dy), x, w, stride, inner, groups, 1, 0, nhwc)

    def conv_block(self, x, w, b, stride, pad, groups, lrn=None, pool=None) -> list[Work]:
        """Convolution, bias, ReLU, and (`lrn` its options, `pool` size and stride) what follows."""
        f, cat = self.f, self.torch.cat
        x, pad, _ = self._padded(x, pad)
        w, b = nchw(w), b.to(x.dtype)

        def norm(y: Any) -> Any:  # channels of one group at a time
            size = lrn.get("size", 5)
            return f.local_response_norm(y, size, lrn["alpha"] * size, lrn["beta"], lrn["k"])

        def tail(ys: list[Any]) -> Any:
            if lrn:
                ys = [norm(part) for y in ys for part in y.chunk(lrn["groups"] // len(ys), 1)]
            y = ys[0] if len(ys) == 1 else cat(ys, 1)
            return f.max_pool2d(y, *pool) if pool else y

        works = [self.work(lambda: tail([f.conv2d(x, w, b, stride, pad, 1, groups).relu_()]), nhwc)]
        if groups > 1:
            parts = list(zip(self._cut(x, groups), w.chunk(groups, 0), b.chunk(groups), strict=True))

            def apart() -> Any:
                return tail([f.conv2d(a, v, c, stride, pad).relu_() for a, v, c in parts])

            works.append(self.work(apart, nhwc, ", groups apart"))
        return works

    def linear(self, x, w, b=None, activation=None) -> Work:
        f, b = self.f, None if b is None else b.to(x.dtype)

        def run() -> Any:
            y = f.linear(x, w, b)
            return y.relu_() if activation == "relu" else y

        return self.work(run)

    def linear_dropout(self, x, w, b, p=0.5) -> Work:
        """A fully connected layer as AlexNet has it: bias, ReLU, dropout."""
        f, b = self.f, b.to(x.dtype)
        return self.work(lambda: f.dropout(f.linear(x, w, b).relu_(), p))

    def linear_dgrad(self, dy, w) -> Work:
        return self.work(lambda: dy @ w)

    def linear_wgrad(self, dy, x) -> Work:
        return self.work(lambda: dy.T @ x)

    # -- pooling, normalisation

    def max_pool2d(self, x, size=3, stride=2, pad=0, ceil_mode=False) -> Work:
        """Returns y alone: PyTorch's indices count pixels of the image, ours positions inside the window."""
        x = nchw(x)
        pool = self.f.max_pool2d
        return self.work(lambda: nhwc(pool(x, size, stride, pad, 1, ceil_mode, return_indices=True)[0]))

    def max_pool2d_backward(self, dy, x, size=3, stride=2, pad=0, ceil_mode=False) -> Work:
        """Takes the forward input `x`, from which it makes PyTorch's own indices."""
        x, dy = nchw(x), nchw(dy)
        _, indices = self.f.max_pool2d(x, size, stride, pad, 1, ceil_mode, return_indices=True)
        size, stride, pad = ((v, v) if isinstance(v, int) else v for v in (size, stride, pad))
        backward = self.torch.ops.aten.max_pool2d_with_indices_backward
        return self.work(lambda: nhwc(backward(dy, x, size, stride, pad, (1, 1), ceil_mode, indices)))

    def avg_pool2d(self, x, size=3, stride=2, pad=0, ceil_mode=False, count_include_pad=False) -> Work:
        x = nchw(x)
        return self.work(lambda: nhwc(self.f.avg_pool2d(x, size, stride, pad, ceil_mode, count_include_pad)))

    def avg_pool2d_backward(
        self, dy, x_shape, size=3, stride=2, pad=0, ceil_mode=False, count_include_pad=False
    ) -> Work:
        x, dy = nchw(self.torch.zeros(x_shape, dtype=dy.dtype, device=dy.device)), nchw(dy)
        size, stride, pad = ((v, v) if isinstance(v, int) else v for v in (size, stride, pad))
        backward = self.torch.ops.aten.avg_pool2d_backward
        return self.work(lambda: nhwc(backward(dy, x, size, stride, pad, ceil_mode, count_include_pad, None)))

    def _lrn(self, x, size, alpha, beta, k, groups) -> Any:
        """PyTorch divides alpha by the window's size; a group is an axis behind the channels."""
        n, h, w, c = x.shape
        towers = x.reshape(n, h, w, groups, c // groups).permute(0, 4, 3, 1, 2)
        y = self.f.local_response_norm(towers, size, alpha * size, beta, k)
        return y.permute(0, 3, 4, 2, 1).reshape(n, h, w, c)

    def lrn(self, x, size=5, alpha=1e-4, beta=0.75, k=2.0, groups=1) -> Work:
        return self.work(lambda: self._lrn(x, size, alpha, beta, k, groups))

    def lrn_backward(self, dy, x, size=5, alpha=1e-4, beta=0.75, k=2.0, groups=1) -> Work:
        return self.autograd(lambda v: self._lrn(v, size, alpha, beta, k, groups), x, dy)

    def _lrn_spatial(self, x, size, alpha, beta, k) -> Any:
        sums = self.f.avg_pool2d(nchw(x).square(), size, 1, size // 2, divisor_override=1)
        return x * nhwc(sums).mul(alpha).add(k).pow(-beta)

    def lrn_max_pool2d(self, x, **options) -> Work:
        return self.work(lambda: self._lrn_max_pool2d(x, **options))

    def _lrn_max_pool2d(self, x, size=5, alpha=1e-4, beta=0.75, k=2.0, groups=1) -> Any:
        y = self._lrn(x, size, alpha, beta, k, groups)
        return nhwc(self.f.max_pool2d(nchw(y), 3, 2))

    def lrn_max_pool2d_backward(self, dy, x, **options) -> Work:
        return self.autograd(lambda v: self._lrn_max_pool2d(v, **options), x, dy)

    def lrn_spatial(self, x, size=5, alpha=1e-4, beta=0.75, k=1.0) -> Work:
        """Odd sizes."""
        return self.work(lambda: self._lrn_spatial(x, size, alpha, beta, k))

    def lrn_spatial_backward(self, dy, x, size=5, alpha=1e-4, beta=0.75, k=1.0) -> Work:
        """Odd sizes."""
        return self.autograd(lambda v: self._lrn_spatial(v, size, alpha, beta, k), x, dy)

    # -- pointwise

    def relu(self, x) -> Work:
        return self.work(lambda: self.torch.relu(x))

    def relu_backward(self, dy, y) -> Work:
        return self.work(lambda: self.torch.ops.aten.threshold_backward(dy, y, 0))

    def tanh(self, x) -> Work:
        return self.work(lambda: self.torch.tanh(x))

    def tanh_backward(self, dy, y) -> Work:
        return self.work(lambda: self.torch.ops.aten.tanh_backward(dy, y))

    def logistic(self, x) -> Work:
        return self.work(lambda: self.torch.sigmoid(x))

    def logistic_backward(self, dy, y) -> Work:
        return self.work(lambda: self.torch.ops.aten.sigmoid_backward(dy, y))

    def add_bias(self, x, b) -> Work:
        return self.work(lambda: x + b)

    def bias_backward(self, dy) -> Work:
        return self.work(lambda: dy.sum(tuple(range(dy.ndim - 1))))

    def add(self, a, b, alpha=1.0, beta=1.0) -> Work:
        if alpha == 1.0:
            return self.work(lambda: self.torch.add(a, b, alpha=beta))
        return self.work(lambda: alpha * a + beta * b)

    def concat(self, xs) -> Work:
        return self.work(lambda: self.torch.cat(xs, -1))

    def split(self, x, sizes) -> Work:
        return self.work(lambda: tuple(part.contiguous() for part in self.torch.split(x, sizes, -1)))

    def dropout(self, x, p=0.5) -> Work:
        """Other random numbers than ours."""
        return self.work(lambda: self.torch.native_dropout(x, p, True))

    def bias_relu_dropout(self, x, b, p=0.5) -> Work:
        f, b = self.f, b.to(x.dtype)
        return self.work(lambda: f.dropout((x + b).relu_(), p))

    def dropout_backward(self, dy, mask, p=0.5) -> Work:
        mask = mask.bool()
        return self.work(lambda: self.torch.ops.aten.native_dropout_backward(dy, mask, 1 / (1 - p)))

    # -- loss, optimiser, augmentation

    def softmax_cross_entropy(self, logits, labels) -> Work:
        """Loss and gradient, as ours; without the top-k counts."""
        f, grad, labels = self.f, self.torch.autograd.grad, labels.long()
        logits = logits.detach().requires_grad_()

        def run() -> Any:
            loss = f.cross_entropy(logits, labels)
            return loss.detach(), grad(loss, logits)[0]

        return self.eager(run)

    def softmax(self, logits) -> Work:
        return self.work(lambda: self.torch.softmax(logits, -1))

    def sgd_momentum(self, w, g, ends, lrs, momentum, decays) -> Work:
        """PyTorch's fused SGD, a group for each segment of the flat arrays; returns the flat parameters.

        From momenta of zero its first step is ours; later ones keep another multiple of the momentum.
        """
        flat = w.clone()
        groups: dict[tuple[float, float], dict[str, Any]] = {}  # few groups of many tensors: its fastest way
        for a, z, lr, decay in zip([0, *ends[:-1]], ends, lrs, decays, strict=True):
            parameter = self.torch.nn.Parameter(flat[a:z])
            parameter.grad = g[a:z]
            group = groups.setdefault((lr, decay), {"params": [], "lr": lr, "weight_decay": decay})
            group["params"].append(parameter)
        optimiser = self.torch.optim.SGD(list(groups.values()), lrs[0], momentum, fused=True)

        def run() -> Any:
            optimiser.step()
            return flat.detach()

        return self.eager(run)

    def augment(self, images, crop, mirror, colour, mean, size) -> Work:
        """Crops by one gather, then subtraction of the mean and the colour, as ours does."""
        torch = self.torch
        h, w = size
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        ys, xs = torch.arange(h, device=images.device), torch.arange(w, device=images.device)

        def run() -> Any:
            rows = (crop[:, :1] + ys)[:, :, None]
            columns = torch.where(mirror[:, None] != 0, w - 1 - xs, xs) + crop[:, 1:]
            columns = columns[:, None, :]
            return images[batch, rows, columns].float() - mean[rows, columns] + colour[:, None, None]

        return self.work(run)


class Compiled(Torch):
    """The same through ``torch.compile(mode="max-autotune")``, as long as its time lasts."""

    label = "torch.compile"

    def __init__(self, torch: Any, device: str, seconds: float):
        self.seconds, self.spent, self.open = seconds, 0.0, True
        super().__init__(torch, device)
        self.name = f"torch.compile(mode='max-autotune'), at most {seconds:.0f} s of compiling"

    def use(self, precision: str) -> None:
        """What comes next has nothing to do with what was compiled before: its code is dropped.

        What is begun within the time may be finished: a row's compiling is not cut short.
        """
        super().use(precision)
        self.open = self.spent < self.seconds
        self.torch._dynamo.reset()

    def tensors(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """As eager; CUDA graphs need not copy them, for they stay where they are."""
        result = super().tensors(arrays)
        for tensor in result.values():
            self.torch._dynamo.mark_static_address(tensor)
        return result

    def autograd(self, function: Callable[[Any], Any], x: Any, dy: Any) -> Work:
        # Its saved tensors would live in a CUDA graph's memory, which the backward pass repeated here reuses.
        x = x.detach().requires_grad_()
        y = self._compile(function, "max-autotune-no-cudagraphs")(x)
        return Work(lambda: self.torch.autograd.grad(y, x, dy, retain_graph=True)[0], label=self.label)

    def ready(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._compile(function, "max-autotune")

    def eager(self, run: Callable[[], Any]) -> Work:
        raise NotOffered("run eagerly, by PyTorch itself")

    def _compile(self, function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        if not self.open:
            raise NotOffered(f"torch.compile has had its {self.seconds:.0f} s")
        compiled = self.torch.compile(function, mode=mode, dynamic=False)
        begin = self.torch.compiler.cudagraph_mark_step_begin
        first = True

        def run(*args: Any) -> Any:
            nonlocal first
            begin()
            if not first:
                return compiled(*args)
            first, start = False, time.perf_counter()
            try:
                return compiled(*args)
            finally:
                self.spent += time.perf_counter() - start

        return run


def compiled(eager: Torch, seconds: float) -> tuple[Compiled | None, str | None]:
    """The compiling peer beside an eager one, or (None, the reason why not)."""
    if seconds <= 0:
        return None, "not asked for (--compile-seconds 0)"
    try:
        import torch._dynamo  # noqa: F401 - an attribute of torch from now on
        from torch._functorch import config

        config.donated_buffer = False  # autograd() goes back through the same graph many times
    except ImportError as error:
        return None, str(error)
    return Compiled(eager.torch, eager.device, seconds), None
