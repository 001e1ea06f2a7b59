"""dgrad in TF32 on compute capability 9.0 (kernels/conv/hopper/dgrad.h): a pass turns and transposes filters,
then the forward kernel runs on dy; or filters are transposed on the way (dgrad_tf32.h).

``test_conv_splits.py`` and ``test_masked_dgrad.py`` run these rows on the shapes of every row, the shapes of
``test_conv_wgmma.py`` are theirs, too. Here is what they alone have: the pass, scratch memory that holds its
filters before the pieces, a mask of floats in bits, and that fully connected layers have no pass.
"""

import numpy as np
import pytest
from support.helpers import Scratch, assert_close, filled_with_nan, same_bits
from support.kernels.conv_problems import (
    compute,
    halo_rows,
    kernels,
    listed,
    problem,
    shape_of,
    shared_bytes,
    table,
)
from support.kernels.conv_shapes import Conv, alexnet_convs
from test_conv_precision import EPS_TF32, assert_gradient_rounds_fairly, rms
from test_conv_wgmma import (
    BACKWARD,
    CASES,
    NAMED,
    NASTY,
    ORDERS,
    SAME1,
    SEVERAL_BACKWARD,
    by_default,
    on_the_ring,
    rows,
)
from test_masked_dgrad import relu_output, through_relu

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops.conv import capability

OP, F32 = "conv2d_dgrad", np.float32
#: Filters and channels that end within a tile of the pass, and within 8 columns of a product; groups of both.
TURNED = [
    Conv("ends_within_tiles", (2, 5, 6, 72), (128, 3, 2, 36), pad=((1, 1), (1, 0)), groups=2),
    Conv("three_groups", (1, 4, 7, 60), (96, 2, 3, 20), pad=((0, 1), (2, 0)), groups=3),
    Conv("few_filters", (3, 6, 5, 44), (12, 3, 3, 44), pad=SAME1),
]
EVERY = [*CASES, *BACKWARD, SEVERAL_BACKWARD, *TURNED]


@pytest.fixture
def device(device):
    """The emulator and, where it is of 9.0, the GPU."""
    if capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    return device


