"""wgrad in TF32 on compute capability 9.0 (kernels/conv/hopper/weights_tf32.h): x passes through registers,
dy is transposed in shared memory.

``test_conv_precision.py``, ``test_conv_splits.py`` and ``test_bias_gradient.py`` run these rows on the
shapes of every row, the shapes of ``test_conv_wgmma.py`` are theirs, too. Here is what they alone have: two
orders of pixels along the reduction, three warps that add up db, reductions that end within a step's halves.
"""

import numpy as np
import pytest
from support.helpers import Scratch, assert_close, filled_with_nan, same_bits
from support.kernels.conv_problems import PLAIN, compute, kernels, problem, slow, table
from support.kernels.conv_shapes import Conv, alexnet_convs
from test_conv_bf16 import BF16, F32
from test_conv_precision import EPS_TF32, assert_gradient_rounds_fairly, rms
from test_conv_wgmma import (
    CASES,
    GRADIENT,
    NAMED,
    NASTY,
    ORDERS,
    SAME1,
    SEVERAL_GRADIENT,
    by_default,
    rows,
)

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import reference
from pyconvnet.ops.conv import capability

OP = "conv2d_wgrad"
#: Both kinds of blocks, filters and weights that end within 32 and 4, reductions of 3 to 72 pixels.
ACROSS = [
    Conv("narrow_blocks", (1, 5, 7, 96), (56, 3, 2, 48), pad=((1, 1), (0, 1)), groups=2),
    Conv("wide_blocks_of_32", (2, 4, 5, 96), (132, 2, 3, 96), pad=((0, 1), (2, 0))),
    Conv("three_pixels", (3, 1, 1, 100), (36, 1, 1, 100)),
    Conv("half_a_step", (16, 1, 1, 36), (260, 1, 1, 36)),
    Conv("a_step_and_one", (33, 1, 1, 132), (40, 1, 1, 132)),
    Conv("three_groups", (2, 6, 6, 48), (60, 3, 3, 16), pad=SAME1, groups=3),
    Conv("groups_of_36", (2, 5, 7, 108), (132, 1, 1, 36), groups=3),
    Conv("unmet_pixels", (2, 8, 9, 32), (36, 2, 2, 32), (3, 4)),
]
#: 135 tiles of 128 filters: some of the 132 blocks take a second one, and the rings go on where they are.
SEVERAL = Conv("several_short_tiles", (40, 1, 1, 36), (17160, 1, 1, 36))
EVERY = [*CASES, *GRADIENT, SEVERAL_GRADIENT, SEVERAL, *ACROSS]


@pytest.fixture
def device(device):
    """The emulator and, where it is of 9.0, the GPU."""
    if capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    return device


def weights(cases: list[Conv]) -> list:
    return rows(cases, OP, "tf32")


