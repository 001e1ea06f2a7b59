"""Networks of other tools, computed in float64 on maps (N, C, H, W) by those tools' own rules."""

import math

import numpy as np


def conv(x, w, b=None, stride=1, pad=0, groups=1):
    """Cross-correlation; filters (K, C / groups, R, S)."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    parts = []
    for xs, ws in zip(np.split(x, groups, 1), np.split(w.astype(np.float64), groups), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(xs, ws.shape[2:], (2, 3))[:, :, ::stride, ::stride]
        parts.append(np.einsum("nchwrs,kcrs->nkhw", windows, ws, optimize=True))
    y = np.concatenate(parts, 1)
    return y if b is None else y + np.reshape(b, (1, -1, 1, 1))


def linear(x, w, b=None):
    """Fully connected; a map is flattened (C, H, W)."""
    y = x.reshape(len(x), -1) @ w.astype(np.float64).T
    return y if b is None else y + b


def relu(x):
    return np.maximum(x, 0)


def lrn(x, size=5, alpha=1e-4, beta=0.75, k=1.0):
    """Across channels, alpha divided by the window, as Caffe, PyTorch and ONNX have it."""
    half = (size - 1) // 2
    square = np.pad(x * x, ((0, 0), (half, size - 1 - half), (0, 0), (0, 0)))
    total = sum(square[:, i : i + x.shape[1]] for i in range(size))
    return x / (k + alpha / size * total) ** beta


def lrn_within(x, size=3, alpha=1.0, beta=0.75):
    """Within a channel, as Caffe: alpha over the window's area, k = 1, zeros around the map."""
    half = size // 2
    square = np.pad(x * x, ((0, 0), (0, 0), (half, half), (half, half)))
    total = np.lib.stride_tricks.sliding_window_view(square, (size, size), (2, 3)).sum((4, 5))
    return x / (1 + alpha / size**2 * total) ** beta


def caffe_pool(x, kind, size=3, stride=2, pad=0, floor=False):
    """Caffe's pooling: the extent rounds up, a last window beyond the image and its padding is left out; a
    mean divides by the window cut off at the padding's end.
    """
    n, c, h, w = x.shape
    out = []
    for extent in (h, w):
        count = (math.floor if floor else math.ceil)((extent + 2 * pad - size) / stride) + 1
        out.append(count - 1 if pad and (count - 1) * stride >= extent + pad else count)
    y = np.empty((n, c, *out))
    for i in range(out[0]):
        for j in range(out[1]):
            top, left = i * stride - pad, j * stride - pad
            bottom, right = min(top + size, h + pad), min(left + size, w + pad)
            area = (bottom - top) * (right - left)
            window = x[:, :, max(top, 0) : min(bottom, h), max(left, 0) : min(right, w)]
            y[:, :, i, j] = window.max((2, 3)) if kind == "max" else window.sum((2, 3)) / area
    return y


def torchvision_alexnet(x, state):
    """Logits of torchvision's alexnet from a state dict; x is what its transforms give."""
    layers = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
    for number, (stride, pad) in layers.items():
        x = relu(conv(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], stride, pad))
        if number in (0, 3, 10):
            x = caffe_pool(x, "max", floor=True)
    for number in (1, 4, 6):
        x = linear(x, state[f"classifier.{number}.weight"], state[f"classifier.{number}.bias"])
        x = relu(x) if number != 6 else x
    return x


def torchvision_state(rng, widths=(8, 12, 16, 12, 8, 32, 24), classes=10, dtype=np.float32):
    """Random weights of torchvision's alexnet, true widths (64, 192, 384, 256, 256, 4096, 4096)."""
    state, channels = {}, 3
    for number, filters, size in zip((0, 3, 6, 8, 10), widths, (11, 5, 3, 3, 3), strict=False):
        state[f"features.{number}.weight"] = he(rng, filters, channels, size, size)
        state[f"features.{number}.bias"] = rng.normal(size=filters) * 0.1
        channels = filters
    channels *= 36
    for number, outputs in zip((1, 4, 6), (*widths[5:], classes), strict=True):
        state[f"classifier.{number}.weight"] = he(rng, outputs, channels)
        state[f"classifier.{number}.bias"] = rng.normal(size=outputs) * 0.1
        channels = outputs
    return {name: value.astype(dtype) for name, value in state.items()}


def he(rng, *shape):
    return rng.normal(size=shape) * np.sqrt(2 / math.prod(shape[1:]))


def logits(model, images, device="cpu"):
    """The class scores of a model for the central crops of images (n, H, W, C) as they come from a file."""
    plan = model.plan(device, len(images))
    plan.feed(images)
    plan.forward(len(images), train=False, costs=False)
    return np.array(plan.get_output(model.network.output, len(images)))


def mutate(data: bytes, rng) -> bytes:
    """Change a few bytes: overwrite, cut out, put in, cut off, repeat; near the beginning more often."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(len(out) * rng.random() ** rng.choice([1, 4]))
        length = int(rng.integers(1, 9))
        kind = rng.choice(["byte", "bit", "out", "in", "off", "repeat"], p=[0.3, 0.3, 0.1, 0.1, 0.1, 0.1])
        if kind == "byte":
            out[at : at + length] = rng.bytes(length)
        elif kind == "bit" and out:
            out[min(at, len(out) - 1)] ^= 1 << int(rng.integers(8))
        elif kind == "out":
            del out[at : at + length]
        elif kind == "in":
            out[at:at] = rng.bytes(length)
        elif kind == "off":
            del out[at:]
        else:
            out[at:at] = out[at : at + 50]
    return bytes(out)
