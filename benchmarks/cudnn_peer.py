"""cuDNN through its own frontend (``nvidia-cudnn-frontend``), every plan of every heuristic tried.

A graph says what is computed; cuDNN answers with a list of plans (an engine and its knobs), ranked by its
heuristics. Here each plan that can be built becomes a contender: its result is compared with float64, it is
timed, and the fastest that is right counts. Plans that round float32 operands are left out of float32 rows by
their own notes, and by their error where the notes are silent.

The frontend is no requirement: :func:`find` says why it is missing. The API is that of its releases 1.x. What
needs no GPU (dimensions, strides, which graph is built, which plans race) is tested with a stand-in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from peers import NotOffered, Work

# Plans may ask for as much scratch memory as this; more is no fair exchange for a little time.
WORKSPACE_LIMIT = 2**32


def find(torch: Any, device: Any) -> tuple[Cudnn | None, str | None]:
    """The peer on a CUDA device, or (None, the reason why not)."""
    if device.kind != "cuda":
        return None, "cuDNN needs a CUDA device"
    if torch is None:
        return None, "cuDNN's peer keeps its tensors in PyTorch, which is missing"
    try:
        import cudnn

        return Cudnn(cudnn, torch), None
    except Exception as error:  # without the library the import or the handle fails, each in its own way
        return None, f"nvidia-cudnn-frontend: {type(error).__name__}: {error}"


# ---------------------------------------------------------------- layouts


def dims_strides(shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """cuDNN's N, C, H, W dimensions of a dense N, H, W, C array (also K, R, S, C filters), and its strides.

    A vector of C is a bias: 1, C, 1, 1.
    """
    if len(shape) == 1:
        (c,) = shape
        return [1, c, 1, 1], [c, 1, c, c]
    n, h, w, c = shape
    return [n, c, h, w], [h * w * c, 1, w * c, c]


def both_sides(pad: Any) -> tuple[list[int], list[int]]:
    """Our padding as cuDNN's: (top, left) before, (bottom, right) after."""
    pad = (pad, pad) if isinstance(pad, int) else pad
    (top, bottom), (left, right) = [(p, p) if isinstance(p, int) else p for p in pad]
    return [top, left], [bottom, right]


# ---------------------------------------------------------------- graphs


