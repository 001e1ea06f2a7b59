"""AlexNet's layers with everything that follows them, forward: a block of ours beside the same of its peers.

python benchmarks/bench_block.py --device cuda:0 --batch 128 --json block.json

conv1 and conv2: bias, ReLU, response normalisation, maximum; conv5: bias, ReLU, maximum; fc6 and fc7:
bias, ReLU, dropout. (conv3 and conv4 end with the ReLU: the "fused" rows of ``bench_conv.py``.) Each block
takes the kernels that its ops choose by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from harness import Row, alexnet_convs, alexnet_linears, images, main

from pyconvnet import ops
from pyconvnet.common.precision import PRECISIONS

LRN = {"alpha": 1e-4, "beta": 0.75, "k": 2.0, "groups": 2}
DROP = 0.5


def _conv(s: SimpleNamespace, precision: str) -> Row:
    options = {"stride": s.stride, "pad": s.pad, "groups": s.groups}
    lrn = s.name != "conv5"

    def call(a: dict[str, Any], out: Any = None, workspace: Any = None, **kw: Any) -> Any:
        y, tail = (None, None) if out is None else (out[0], tuple(out[1:]))
        y = ops.conv2d(a["x"], a["w"], a["b"], activation="relu", **options, out=y, workspace=workspace, **kw)
        if lrn:
            return (y, *ops.lrn_max_pool2d(y, **LRN, out=tail))
        return (y, *ops.max_pool2d(y, 3, 2, out=tail))

    def runs(device: str) -> dict[str, str]:
        conv = ops.kernels("conv2d", s.x, s.w, **options, precision=precision, device=device)[0]
        if lrn:
            return {
                "conv2d": conv,
                "lrn_max_pool2d": ops.kernels("lrn_max_pool2d", s.y, groups=2, device=device)[0],
            }
        return {"conv2d": conv, "max_pool2d": ops.kernels("max_pool2d", s.y, 3, 2, device=device)[0]}

    n, p, q, k = s.y
    pooled = (n, (p - 3) // 2 + 1, (q - 3) // 2 + 1, k)
    return Row(
        name=s.name,
        op="conv2d, lrn_max_pool2d" if lrn else "conv2d, max_pool2d",
        part="block",
        inputs={"x": s.x, "w": s.w, "b": (k,)},
        call=call,
        flops=s.flops,
        workspace=True,
        peer=lambda t, a: t.conv_block(
            a["x"], a["w"], a["b"], s.stride, s.pad, s.groups, LRN if lrn else None, (3, 2)
        ),
        runs=runs,
        compare=lambda result: next(y for y in result if tuple(y.shape[1:]) == pooled[1:]),
        exact=images("x"),
        precision=precision,
        precise=True,
        half=("x", "w"),
    )


def _linear(s: SimpleNamespace, precision: str) -> Row:
    def call(a: dict[str, Any], out: Any = None, **kw: Any) -> Any:
        u = ops.linear(a["x"], a["w"], out=out, **kw)
        return ops.bias_relu_dropout(u, a["b"], DROP, seed=1, step=2, layer=3, out=u)

    def runs(device: str) -> dict[str, str]:
        return {
            "linear": ops.kernels("linear", s.x, s.w, precision=precision, device=device)[0],
            "bias_relu_dropout": ops.kernels("bias_relu_dropout", s.y, device=device)[0],
        }

    def exact(_: Row, arrays: dict[str, Any], device: Any) -> Any:
        return images("x", drop=DROP)(Undropped(), arrays, device)

    return Row(
        name=s.name,
        op="linear, bias_relu_dropout",
        part="block",
        inputs={"x": s.x, "w": s.w, "b": (s.w[0],)},
        call=call,
        flops=s.flops,
        workspace=True,
        peer=lambda t, a: t.linear_dropout(a["x"], a["w"], a["b"], DROP),
        runs=runs,
        exact=exact,
        precision=precision,
        precise=True,
        half=("x", "w"),
    )


class Undropped:
    """A block without its dropout: what is kept of it is each generator's own."""

    out = True

    def call(self, a: dict[str, Any]) -> Any:
        return ops.linear(a["x"], a["w"], a["b"], activation="relu")

    def compare(self, result: Any) -> Any:
        return result


def rows(batch: int, tiny: bool) -> Iterator[Row]:
    """conv1, conv2, conv5, fc6, fc7."""
    for precision in PRECISIONS:
        for s in alexnet_convs(batch, tiny):
            if s.name in ("conv1", "conv2", "conv5"):
                yield _conv(s, precision)
        for s in alexnet_linears(batch, tiny):
            if s.name != "fc8":
                yield _linear(s, precision)


if __name__ == "__main__":
    main("block", rows)
