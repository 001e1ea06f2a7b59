"""How long calls take, turn about, and how long they must take at least on this hardware."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyconvnet.common import devices
from pyconvnet.common.precision import PRECISIONS

# ---------------------------------------------------------------- clocks

Times = tuple[list[float], float | None]  # seconds of every timed call; seconds the host needs for one


class _Clock:
    """Times several calls turn about: a round is one call of each, and every round begins with another."""

    name = ""
    least = 3  # rounds, at least
    warm = 1  # calls of each before the first round

    def __init__(self, seconds: float, calls: int):
        self.seconds, self.calls = seconds, calls

    def round(self, calls: Sequence[Callable[[], Any]]) -> list[tuple[float, float | None]]:
        """One call of each: its seconds, and the host's."""
        raise NotImplementedError

    def wait(self) -> None:
        """Until everything issued has ended."""

    def contest(self, calls: Sequence[Callable[[], Any]]) -> list[Times]:
        """The times of each call, taken turn about, so that what the machine does meanwhile (clocks, heat,
        other work) meets all of them alike.

        `seconds` is the time a call gets, those of the others not counted; one that takes twenty times as
        long as the fastest stops after the least number of rounds.
        """
        for call in calls:
            for _ in range(self.warm):
                call()
        self.wait()
        times: list[list[float]] = [[] for _ in calls]
        hosts: list[list[float]] = [[] for _ in calls]
        running = list(range(len(calls)))
        stop = time.perf_counter() + self.seconds * len(calls)
        rounds = 0
        while running and (rounds < self.least or (rounds < self.calls and time.perf_counter() < stop)):
            turn = rounds % len(running)
            order = running[turn:] + running[:turn]
            for which, (seconds, host) in zip(order, self.round([calls[i] for i in order]), strict=True):
                times[which].append(seconds)
                if host is not None:
                    hosts[which].append(host)
            rounds += 1
            if rounds == self.least:
                fastest = min(statistics.median(t) for t in times)
                running = [i for i in running if statistics.median(times[i]) <= 20 * fastest]
        return [(t, statistics.median(h) if h else None) for t, h in zip(times, hosts, strict=True)]

    def measure(self, call: Callable[[], Any]) -> Times:
        """The times of one call."""
        return self.contest([call])[0]


class WallClock(_Clock):
    """Wall-clock time of a call on the host; there is no separate time of the host."""

    name = "wall"

    def round(self, calls: Sequence[Callable[[], Any]]) -> list[tuple[float, float | None]]:
        result: list[tuple[float, float | None]] = []
        for call in calls:
            start = time.perf_counter()
            call()
            result.append((time.perf_counter() - start, None))
        return result


FLUSH = 2**30  # bytes that the memory-set writes at least
TINY = 2**20  # in place of extents of that order, where a script is tried out


class EventClock(_Clock):
    """Time of a call on a GPU by CUDA events, with the L2 flushed before every call.

    The memory-set that flushes takes longer than the Python of a call, so that the kernel is queued before
    the GPU reaches the first event and the host's time stays outside. `host_us` shows the host's time per
    call, to see that. With ``flush=0`` calls follow each other as they do in a training run, and a call's
    time includes the GPU's waiting for the host.
    """

    name = "cuda events"
    least = 7
    warm = 3

    def __init__(self, device: devices.Device, seconds: float, calls: int, flush: int = FLUSH):
        super().__init__(seconds, calls)
        self.device, self.cupy = device, device.xp
        runtime = self.cupy.cuda.runtime
        l2 = runtime.deviceGetAttribute(runtime.cudaDevAttrL2CacheSize, device.index)
        self.flush = device.empty((max(flush, 4 * l2),), np.uint8) if flush else None

    def contest(self, calls: Sequence[Callable[[], Any]]) -> list[Times]:
        with self.device.activate():
            return super().contest(calls)

    def wait(self) -> None:
        self.device.synchronize()

    def round(self, calls: Sequence[Callable[[], Any]]) -> list[tuple[float, float | None]]:
        pairs, hosts = [], []
        for call in calls:
            first, last = self.cupy.cuda.Event(), self.cupy.cuda.Event()
            if self.flush is not None:
                self.flush.data.memset_async(0, self.flush.nbytes)
            first.record()
            start = time.perf_counter()
            call()
            hosts.append(time.perf_counter() - start)
            last.record()
            pairs.append((first, last))
        self.device.synchronize()
        seconds = [self.cupy.cuda.get_elapsed_time(a, b) * 1e-3 for a, b in pairs]
        return list(zip(seconds, hosts, strict=True))


def clock_of(
    device: devices.Device, seconds: float = 1.0, calls: int = 100, tiny: bool = False
) -> WallClock | EventClock:
    """The clock that suits a device; `tiny`: to try it out, without the long memory-set."""
    if device.kind != "cuda":
        return WallClock(seconds, calls)
    return EventClock(device, seconds, calls, TINY if tiny else FLUSH)