class Cudnn:
    """The operations that cuDNN offers, as contenders: a :class:`Work` for each plan."""

    label = "cuDNN"

    def __init__(self, cudnn: Any, torch: Any, handle: Any = None, seconds: float = 6.0):
        self.cudnn, self.torch, self.seconds = cudnn, torch, seconds
        self.handle = cudnn.create_handle() if handle is None else handle
        self.precision = "fp32"
        self.name = f"cuDNN {cudnn.backend_version_string()}, frontend {cudnn.__version__}"
        self.tried = ""

    def __getattr__(self, op: str) -> Any:
        raise NotOffered(f"cuDNN's graphs offer no {op} here")

    def use(self, precision: str) -> None:
        """What the next rows multiply in."""
        self.precision = precision

    def tensors(self, arrays: Any) -> Any:
        """The tensors come from PyTorch."""
        raise NotOffered("tensors are made by the PyTorch peer")

    def _graph(self) -> Any:
        kind = self.cudnn.data_type
        io = kind.BFLOAT16 if self.precision == "bf16" else kind.FLOAT
        return self.cudnn.pygraph(
            io_data_type=io,
            intermediate_data_type=kind.FLOAT,
            compute_data_type=kind.FLOAT,
            handle=self.handle,
        )

    def _tensor(self, graph: Any, name: str, shape: Sequence[int]) -> Any:
        dims, strides = dims_strides(shape)
        return graph.tensor(name=name, dim=dims, stride=strides)

    def _geometry(self, stride: Any, pad: Any) -> dict[str, Any]:
        before, after = both_sides(pad)
        stride = [stride, stride] if isinstance(stride, int) else list(stride)
        return {"pre_padding": before, "post_padding": after, "stride": stride, "dilation": [1, 1]}

    def fprop(
        self, x: Sequence[int], w: Sequence[int], y: Sequence[int], stride: Any, pad: Any, epilogue: bool
    ) -> tuple[Any, dict[str, Any]]:
        """Graph and tensors of a convolution, with bias and ReLU behind it if `epilogue`."""
        graph = self._graph()
        ends = {"x": self._tensor(graph, "x", x), "w": self._tensor(graph, "w", w)}
        out = graph.conv_fprop(image=ends["x"], weight=ends["w"], **self._geometry(stride, pad))
        if epilogue:
            ends["b"] = self._tensor(graph, "b", w[:1])
            out = graph.relu(input=graph.bias(input=out, bias=ends["b"]))
        return graph, ends | {"out": self._result(out, y)}

    def dgrad(
        self, dy: Sequence[int], w: Sequence[int], x: Sequence[int], stride: Any, pad: Any
    ) -> tuple[Any, dict[str, Any]]:
        graph = self._graph()
        ends = {"dy": self._tensor(graph, "dy", dy), "w": self._tensor(graph, "w", w)}
        out = graph.conv_dgrad(loss=ends["dy"], filter=ends["w"], **self._geometry(stride, pad))
        return graph, ends | {"out": self._result(out, x)}

    def wgrad(
        self, dy: Sequence[int], x: Sequence[int], w: Sequence[int], stride: Any, pad: Any
    ) -> tuple[Any, dict[str, Any]]:
        graph = self._graph()
        ends = {"dy": self._tensor(graph, "dy", dy), "x": self._tensor(graph, "x", x)}
        out = graph.conv_wgrad(image=ends["x"], loss=ends["dy"], **self._geometry(stride, pad))
        return graph, ends | {"out": self._result(out, w)}

    @staticmethod
    def _result(out: Any, shape: Sequence[int]) -> Any:
        dims, strides = dims_strides(shape)
        return out.set_output(True).set_dim(dims).set_stride(strides)

    # -- plans

    def _refused_notes(self) -> list[Any]:
        """Notes of engines that compute in less than the row's precision."""
        note = self.cudnn.numerical_note
        refused = [note.DOWN_CONVERT_INPUTS]
        return [*refused, note.TENSOR_CORE] if self.precision == "fp32" else refused

    def plans(self, graph: Any) -> list[tuple[int, str]]:
        """Index and name of every plan that could be built, within the time a row may take."""
        cudnn = self.cudnn
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.B, cudnn.heur_mode.FALLBACK])
        graph.deselect_numeric_notes(self._refused_notes())
        graph.deselect_workspace_greater_than(WORKSPACE_LIMIT)
        graph.check_support()
        stop, count, built, seen = time.perf_counter() + self.seconds, 0, [], set()
        total = graph.get_execution_plan_count()
        for index in range(total):
            if built and time.perf_counter() > stop:
                break
            count += 1
            try:
                graph.build_plan_at_index(index)
                name = graph.get_plan_name_at_index(index)
            except Exception:  # an engine that does not take this problem, or that a note excludes
                continue
            if name not in seen:  # the heuristics overlap
                seen.add(name)
                built.append((index, name))
        self.tried = f"{count} of {total} plans tried, {len(built)} built"
        return built

    def _works(
        self,
        graph: Any,
        ends: dict[str, Any],
        feeds: Sequence[dict[str, Any]],
        join: Callable[[Any], Any],
        label: str,
    ) -> list[Work]:
        """A contender for each plan; a call runs it once for every feed, and returns the outputs."""
        packs = [{ends[name]: tensor for name, tensor in feed.items()} for feed in feeds]
        outs = [feed["out"] for feed in feeds]
        works = []
        for index, name in self.plans(graph):
            size = max(1, graph.get_workspace_size_plan_at_index(index))
            space = self.torch.empty(size, dtype=self.torch.uint8, device=outs[0].device)

            def run(index: int = index, space: Any = space) -> Any:
                for pack in packs:
                    graph.execute_plan_at_index(pack, space, index, handle=self.handle)
                return outs

            works.append(Work(run, join, label, kernel=name, heat=label))
        if not works:
            raise NotOffered(f"cuDNN has no plan: {self.tried}")
        return works

    def _contest(
        self,
        groups: int,
        make: Callable[[int], tuple[Any, dict[str, Any]]],
        feed: Callable[[int], list[dict[str, Any]]],
        join: Callable[[Any], Any],
    ) -> list[Work]:
        """As one grouped call and, with groups, as separate convolutions.

        `make` gets how many calls share the work, `feed` the same and returns their tensors.
        """
        stream = self.torch.cuda.current_stream().cuda_stream
        self.cudnn.set_stream(handle=self.handle, stream=stream)
        works: list[Work] = []
        reasons = []
        for parts in {1, groups}:
            label = self.label if parts == 1 else f"{self.label}, groups apart"
            try:
                graph, ends = make(parts)
                works += self._works(graph, ends, feed(parts), join, label)
            except Exception as error:
                reasons.append(f"{label}: {type(error).__name__}: {error}")
        if not works:
            raise NotOffered("; ".join(reasons))
        return works

    # -- operations, as in peers.Torch

    def conv2d(self, x, w, b=None, stride=1, pad=0, groups=1, activation=None) -> list[Work]:
        if (b is None) != (activation is None):
            raise NotOffered("cuDNN is asked for a convolution alone, or with bias and ReLU")
        before, after = both_sides(pad)
        step = (stride, stride) if isinstance(stride, int) else stride
        p, q = (
            (size + a + z - f) // s + 1
            for size, a, z, f, s in zip(x.shape[1:3], before, after, w.shape[1:3], step, strict=True)
        )

        def feed(parts: int) -> list[dict[str, Any]]:
            out = x.new_empty((x.shape[0], p, q, w.shape[0] // parts))
            cut = zip(x.chunk(parts, 3), w.chunk(parts, 0), strict=True)
            feeds = [{"x": a.contiguous(), "w": f, "out": out.clone()} for a, f in cut]
            if b is not None:
                for one, bias in zip(feeds, b.to(x.dtype).chunk(parts, 0), strict=True):
                    one["b"] = bias
            return feeds

        def make(parts: int) -> tuple[Any, dict[str, Any]]:
            n, h, wd, c = x.shape
            k = w.shape[0] // parts
            shapes = (n, h, wd, c // parts), (k, *w.shape[1:]), (n, p, q, k)
            return self.fprop(*shapes, stride, pad, b is not None)

        return self._contest(groups, make, feed, lambda outs: self.torch.cat(outs, 3))

    def conv2d_dgrad(self, dy, w, x_shape, stride=1, pad=0, groups=1) -> list[Work]:
        n, h, wd, c = x_shape

        def feed(parts: int) -> list[dict[str, Any]]:
            cut = zip(dy.chunk(parts, 3), w.chunk(parts, 0), strict=True)
            return [
                {"dy": d.contiguous(), "w": f, "out": dy.new_empty((n, h, wd, c // parts))} for d, f in cut
            ]

        def make(parts: int) -> tuple[Any, dict[str, Any]]:
            shapes = (*dy.shape[:3], dy.shape[3] // parts), (w.shape[0] // parts, *w.shape[1:])
            return self.dgrad(*shapes, (n, h, wd, c // parts), stride, pad)

        return self._contest(groups, make, feed, lambda outs: self.torch.cat(outs, 3))

    def conv2d_wgrad(self, dy, x, w_shape, stride=1, pad=0, groups=1) -> list[Work]:
        k, *rest = w_shape

        def feed(parts: int) -> list[dict[str, Any]]:
            cut = zip(dy.chunk(parts, 3), x.chunk(parts, 3), strict=True)
            return [
                {"dy": d.contiguous(), "x": a.contiguous(), "out": dy.new_empty((k // parts, *rest))}
                for d, a in cut
            ]

        def make(parts: int) -> tuple[Any, dict[str, Any]]:
            shapes = (*dy.shape[:3], dy.shape[3] // parts), (*x.shape[:3], x.shape[3] // parts)
            return self.wgrad(*shapes, (k // parts, *rest), stride, pad)

        return self._contest(groups, make, feed, lambda outs: self.torch.cat(outs, 0))
