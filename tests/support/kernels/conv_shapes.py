"""The shapes that the tests of convolutions and fully connected layers run: AlexNet's, and ragged ones."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from support import ROOT

Pad = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Conv:
    """One convolution: x (N, H, W, C), w (K, R, S, C/groups)."""

    name: str
    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    pad: Pad = ((0, 0), (0, 0))
    groups: int = 1

    @property
    def options(self) -> dict:
        """Keyword arguments of the convolution functions."""
        return {"stride": self.stride, "pad": self.pad, "groups": self.groups}

    @property
    def y(self) -> tuple[int, int, int, int]:
        """Shape of the output."""
        p, q = (
            (extent + sum(pad) - size) // stride + 1
            for extent, pad, size, stride in zip(self.x[1:3], self.pad, self.w[1:3], self.stride, strict=True)
        )
        return self.x[0], p, q, self.w[0]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Linear:
    """One fully connected layer: x (N, I), w (O, I)."""

    name: str
    n: int
    i: int
    o: int

    def __str__(self) -> str:
        return self.name


# ---------------------------------------------------------------- AlexNet (the paper, section 3.5)

_SAME1, _SAME2 = ((1, 1), (1, 1)), ((2, 2), (2, 2))


def _benchmark_shapes():
    """The layers' one list, benchmarks/shapes.py, under a name of its own."""
    path = ROOT / "benchmarks" / "shapes.py"
    spec = importlib.util.spec_from_file_location("benchmark_shapes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def alexnet_convs(batch: int) -> list[Conv]:
    """AlexNet's convolutions at true size."""
    convs = []
    for layer in _benchmark_shapes().alexnet_convs(batch):
        pad = layer.pad if isinstance(layer.pad, tuple) else ((layer.pad,) * 2,) * 2
        convs.append(Conv(layer.name, layer.x, layer.w, (layer.stride,) * 2, pad, layer.groups))
    return convs


def reduced_convs(tiny: bool = False) -> list[Conv]:
    """AlexNet's convolutions with all their channels, on one small image: the same edges, little work.

    `tiny` is for sanitized builds, some 30 times slower, and for kernels of which there are many: still a
    border, an inside and all channels.
    """
    # First layer: 40 and 24 overhang by 3 pixels like 224.
    extents = {"conv1": (40, 24), "conv2": (9, 5), "conv3": (7, 3), "conv4": (7, 3), "conv5": (7, 3)}
    size = "tiny" if tiny else "reduced"
    return [
        replace(conv, name=f"{conv.name}_{size}", x=(1, *(extents[conv.name][tiny],) * 2, conv.x[3]))
        for conv in alexnet_convs(1)
    ]


def reduced_linears() -> list[Linear]:
    """AlexNet's fully connected layers at an eighth of their widths (fc8 keeps its 1000 classes)."""
    layers = []
    for layer, n in zip(_benchmark_shapes().alexnet_linears(1), (8, 3, 8), strict=True):
        o, i = layer.w
        layers.append(Linear(f"{layer.name}_reduced", n, i // 8, o if o == 1000 else o // 8))
    return layers


# ---------------------------------------------------------------- ragged shapes

RAGGED_CONVS = [
    # The three routes from 224 to 55, on smaller images: overhang, exact crop, padding that is partly used.
    Conv("first_overhang", (2, 24, 24, 3), (20, 11, 11, 3), (4, 4), ((0, 3), (0, 3))),
    Conv("first_exact", (1, 27, 23, 3), (12, 11, 11, 3), (4, 4)),
    Conv("first_pad2", (2, 24, 28, 3), (8, 11, 11, 3), (4, 4), _SAME2),
    Conv("first_stride2", (1, 15, 16, 3), (20, 7, 5, 3), (2, 2), ((3, 2), (1, 3))),
    Conv("first_stride3", (3, 11, 13, 1), (4, 4, 7, 1), (3, 3), ((0, 1), (2, 0))),
    Conv("first_gray_wide", (1, 9, 9, 4), (132, 2, 2, 4), (4, 4)),
    Conv("first_odd_filters", (2, 19, 19, 3), (7, 5, 5, 3), (4, 4), _SAME2),
    # Channels divisible by 4.
    Conv("odd_extent", (1, 5, 7, 4), (4, 3, 3, 4), pad=_SAME1),
    Conv("rectangular", (2, 9, 11, 8), (12, 5, 3, 4), (2, 3), ((1, 2), (0, 4)), groups=2),
    Conv("rectangular_wide", (1, 6, 17, 12), (40, 1, 7, 12), (1, 2), ((0, 0), (5, 1))),
    Conv("stride_skips_taps", (2, 10, 9, 8), (8, 2, 2, 8), (3, 4), ((1, 0), (0, 2))),
    Conv("stride_beyond_filter", (3, 11, 11, 8), (8, 1, 1, 8), (3, 3)),
    Conv("stride_beyond_image", (2, 3, 3, 4), (8, 3, 3, 4), (7, 5), _SAME1),
    Conv("big_padding", (1, 4, 3, 8), (12, 3, 3, 8), pad=((4, 5), (7, 3))),
    Conv("padding_only_strided", (1, 3, 3, 8), (12, 2, 3, 8), (4, 2), ((6, 3), (5, 5))),
    Conv("filter_is_image", (5, 6, 5, 8), (20, 6, 5, 8)),
    Conv("many_groups", (2, 6, 6, 32), (48, 3, 3, 4), pad=_SAME1, groups=8),
    Conv("wide_filters", (1, 5, 5, 8), (260, 1, 1, 8)),
    Conv("many_channels", (1, 3, 3, 260), (8, 3, 3, 260), pad=_SAME1),
    Conv("cifar_conv2", (2, 16, 16, 32), (32, 5, 5, 32), pad=_SAME2),
    Conv("many_pixels", (3, 22, 23, 16), (16, 3, 3, 16), pad=_SAME1),
    # Channels not divisible by 4: the generic kernels.
    Conv("cifar_conv1", (2, 17, 16, 3), (32, 5, 5, 3), pad=_SAME2),
    Conv("one_by_one", (1, 1, 1, 1), (1, 1, 1, 1)),
    Conv("depthwise", (2, 7, 5, 6), (12, 3, 3, 1), (2, 1), _SAME1, groups=6),
    Conv("odd_groups", (1, 8, 7, 9), (15, 3, 2, 3), (1, 2), ((2, 0), (1, 1)), groups=3),
    Conv("odd_everything", (3, 9, 7, 5), (7, 4, 2, 5), (3, 2), ((3, 1), (0, 1))),
    Conv("odd_deep", (1, 12, 12, 37), (5, 5, 5, 37), pad=_SAME2),
    Conv("fast_in_odd_out", (2, 7, 7, 8), (7, 3, 3, 8), pad=_SAME1),
    Conv("odd_in_fast_out", (2, 7, 7, 7), (8, 3, 3, 7), pad=_SAME1),
]

# Channels and filters of a group divisible by 8, which the bfloat16 kernels move at a time.
RAGGED_OF_EIGHT = [
    Conv("eight_odd_extent", (1, 5, 7, 8), (8, 3, 3, 8), pad=_SAME1),
    Conv("eight_rectangular", (2, 9, 11, 16), (48, 5, 3, 8), (2, 3), ((1, 2), (0, 4)), groups=2),
    Conv("eight_rectangular_wide", (1, 6, 17, 24), (40, 1, 7, 24), (1, 2), ((0, 0), (5, 1))),
    Conv("eight_stride_beyond_image", (2, 3, 3, 8), (8, 3, 3, 8), (7, 5), _SAME1),
    Conv("eight_big_padding", (1, 4, 3, 8), (24, 3, 3, 8), pad=((4, 5), (7, 3))),
    Conv("eight_many_groups", (2, 6, 6, 64), (64, 3, 3, 8), pad=_SAME1, groups=8),
    Conv("eight_wide_filters", (1, 5, 5, 8), (264, 1, 1, 8)),
    Conv("eight_many_channels", (1, 3, 3, 264), (8, 3, 3, 264), pad=_SAME1),
    Conv("eight_deep", (1, 4, 3, 8), (128, 3, 3, 8), pad=_SAME1),
    Conv("eight_many_images", (70, 2, 3, 16), (24, 2, 2, 16), pad=((1, 0), (0, 1))),
    Conv("eight_many_pixels", (2, 19, 23, 16), (24, 2, 2, 16), pad=((0, 1), (1, 0))),
]

RAGGED_LINEARS = [
    Linear("single", 1, 1, 1),
    Linear("one_row", 1, 36, 20),
    Linear("odd", 7, 33, 19),
    Linear("ragged", 17, 68, 132),
    Linear("rows_and_more", 130, 40, 12),
    Linear("deep", 3, 2052, 8),
    Linear("deep_odd", 5, 1027, 3),
    Linear("long_batch", 1100, 12, 20),
    Linear("wide", 2, 8, 1036),
]
