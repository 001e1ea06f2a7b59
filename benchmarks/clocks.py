"""How long a call takes, and how long it must take at least on this hardware."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pyconvnet import devices

# ---------------------------------------------------------------- clocks


class WallClock:
    """Wall-clock time of a call on the host."""

    name = "wall"

    def __init__(self, seconds: float, calls: int):
        self.seconds, self.calls = seconds, calls

    def measure(self, call: Callable[[], Any]) -> tuple[list[float], float | None]:
        """Seconds of every timed call; and None: there is no separate time on the host."""
        call()
        times: list[float] = []
        stop = time.perf_counter() + self.seconds
        while len(times) < 3 or (len(times) < self.calls and time.perf_counter() < stop):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return times, None


class EventClock:
    """Time of a call on a GPU by CUDA events, with the L2 flushed before every call.

    The memory-set that flushes takes longer than the Python of a call, so that the kernel is queued before
    the GPU reaches the first event and the host's time stays outside. `host_us` shows the host's time per
    call, to see that. With ``flush=False`` calls follow each other as they do in a training run, and the time
    of a call includes the GPU's waiting for the host.
    """

    name = "cuda events"

    def __init__(self, device: devices.Device, seconds: float, calls: int, flush: bool = True):
        self.device, self.seconds, self.calls = device, seconds, calls
        self.cupy = device.xp
        runtime = self.cupy.cuda.runtime
        l2 = runtime.deviceGetAttribute(runtime.cudaDevAttrL2CacheSize, device.index)
        self.flush = device.empty((max(2**30, 4 * l2),), np.uint8) if flush else None

    def measure(self, call: Callable[[], Any]) -> tuple[list[float], float | None]:
        """Seconds of every timed call on the GPU; seconds the host needs for one call."""
        with self.device.activate():
            for _ in range(3):
                call()
            self.device.synchronize()
            times: list[float] = []
            host: list[float] = []
            stop = time.perf_counter() + self.seconds
            while len(times) < 10 or (len(times) < self.calls and time.perf_counter() < stop):
                pairs = []
                for _ in range(10):
                    first, last = self.cupy.cuda.Event(), self.cupy.cuda.Event()
                    if self.flush is not None:
                        self.flush.data.memset_async(0, self.flush.nbytes)
                    first.record()
                    start = time.perf_counter()
                    call()
                    host.append(time.perf_counter() - start)
                    last.record()
                    pairs.append((first, last))
                self.device.synchronize()
                times += [self.cupy.cuda.get_elapsed_time(a, b) * 1e-3 for a, b in pairs]
            return times, statistics.median(host)


def clock_of(device: devices.Device, seconds: float = 1.0, calls: int = 100) -> WallClock | EventClock:
    """The clock that suits a device."""
    return EventClock(device, seconds, calls) if device.kind == "cuda" else WallClock(seconds, calls)


def spread(times: list[float]) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile."""
    ordered = sorted(times)

    def at(q: float) -> float:
        return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]

    return statistics.median(ordered), at(0.2), at(0.8)


# ---------------------------------------------------------------- the hardware's limits

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


def limits(device: devices.Device) -> dict[str, Any]:
    """Measured float32 multiply-add rate (FLOP/s) and copy bandwidth (bytes/s); None where unknown."""
    if device.kind == "emulator":
        return {"fma_flops": None, "bandwidth": None, "source": "none: the emulator is no hardware"}
    if device.kind == "cpu":
        a = np.ones((768, 768), np.float32)
        source, target = np.ones(2**24, np.float32), np.empty(2**24, np.float32)
        clock = WallClock(0.3, 20)
        multiply = min(clock.measure(lambda: a @ a)[0])
        copy = min(clock.measure(lambda: np.copyto(target, source))[0])
        return {
            "fma_flops": 2.0 * 768**3 / multiply,
            "bandwidth": 2.0 * source.nbytes / copy,
            "source": "measured: NumPy's matrix product of 768 x 768, copy of 64 MiB",
        }
    return _cuda_limits(device)


def _copy_bandwidth(cupy: Any, clock: EventClock) -> float:
    source, target = cupy.ones(2**29, cupy.float32), cupy.empty(2**29, cupy.float32)
    times, _ = clock.measure(lambda: target.data.copy_from_device_async(source.data, source.nbytes))
    return 2.0 * source.nbytes / spread(times)[0]


def _cuda_limits(device: devices.Device) -> dict[str, Any]:
    cupy = device.xp
    clock = EventClock(device, 0.5, 30)
    with device.activate():
        bandwidth = _copy_bandwidth(cupy, clock)
        try:
            rounds = 4096
            runtime = cupy.cuda.runtime
            blocks = 16 * runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, device.index)
            out = cupy.empty(blocks * 256, cupy.float32)
            kernel = cupy.RawKernel(_FMA, "fma_rate")
            args = (out, np.float32(0.5), np.int32(rounds))
            seconds = spread(clock.measure(lambda: kernel((blocks,), (256,), args))[0])[0]
            return {
                "fma_flops": 2.0 * 16 * rounds * blocks * 256 / seconds,
                "bandwidth": bandwidth,
                "source": "measured: independent FMAs, copy of 2 GiB",
            }
        except Exception as error:  # CuPy compiles with NVRTC, which a machine may lack
            source = f"measured: copy of 2 GiB; no FMA rate: {error}"
            return {"fma_flops": None, "bandwidth": bandwidth, "source": source}


def limit_seconds(flops: float, nbytes: float, rates: dict[str, Any]) -> float | None:
    """The least time of a call; None where a needed rate is unknown."""
    if rates["bandwidth"] is None or (flops and rates["fma_flops"] is None):
        return None
    return max(flops / rates["fma_flops"] if flops else 0.0, nbytes / rates["bandwidth"])