def spread(times: list[float]) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile."""
    ordered = sorted(times)

    def at(q: float) -> float:
        return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]

    return statistics.median(ordered), at(0.2), at(0.8)


# ---------------------------------------------------------------- the hardware's limits

# Dense FLOP/s by data sheet, for cards on which nothing can be measured: marked as such in the results.
_DATA_SHEETS = {
    "H200": {"fp32": 67e12, "tf32": 494.5e12, "bf16": 989e12},
    "H100": {"fp32": 67e12, "tf32": 494.5e12, "bf16": 989e12},
    "A100": {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
}

_FMA = r"""
extern "C" __global__ void fma_rate(float* out, float a, int rounds) {
  float v[16];
  for (int i = 0; i < 16; ++i) v[i] = threadIdx.x + i;
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = fmaf(v[i], a, 1.0f);
  }
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += v[i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""


def no_limits(source: str = "not measured") -> dict[str, Any]:
    """Limits of which none is known."""
    return {"bandwidth": None, "flops": dict.fromkeys(PRECISIONS), "source": {"all": source}}


def limits(device: devices.Device, torch: Any = None, tiny: bool = False) -> dict[str, Any]:
    """Rates of this machine: copy bandwidth (bytes/s) and multiply-adds by precision (FLOP/s).

    `torch` (the module, None without it) multiplies the matrices whose rate is the limit of TF32 and bf16;
    "source" says how each figure came about. None: unknown. `tiny`: on a GPU small arrays, to try it out.
    """
    if device.kind == "emulator":
        return no_limits("none: the emulator is no hardware")
    if device.kind == "cpu":
        a = np.ones((768, 768), np.float32)
        source, target = np.ones(2**24, np.float32), np.empty(2**24, np.float32)
        clock = WallClock(0.3, 20)
        rate = 2.0 * 768**3 / min(clock.measure(lambda: a @ a)[0])
        copy = min(clock.measure(lambda: np.copyto(target, source))[0])
        return {
            "bandwidth": 2.0 * source.nbytes / copy,
            "flops": dict.fromkeys(PRECISIONS, rate),
            "source": {
                "bandwidth": "measured: copy of 64 MiB",
                "all precisions": "measured: NumPy's float32 product of 768 x 768, which serves them all",
            },
        }
    return _cuda_limits(device, torch, tiny)


def _copy_bandwidth(cupy: Any, clock: EventClock, count: int) -> float:
    source, target = cupy.ones(count, cupy.float32), cupy.empty(count, cupy.float32)
    times, _ = clock.measure(lambda: target.data.copy_from_device_async(source.data, source.nbytes))
    return 2.0 * source.nbytes / spread(times)[0]


def _fma_rate(device: devices.Device, clock: EventClock) -> float:
    cupy, rounds = device.xp, 4096
    runtime = cupy.cuda.runtime
    blocks = 16 * runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, device.index)
    out = cupy.empty(blocks * 256, cupy.float32)
    kernel = cupy.RawKernel(_FMA, "fma_rate")
    args = (out, np.float32(0.5), np.int32(rounds))
    seconds = spread(clock.measure(lambda: kernel((blocks,), (256,), args))[0])[0]
    return 2.0 * 16 * rounds * blocks * 256 / seconds


def product_rate(torch: Any, where: str, dtype: str, clock: _Clock, extent: int = 8192) -> float:
    """FLOP/s of a square matrix product of random numbers through PyTorch (on a GPU: cuBLAS)."""
    a, b = (torch.randn(extent, extent, device=where).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(a)
    return 2.0 * extent**3 / spread(clock.measure(lambda: torch.mm(a, b, out=out))[0])[0]


def _cuda_limits(device: devices.Device, torch: Any, tiny: bool) -> dict[str, Any]:
    clock = clock_of(device, 0.0 if tiny else 0.3, 20, tiny)
    count, extent = (TINY, 256) if tiny else (2**29, 8192)
    with device.activate():
        result = no_limits()
        flops = result["flops"]
        source = {"bandwidth": f"measured: copy of {count >> 18} MiB, read and written"}
        result |= {"bandwidth": _copy_bandwidth(device.xp, clock, count), "source": source}
        try:
            flops["fp32"] = _fma_rate(device, clock)
            source["fp32"] = "measured: independent fused multiply-adds"
        except Exception as error:  # CuPy compiles with NVRTC, which a machine may lack
            source["fp32"] = f"not measured: {error}"
        if torch is not None:
            where = f"cuda:{device.index}"
            matmul = torch.backends.cuda.matmul
            for precision, dtype in (("tf32", "float32"), ("bf16", "bfloat16")):
                before, matmul.allow_tf32 = matmul.allow_tf32, precision == "tf32"
                try:
                    flops[precision] = product_rate(torch, where, dtype, clock, extent)
                    source[precision] = f"measured: cuBLAS's product of {extent} x {extent} random numbers"
                except Exception as error:
                    source[precision] = f"not measured: {error}"
                finally:
                    matmul.allow_tf32 = before
    return fill_from_data_sheet(
        result, device.xp.cuda.runtime.getDeviceProperties(device.index)["name"].decode()
    )


def fill_from_data_sheet(result: dict[str, Any], card: str) -> dict[str, Any]:
    """The rates that could not be measured, from the card's data sheet where it is known."""
    flops, source = result["flops"], result["source"]
    sheet = next((rates for name, rates in _DATA_SHEETS.items() if name in card), {})
    for precision, rate in sheet.items():
        if flops[precision] is None:
            flops[precision] = rate
            source[precision] = f"DATA SHEET of {card}, not measured"
    if flops["tf32"] is not None:
        flops["fp32x3"] = flops["tf32"] / 3
        source["fp32x3"] = "a third of tf32's"
    return result


def limit_seconds(
    flops: float, nbytes: float, rates: dict[str, Any], precision: str = "fp32"
) -> float | None:
    """The least time of a call; None where a needed rate is unknown."""
    rate = rates["flops"][precision]
    if rates["bandwidth"] is None or (flops and rate is None):
        return None
    return max(flops / rate if flops else 0.0, nbytes / rates["bandwidth"])