def bytes_of_filters(case: Conv, kernel: str) -> int:
    """Bytes that the turned filters take, which are not where they are transposed on the way."""
    return 0 if "_transposing" in kernel else -(-4 * int(np.prod(case.w)) // 256) * 256


def backward(case: Conv, dev, kernel: str, mask: np.ndarray | None = None) -> np.ndarray:
    """Compute a case in scratch memory full of NaN, as much as was announced; compare with float64."""
    p, scratch = problem(case), Scratch(dev)
    given = None if mask is None else dev.asarray(mask)
    dx = compute(OP, case, dev, kernel, precision="tf32", mask=given, workspace=scratch)
    expected = p.dx if mask is None else through_relu(p.dx, mask)
    assert_close(dx, expected, p.terms[OP], eps=EPS_TF32)
    assert rms(dx - expected) <= EPS_TF32 * rms(expected)
    name, _, pieces = kernel.partition("/")
    shape = shape_of(case, "tf32").cut(int(pieces or 0))
    wanted, of_tiles = listed(OP, shape)[name], shared_bytes(OP, shape, name)
    assert scratch.requests == ([wanted] if wanted else [])
    count = (wanted - bytes_of_filters(case, kernel) - of_tiles) / p.dx.nbytes * 2  # of float64
    may_be_cut = not (pieces or of_tiles or halo_rows({name}))
    assert count == (int(pieces) if pieces not in ("", "1") else 0) or (may_be_cut and count >= 2)
    return dx


def turned(cases: list[Conv], pieces: int = 1) -> list:
    return rows(cases, OP, "tf32", pieces)


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel"), [*by_default(turned(EVERY[: -len(TURNED)])), *turned(TURNED)])
def test_dgrad(case, kernel, device, run_on):
    with run_on(device):
        backward(case, device, f"{kernel}/1", relu_output(case.x))
        if case is not SEVERAL_BACKWARD:
            backward(case, device, kernel)  # small as they are, most are cut into pieces


@pytest.mark.kernels
@pytest.mark.parametrize("pieces", [2, 3, 5])
@pytest.mark.parametrize(("case", "kernel"), turned([NAMED["as_conv2"]], pieces=5))
def test_pieces(case, kernel, pieces, device, run_on):
    """100 steps in pieces, which lie behind the filters; the mask comes when they are added."""
    with run_on(device):
        backward(case, device, f"{kernel}/{pieces}", relu_output(case.x))


@pytest.mark.kernels
@pytest.mark.parametrize(("order", "asynchronous"), [*NASTY, *(o for o in ORDERS[:2] if o not in NASTY)])
@pytest.mark.parametrize(
    ("case", "kernel", "pieces"),
    [
        pytest.param(*row.values, pieces, id=f"{row.id}-{pieces}")
        for pieces in (1, 3)
        for row in turned(TURNED[:1], pieces)
    ],
)
def test_every_order_gives_the_same_bits(case, kernel, pieces, order, asynchronous):
    dev, mask, name = devices.emulator(), relu_output(case.x), f"{kernel}/{pieces}"
    try:
        dev.ext.configure(order=order, async_=asynchronous, seed=5)
        with ops.on(dev):
            result = compute(OP, case, dev, name, precision="tf32", mask=mask)
            dev.ext.configure()
            plain = backward(case, dev, name, mask)
    finally:
        dev.ext.configure()
    assert same_bits(result, plain)


@pytest.mark.parametrize(("case", "kernel"), turned([BACKWARD[0]]))
def test_roundings(case, kernel, device, run_on):
    with run_on(device):
        assert_gradient_rounds_fairly("conv2d_dgrad", case, kernel, device, case.w, case.x)


@pytest.mark.parametrize(("case", "kernel"), turned(TURNED[1:2]))
def test_a_group_does_not_see_the_other(case, kernel, device, run_on):
    """Neither its dy nor its filters, on either side of the middle one of three groups."""
    p, filters, channels = problem(case), case.w[0] // 3, case.x[3] // 3
    for group in range(3):
        dy, w = p.dy.copy(), p.w.copy()
        dy[..., group * filters] = np.nan
        w[(group + 1) * filters - 1] = np.nan
        with run_on(device):
            arrays = (device.asarray(a) for a in (dy, w))
            out = filled_with_nan(device, case.x)
            dx = ops.conv2d_dgrad(*arrays, case.x, kernel=kernel, precision="tf32", out=out, **case.options)
        bad = np.isnan(device.to_numpy(dx)).any((0, 1, 2))
        own = np.arange(case.x[3]) // channels == group
        np.testing.assert_array_equal(bad, own)


# ---------------------------------------------------------------- what they take, and where they are chosen


def test_the_kernels_take_every_case():
    every = on_the_ring(table(OP))
    assert every
    for case in EVERY:
        found = on_the_ring(row.values[1] for row in turned([case]))
        left = case.stride != (1, 1) or (case.groups > 1 and case.w[0] // case.groups % 32 != 0)
        single = case.w[1:3] == (1, 1)  # which tiles of 384 rows do not take
        assert found == {name for name in every if not left and not (single and "wgmma384" in name)}


def test_limits():
    def taken(x, w, **options) -> bool:
        found = ops.kernels(OP, x, w, precision="tf32", device="emulator", **options)
        ring = on_the_ring(found)
        assert ring in (set(), on_the_ring(table(OP)))
        return bool(ring)

    x, w = (2, 40, 40, 12), (20, 3, 3, 12)
    assert taken(x, w)
    assert not taken(x, w, stride=2)
    assert not taken(x, w, stride=(1, 2))
    assert not taken((2, 40, 40, 10), (20, 3, 3, 10))  # 40 bytes
    assert not taken(x, (18, 3, 3, 12))
    for filters, whole in ((16, False), (32, True), (48, False), (64, True), (96, True)):
        assert taken((2, 9, 9, 8), (2 * filters, 3, 3, 4), groups=2) == whole
        assert taken((2, 9, 9, 8), (filters, 3, 3, 8))


def test_the_pass_counts():
    """Of one image of a pixel it is most of the time, at 21 bytes a cycle and multiprocessor."""
    case = Conv("fc6", (1, 1, 1, 9216), (4096, 1, 1, 9216))
    costs = dict(devices.emulator().ext.conv2d_dgrad_costs(shape_of(case, "tf32")))
    least = 128 * (2500 + 2 * 4 * 9216 * 4096 / 132 / 21)
    turning = {name for name in costs if "_wgmma" in name and "_transposing" not in name}
    assert turning
    assert all(least < costs[name] < 2 * least for name in turning)
    assert "_transposing" in min(costs, key=costs.__getitem__)


@pytest.mark.parametrize(("card", "wgmma"), [("80", False), ("90", True), ("100", False)])
def test_alexnet_runs_on_them(monkeypatch, card, wgmma):
    """Its convolutions, and its fully connected layers, whose filters no pass turns."""
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", card)
    for batch in (128, 256, 1024):
        convs = [case for case in alexnet_convs(batch) if case.name != "conv1"]
        chosen = {case.name: kernels(OP, case, precision="tf32")[0] for case in convs}
        assert [("_wgmma" in name) for name in chosen.values()] == [wgmma] * 4, chosen
    for i, o in ((9216, 4096), (4096, 4096), (4096, 1000)):
        names = ops.kernels("linear_dgrad", (128, i), (o, i), precision="tf32", device="emulator")
        assert ("_wgmma_transposing" if wgmma else "_mma") in names[0]


@pytest.mark.parametrize("precision", ["fp32", "fp32x3", "bf16"])
def test_other_precisions_do_not_take_them(precision):
    every = {name for name in table(OP) if "_wgmma" in name}
    for case in EVERY:
        assert every.isdisjoint(kernels(OP, case, precision=precision))