def gradient(case: Conv, dev, kernel: str, biased: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute a case's weight gradient, with the bias's or not, and compare with float64."""
    p = problem(case)
    db = filled_with_nan(dev, (case.w[0],)) if biased else None
    dw = compute(OP, case, dev, kernel, precision="tf32", **({"bias_grad": db} if biased else {}))
    assert_close(dw, p.dw, p.terms[OP], eps=EPS_TF32)
    assert rms(dw - p.dw) <= EPS_TF32 * rms(p.dw)
    if not biased:
        return dw, None
    db, expected = dev.to_numpy(db), p.dy.astype(np.float64).sum((0, 1, 2))
    assert_close(db, expected, p.terms[OP], eps=EPS_TF32)
    return dw, db


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel"), [*by_default(weights(EVERY[: -len(ACROSS)])), *weights(ACROSS)])
def test_wgrad(case, kernel, device, run_on):
    with run_on(device):
        gradient(case, device, f"{kernel}/1", biased=True)
        if case is not SEVERAL_GRADIENT:
            gradient(case, device, kernel)  # small as they are, most are cut into pieces


@pytest.mark.kernels
@pytest.mark.parametrize("pieces", [2, 3])
@pytest.mark.parametrize(("case", "kernel"), weights([GRADIENT[1]]))
def test_pieces(case, kernel, pieces, device, run_on):
    """Pieces of dw, and behind each its piece of db."""
    with run_on(device):
        gradient(case, device, f"{kernel}/{pieces}", biased=True)


def with_orders() -> list:
    """Every order on a small case; the nasty ones where both operands' rings turn round, and across tiles."""
    some = NASTY if PLAIN else NASTY[2:]
    found = [
        pytest.param(*row.values, *order, id="-".join((row.id, *order)))
        for case, orders in (
            (ACROSS[0], ORDERS if PLAIN else NASTY),
            (GRADIENT[1], some),
            (SEVERAL, NASTY[2:]),
        )
        for row in weights([case])
        for order in orders
    ]
    return slow(found, unless=lambda case, kernel, *_: case is not SEVERAL or kernel.endswith("128"))


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel", "order", "asynchronous"), with_orders())
def test_every_order_gives_the_same_bits(case, kernel, order, asynchronous):
    dev, name = devices.emulator(), f"{kernel}/1"
    try:
        dev.ext.configure(order=order, async_=asynchronous, seed=5)
        with ops.on(dev):
            found = gradient(case, dev, name, biased=True)
            dev.ext.configure()
            plain = gradient(case, dev, name, biased=True)
    finally:
        dev.ext.configure()
    assert all(map(same_bits, found, plain))


def cut(cases: list[Conv]) -> list:
    """Rows of both element types in one piece, and in as many as they have steps, at most three."""
    return [
        pytest.param(*row.values, precision, pieces, id=f"{row.id}-{pieces}")
        for precision, step in (("tf32", 32), ("bf16", 64))
        for row in rows(cases, OP, precision)
        for pieces in (1, 2, 3)
        if pieces <= -(-problem(row.values[0]).terms[OP] // step)
    ]


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("case", "kernel", "precision", "pieces"),
    cut([ACROSS[0], ACROSS[5], ACROSS[6], GRADIENT[0], GRADIENT[1]]),
)
def test_integers_are_exact(case, kernel, precision, pieces, device, run_on):
    """Each number of dw and db, in exactly the scratch memory that is wanted; what lies beside db stays.

    Of one tile of weights and of several, which have the sums of dy as well; filters that end within a tile,
    in groups, whose sums lie one behind the other.
    """
    rng, k = np.random.default_rng(7), case.w[0]
    dy, x = (rng.integers(-9, 10, shape) for shape in (case.y, case.x))
    scratch = Scratch(device)
    with run_on(device):
        beside = filled_with_nan(device, (k + 2,))
        arrays = (device.asarray(a.astype(F32 if precision == "tf32" else BF16)) for a in (dy, x))
        dw = ops.conv2d_wgrad(
            *arrays, case.w, kernel=f"{kernel}/{pieces}", precision=precision, bias_grad=beside[1 : k + 1],
            workspace=scratch, **case.options,
        )  # fmt: skip
    exact = reference.conv2d_wgrad(dy.astype(np.float64), x.astype(np.float64), case.w, **case.options)
    np.testing.assert_array_equal(device.to_numpy(dw), exact)
    beside = device.to_numpy(beside)
    np.testing.assert_array_equal(beside[1:-1], dy.sum((0, 1, 2)))
    assert np.isnan(beside[[0, -1]]).all()
    assert scratch.requests == ([] if pieces == 1 else [4 * pieces * (exact.size + k)])


@pytest.mark.parametrize(("case", "kernel"), weights([NAMED["as_conv2"]]))
def test_roundings(case, kernel, device, run_on):
    with run_on(device):
        assert_gradient_rounds_fairly("conv2d_wgrad", case, kernel, device, case.x, case.w)


@pytest.mark.parametrize(("case", "kernel"), weights(ACROSS[5:7]))
def test_a_group_does_not_see_the_other(case, kernel, device, run_on):
    """Neither its x nor its dy, on either side of the middle one of three groups."""
    p, filters, channels = problem(case), case.w[0] // 3, case.x[3] // 3
    for group in range(3):
        x, dy = p.x.copy(), p.dy.copy()
        others = [g for g in range(3) if g != group]
        for other in others:
            x[..., other * channels : (other + 1) * channels] = np.nan
            dy[..., other * filters : (other + 1) * filters] = np.nan
        with run_on(device):
            arrays = (device.asarray(a) for a in (dy, x))
            dw = ops.conv2d_wgrad(*arrays, case.w, kernel=kernel, precision="tf32", **case.options)
            dw = device.to_numpy(dw)
        own = slice(group * filters, (group + 1) * filters)
        assert_close(dw[own], p.dw[own], p.terms[OP], eps=EPS_TF32)
        assert all(np.isnan(dw[other * filters : (other + 1) * filters]).any() for other in others)


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(("case", "kernel"), weights([ACROSS[6]]))
def test_what_is_not_finite_stays_where_it_is(case, kernel, pieces, device, run_on):
    """In its filters and channels, though blocks of 32 of both reach into the next group."""
    p = problem(case)
    x, dy = p.x.copy(), p.dy.copy()
    channels, filters = [35, 36, 107], [0, 43, 87, 88]  # ends of groups
    x[..., channels], dy[..., filters] = np.nan, np.nan
    with run_on(device):
        db = filled_with_nan(device, case.w[:1])
        arrays = (device.asarray(a) for a in (dy, x))
        dw = ops.conv2d_wgrad(
            *arrays, case.w, kernel=f"{kernel}/{pieces}", precision="tf32", bias_grad=db, **case.options
        )
    bad, group = np.zeros(case.w, bool), np.arange(132) // 44
    bad[filters] = True
    for channel in channels:
        bad[group == channel // 36, :, :, channel % 36] = True
    np.testing.assert_array_equal(np.isnan(device.to_numpy(dw)), bad)
    assert np.flatnonzero(np.isnan(device.to_numpy(db))).tolist() == filters


@pytest.mark.parametrize(("case", "kernel"), weights([ACROSS[7], GRADIENT[2]]))
def test_pixels_that_no_window_meets_stay_out(case, kernel, device, run_on):
    p = problem(case)
    met = np.zeros(case.x[1:3], bool)
    for r, s in np.ndindex(*case.w[1:3]):
        met[r : r + case.stride[0] * case.y[1] : case.stride[0],
            s : s + case.stride[1] * case.y[2] : case.stride[1]] = True  # fmt: skip
    assert not met.all()
    x = np.where(met[..., np.newaxis], p.x, np.float32(np.nan))
    with run_on(device):
        arrays = (device.asarray(a) for a in (p.dy, x))
        dw = ops.conv2d_wgrad(*arrays, case.w, kernel=kernel, precision="tf32", **case.options)
    assert_close(device.to_numpy(dw), p.dw, p.terms[OP], eps=EPS_TF32)


# ---------------------------------------------------------------- what they take, and where they are chosen


def test_the_kernels_take_every_case():
    every = {name for name in table(OP) if "_wgmma" in name}
    assert every
    for case in EVERY:
        others = case.name == "rows_and_more"  # 24 channels, 3x3
        assert {row.values[1] for row in weights([case])} == (set() if others else every)


def test_limits():
    def taken(x, w, **options) -> bool:
        options = {"stride": 2} | options
        found = ops.kernels(OP, x, w, precision="tf32", device="emulator", **options)
        wgmma = [name for name in found if "_wgmma" in name]
        assert len(wgmma) in (0, sum("_wgmma" in name for name in table(OP)))
        return bool(wgmma)

    x, w = (2, 40, 40, 16), (12, 3, 3, 16)
    assert taken(x, w)
    assert taken(x, w, stride=8)
    assert not taken(x, w, stride=9)
    assert not taken(x, w, pad=((129, 0), (0, 0)))
    assert not taken(x, (10, 3, 3, 16))  # 40 bytes
    assert taken((2, 40, 40, 12), (12, 1, 1, 12))
    assert not taken((2, 40, 40, 10), (12, 1, 1, 10))
    # A block, of 32 channels or of 16, must not have two taps.
    for channels, whole in ((8, False), (16, True), (24, False), (32, True), (40, False), (48, True)):
        assert taken((2, 9, 9, 2 * channels), (16, 1, 2, channels), groups=2) == whole
        assert taken((2, 9, 9, channels), (16, 2, 1, channels)) == whole
        assert taken((2, 9, 9, 2 * channels), (16, 1, 1, channels), groups=2)


@pytest.mark.parametrize(("card", "wgmma"), [("80", False), ("90", True), ("100", False)])
def test_alexnet_runs_on_them(monkeypatch, card, wgmma):
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", card)
    for batch in (128, 256, 1024):
        convs = [case for case in alexnet_convs(batch) if case.name != "conv1"]
        chosen = {case.name: kernels(OP, case, precision="tf32")[0] for case in convs}
        assert [("_wgmma" in name) for name in chosen.values()] == [wgmma] * 4, chosen


@pytest.mark.parametrize("precision", ["fp32", "fp32x3", "bf16"])
def test_other_precisions_do_not_take_them(precision):
    every = {name for name in table(OP) if "_wgmma" in name}
    for case in EVERY:
        assert every.isdisjoint(kernels(OP, case, precision=precision))
