"""The kernels for compute capability 9.0 (kernels/conv/hopper): TMA, mbarriers, wgmma.

``test_conv_bf16.py`` and ``test_masked_dgrad.py`` run them on the shapes of every row, ``test_conv_halo.py``
those of halo.h on shapes of their own. Here are shapes for what the others alone have: a ring that turns
round within a tile and from tile to tile, rounds of two steps and last steps alone in their round, steps of
96 and of 128 bytes, groups as offsets of channels, maps; of dgrad filters across the reduction, in taps that
go backwards; of wgrad both operands across it, blocks of 16 and 64 channels, sums that leave transposed,
dy's beside them.
"""

import itertools

import numpy as np
import pytest
from support.helpers import assert_close, filled_with_nan, same_bits
from support.kernels.conv_problems import PLAIN, compute, cuts, halo_rows, kernels, problem, slow, table
from support.kernels.conv_shapes import RAGGED_CONVS, RAGGED_OF_EIGHT, Conv
from test_conv_bf16 import BF16, F32, assert_right
from test_conv_precision import EPS_TF32, rms
from test_masked_dgrad import relu_output, through_relu

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import reference
from pyconvnet.ops.conv import capability

SAME1, SAME2 = ((1, 1), (1, 1)), ((2, 2), (2, 2))
CASES = [
    # AlexNet's layers on small images: conv1 in the depth layout, towers of 48 and 192 channels, both, fc.
    Conv("as_conv1", (1, 11, 11, 48), (96, 3, 3, 48)),
    Conv("as_conv2", (1, 9, 6, 96), (256, 5, 5, 48), pad=SAME2, groups=2),
    Conv("as_conv3", (2, 5, 4, 256), (384, 3, 3, 256), pad=SAME1),
    Conv("as_conv4", (1, 6, 5, 384), (384, 3, 3, 192), pad=SAME1, groups=2),
    Conv("as_fc6", (3, 1, 1, 1152), (256, 1, 1, 1152)),
    # Ragged: rows, columns, channels; tiles that two images share; pixels that no window meets.
    Conv("rows_and_more", (5, 7, 8, 24), (136, 3, 3, 24), pad=SAME1),
    Conv("strided", (3, 9, 11, 32), (200, 3, 2, 32), (2, 3), ((1, 2), (0, 1))),
    Conv("channels_of_96", (2, 6, 6, 192), (80, 2, 3, 96), pad=((0, 1), (2, 0)), groups=2),
    Conv("one_pixel_filters", (2, 7, 11, 72), (264, 1, 1, 72)),
    Conv("one_step", (2, 6, 7, 40), (136, 1, 1, 40)),
    Conv("window_is_image", (9, 4, 5, 16), (40, 4, 5, 16)),
]
#: Of dgrad: reductions and columns that end within a step and a row of shared memory, and padding of its own.
BACKWARD = [
    Conv("rows_and_more_back", (3, 7, 8, 136), (72, 3, 2, 136), pad=((2, 0), (0, 1))),
    Conv("cropped", (2, 9, 7, 24), (64, 2, 3, 24), pad=((1, 2), (2, 3))),
    Conv("beyond_windows", (2, 6, 5, 48), (128, 4, 3, 24), pad=((5, 4), (3, 2)), groups=2),
]
#: Of wgrad: taps that end within a tile, filters within a run of 32, and reductions that end within a step.
GRADIENT = [
    Conv("wide_blocks", (2, 6, 5, 256), (144, 3, 2, 128), pad=((1, 1), (0, 1)), groups=2),
    Conv("ten_steps", (3, 14, 14, 32), (240, 3, 3, 16), pad=SAME1, groups=2),
    Conv("strided_pixels", (5, 11, 17, 48), (40, 1, 1, 48), (2, 3)),
    Conv("one_pixel_groups", (2, 7, 6, 48), (32, 1, 1, 24), groups=2),
    Conv("groups_of_filters", (2, 7, 6, 96), (96, 5, 5, 16), pad=SAME2, groups=6),
]
NAMED = {case.name: case for case in [*CASES, *BACKWARD]}
#: What the default run takes of what dgrad and TF32 share with fprop in bfloat16.
DEFAULT = (
    "as_conv2", "rows_and_more", "rows_and_more_back", "beyond_windows", "one_pixel_filters",
    "wide_blocks", "ten_steps", "strided_pixels",
)  # fmt: skip
#: 136 and more tiles: some of the 132 blocks take a second one, and stages and buffers go on where they are.
SEVERAL = Conv("several_tiles_a_block", (1, 2, 3, 16), (26000, 1, 2, 16), pad=((0, 0), (0, 1)))
#: Of five steps: the last of each tile is alone in its round, and its stage is used again.
ODD_TILES = Conv("several_odd_tiles", (1, 1, 4, 16), (26000, 1, 5, 16), pad=((0, 0), (2, 2)))
SEVERAL_BACKWARD = Conv("several_back", (1, 2, 2, 26000), (16, 1, 2, 26000), pad=((0, 0), (0, 1)))
SEVERAL_GRADIENT = Conv("several_gradient", (65, 1, 1, 264), (12872, 1, 1, 264))
MANY_TILES = (SEVERAL, ODD_TILES, SEVERAL_BACKWARD, SEVERAL_GRADIENT)
ORDERS = list(itertools.product(("fwd", "rev", "mix"), ("late", "eager", "rand")))
NASTY = [("rev", "eager"), ("mix", "late"), ("mix", "rand")]


def on_the_ring(names) -> set[str]:
    """The kernels of wgmma_tile.h among those: pixels come by taps."""
    wgmma = {name for name in names if "_wgmma" in name}
    return wgmma - halo_rows(wgmma)


@pytest.fixture
def device(device):
    """The emulator and, where it is of 9.0, the GPU."""
    if capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    return device


def rows(cases: list[Conv], op: str = "conv2d", precision: str = "bf16", pieces: int = 1) -> list:
    """One test for each case and each of these kernels, of those that take so many pieces."""
    return [
        pytest.param(case, kernel, id=f"{case}-{kernel.removeprefix('conv2d_').removeprefix('fprop_')}")
        for case in cases
        for kernel in kernels(op, case, precision=precision)
        if "_wgmma" in kernel and cuts(op, case, kernel, pieces, precision)
    ]


def by_default(parameters: list) -> list:
    """The same parameters, of which the default run takes some shapes."""
    return slow(parameters, unless=lambda case, kernel: case.name in DEFAULT)


def backward(case: Conv, dev, kernel: str, masked: bool = False) -> None:
    """Compute a case's input gradient, through a ReLU or not, and compare with float64."""
    p, mask = problem(case, BF16), relu_output(case.x, BF16)
    dx = compute("conv2d_dgrad", case, dev, kernel, BF16, mask=dev.asarray(mask) if masked else None)
    assert_right(dx, through_relu(p.dx, mask) if masked else p.dx, p.terms["conv2d_dgrad"])


def gradient(case: Conv, dev, kernel: str, biased: bool = False) -> None:
    """Compute a case's weight gradient, with the bias's or not, and compare with float64."""
    p = problem(case, BF16)
    db = filled_with_nan(dev, (case.w[0],)) if biased else None
    dw = compute("conv2d_wgrad", case, dev, kernel, BF16, **({"bias_grad": db} if biased else {}))
    assert_right(dw, p.dw, p.terms["conv2d_wgrad"])
    if biased:
        assert_right(dev.to_numpy(db), p.dy.astype(np.float64).sum((0, 1, 2)), p.terms["conv2d_wgrad"])


def forward(case: Conv, dev, kernel: str, relu: bool = False) -> None:
    """Compute a case with bias and compare with float64."""
    p = problem(case, BF16)
    options = {"activation": "relu"} if relu else {}
    y = compute("conv2d", case, dev, kernel, BF16, **options)
    assert_right(y, np.maximum(p.y, 0) if relu else p.y, p.terms["conv2d"])


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel"), rows([*CASES, SEVERAL]))
def test_kernel(case, kernel, device, run_on):
    with run_on(device):
        forward(case, device, kernel)
        if case is not SEVERAL:
            forward(case, device, f"{kernel}/1", relu=True)  # small as they are, most are cut into pieces


def assert_tf32(case: Conv, y: np.ndarray, relu: bool = False) -> None:
    """Compare with float64, as test_conv_precision.py does."""
    p = problem(case)
    expected = np.maximum(p.y, 0) if relu else p.y
    assert_close(y, expected, p.terms["conv2d"], eps=EPS_TF32)
    assert rms(y - expected) <= EPS_TF32 * rms(expected)


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel"), by_default(rows([*CASES, SEVERAL], precision="tf32")))
def test_tf32(case, kernel, device, run_on):
    with run_on(device):
        y = compute("conv2d", case, device, f"{kernel}/1", precision="tf32", activation="relu")
        assert_tf32(case, y, relu=True)
        if case is not SEVERAL:  # small as they are, most are cut into pieces
            assert_tf32(case, compute("conv2d", case, device, kernel, precision="tf32"))


@pytest.mark.kernels
@pytest.mark.parametrize(("order", "asynchronous"), NASTY)
@pytest.mark.parametrize(("case", "kernel"), rows([CASES[1]], precision="tf32"))
def test_tf32_in_every_order(case, kernel, order, asynchronous):
    dev = devices.emulator()
    try:
        dev.ext.configure(order=order, async_=asynchronous, seed=5)
        with ops.on(dev):
            result = compute("conv2d", case, dev, f"{kernel}/1", precision="tf32")
            dev.ext.configure()
            plain = compute("conv2d", case, dev, f"{kernel}/1", precision="tf32")
    finally:
        dev.ext.configure()
    assert same_bits(result, plain)
    assert_tf32(case, plain)


@pytest.mark.parametrize(("case", "kernel"), rows([CASES[5]], precision="tf32"))
def test_tf32_roundings(case, kernel, device, run_on):
    """TF32 numbers stay what they are, others have no bias, and what is not finite is not lost."""
    rng = np.random.default_rng(4)
    with run_on(device):

        def result(x: np.ndarray, w: np.ndarray) -> np.ndarray:
            arrays = (device.asarray(a.astype(F32)) for a in (x, w))
            return device.to_numpy(ops.conv2d(*arrays, kernel=kernel, precision="tf32", **case.options))

        x, w = rng.integers(-2047, 2047, case.x), rng.integers(-15, 15, case.w)
        exact = reference.conv2d(x.astype(np.float64), w.astype(np.float64), **case.options)
        np.testing.assert_array_equal(result(x, w), exact)
        x, w = (np.abs(rng.standard_normal(shape)).astype(F32) for shape in (case.x, case.w))
        exact = reference.conv2d(x.astype(np.float64), w.astype(np.float64), **case.options)
        assert abs(((result(x, w) - exact) / exact).mean()) < 0.1 * EPS_TF32
        for bad in (np.nan, np.inf, -np.inf):
            x[0, 2, 3, 0] = bad
            seen = np.isfinite(reference.conv2d(x.astype(np.float64), w.astype(np.float64), **case.options))
            np.testing.assert_array_equal(np.isfinite(result(x, w)), seen)


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("case", "kernel"), by_default(rows([*CASES, *BACKWARD, SEVERAL_BACKWARD], "conv2d_dgrad"))
)
def test_dgrad(case, kernel, device, run_on):
    with run_on(device):
        backward(case, device, f"{kernel}/1", masked=True)
        if case is not SEVERAL_BACKWARD:
            backward(case, device, kernel)  # small as they are, most are cut into pieces


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("case", "kernel"), by_default(rows([*CASES, *GRADIENT, SEVERAL_GRADIENT], "conv2d_wgrad"))
)
def test_wgrad(case, kernel, device, run_on):
    with run_on(device):
        gradient(case, device, f"{kernel}/1", biased=True)
        if case is not SEVERAL_GRADIENT:
            gradient(case, device, kernel)


def with_orders() -> list:
    """Every order on small cases; the nasty ones, and where it is quick, on pieces and on the large one.

    Sanitized builds, whose checks hold for any order, take a few.
    """
    forward, backward, weights = "conv2d", "conv2d_dgrad", "conv2d_wgrad"
    some = NASTY if PLAIN else NASTY[2:]
    found = [
        pytest.param(op, case, f"{kernel}/{pieces}", *order, id="-".join((row.id, str(pieces), *order)))
        for op, wanted, pieces, orders in (
            (forward, NAMED["as_conv2"], 1, ORDERS if PLAIN else NASTY),
            (forward, NAMED["as_conv2"], 3, some),
            (forward, NAMED["channels_of_96"], 1, some),
            (forward, NAMED["rows_and_more"], 1, ORDERS if PLAIN else NASTY),
            (forward, SEVERAL, 1, some),
            (forward, ODD_TILES, 1, some),
            (backward, NAMED["as_conv2"], 1, some),
            (backward, BACKWARD[0], 1, some),
            (backward, SEVERAL_BACKWARD, 1, NASTY[2:]),
            (weights, GRADIENT[1], 1, ORDERS if PLAIN else NASTY),
            (weights, GRADIENT[1], 2, some),
            (weights, GRADIENT[0], 1, some),
            (weights, SEVERAL_GRADIENT, 1, NASTY[2:]),
        )
        for row in rows([wanted], op, pieces=pieces)
        for order in orders
        for case, kernel in (row.values,)
        if not (case in MANY_TILES and halo_rows({kernel}))  # which have such shapes of their own
    ]
    first = {
        forward: ("as_conv2", "channels_of_96", SEVERAL.name, ODD_TILES.name),
        backward: ("as_conv2",),
        weights: ("wide_blocks",),
    }

    def by_default(op, case, kernel, *order):
        if case in MANY_TILES and "wgmma128" not in kernel:  # whose rounds have two steps
            return case is SEVERAL and order == NASTY[2]
        return case.name in first[op] or (order in NASTY and (op == forward or case is GRADIENT[1]))

    return slow(found, unless=by_default)


def test_the_kernels_take_every_case():
    for precision, dtype in (("bf16", BF16), ("tf32", F32)):
        every = on_the_ring(table("conv2d", dtype))
        for case in [*CASES, SEVERAL]:
            tall = case.w[1:3] == (1, 1) and case.stride == (1, 1)  # rows of a tiled map's box
            wanted = {name for name in every if not (tall and "wgmma384" in name)}
            found = {row.values[1] for row in rows([case], precision=precision)}
            assert on_the_ring(found) == wanted
    every = on_the_ring(table("conv2d_dgrad", BF16))
    for case in [*CASES, *BACKWARD, SEVERAL_BACKWARD]:
        others = case.name in ("strided", "channels_of_96")  # a stride; groups of 40 filters
        wanted = {name for name in every if not (case.w[1:3] == (1, 1) and "wgmma384" in name)}
        found = {row.values[1] for row in rows([case], "conv2d_dgrad")}
        assert on_the_ring(found) == (set() if others else wanted)
    every = sum("_wgmma" in name for name in table("conv2d_wgrad", BF16))
    for case in [*CASES, *GRADIENT, SEVERAL_GRADIENT]:
        others = case.name == "rows_and_more"  # 24 channels, 3x3
        assert len(rows([case], "conv2d_wgrad")) == (0 if others else every)


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel", "order", "asynchronous"), with_orders())
def test_every_order_gives_the_same_bits(op, case, kernel, order, asynchronous):
    """Copies, products and stores as early and as late as may be, whoever goes first."""
    dev, p = devices.emulator(), problem(case, BF16)
    options = {"mask": relu_output(case.x, BF16)} if op == "conv2d_dgrad" else {}
    sums = [
        {"bias_grad": filled_with_nan(dev, (case.w[0],))} if op == "conv2d_wgrad" else {} for _ in range(2)
    ]
    try:
        dev.ext.configure(order=order, async_=asynchronous, seed=5)
        with ops.on(dev):
            result = compute(op, case, dev, kernel, BF16, **options, **sums[0])
            dev.ext.configure()
            plain = compute(op, case, dev, kernel, BF16, **options, **sums[1])
    finally:
        dev.ext.configure()
    assert same_bits(result, plain)
    if op == "conv2d_wgrad":
        assert same_bits(*(dev.to_numpy(s["bias_grad"]) for s in sums))
    expected = p.expected(op)
    assert_right(plain, through_relu(expected, options["mask"]) if options else expected, p.terms[op])


@pytest.mark.kernels
@pytest.mark.parametrize("pieces", [2, 3, 5])
@pytest.mark.parametrize(
    ("case", "kernel"),
    [
        *rows([CASES[1]], pieces=5),
        *rows([CASES[1]], "conv2d_dgrad", pieces=5),
        *rows([GRADIENT[1]], "conv2d_wgrad", pieces=5),
    ],
)
def test_pieces(case, kernel, pieces, device, run_on):
    """25 steps, of dgrad 50, of wgrad 10, in pieces: floats leave by a map of their own, and are added."""
    with run_on(device):
        if "dgrad" in kernel:
            backward(case, device, f"{kernel}/{pieces}", masked=True)
        elif "wgrad" in kernel:
            gradient(case, device, f"{kernel}/{pieces}", biased=pieces > 2)
        else:
            forward(case, device, f"{kernel}/{pieces}", relu=True)


@pytest.mark.parametrize(("case", "kernel"), rows([CASES[1]]))
def test_a_group_does_not_see_the_other(case, kernel, device, run_on):
    p = problem(case, BF16)
    x = p.x.copy()
    x[..., 48] = np.nan  # the first channel of the second group, next to the last one of the first
    with run_on(device):
        y = ops.conv2d(device.asarray(x), device.asarray(p.w), kernel=kernel, **case.options)
    y = device.to_numpy(y).astype(np.float64)
    assert np.isfinite(y[..., :128]).all()
    assert np.isnan(y[..., 128:]).any()


@pytest.mark.parametrize(("case", "kernel"), rows([CASES[1]], "conv2d_dgrad"))
def test_a_group_of_filters_does_not_see_the_other(case, kernel, device, run_on):
    p = problem(case, BF16)
    dy = p.dy.copy()
    dy[..., 128] = np.nan
    with run_on(device):
        dx = ops.conv2d_dgrad(device.asarray(dy), device.asarray(p.w), case.x, kernel=kernel, **case.options)
    dx = device.to_numpy(dx).astype(np.float64)
    assert np.isfinite(dx[..., :48]).all()
    assert np.isnan(dx[..., 48:]).any()


@pytest.mark.parametrize(("case", "kernel"), rows([CASES[1]], "conv2d_wgrad"))
def test_weights_of_a_group_do_not_see_the_other(case, kernel, device, run_on):
    p = problem(case, BF16)
    x, dy = p.x.copy(), p.dy.copy()
    x[..., 48], dy[..., 127] = np.nan, np.nan  # next to each other's group
    with run_on(device):
        db = filled_with_nan(device, (256,))
        arrays = (device.asarray(a) for a in (dy, x))
        dw = ops.conv2d_wgrad(*arrays, case.w, kernel=kernel, bias_grad=db, **case.options)
    bad = np.isnan(device.to_numpy(dw))
    assert bad[127].all()
    assert not bad[:127].any()
    assert bad[128:, 1:-1, 1:-1, 0].all()
    assert not bad[128:, :, :, 1:].any()
    assert np.flatnonzero(np.isnan(device.to_numpy(db))).tolist() == [127]


# ---------------------------------------------------------------- what they take

TAKEN = {"stride": 2, "pad": 0, "groups": 1}


def taken(x, w, op="conv2d", **options) -> bool:
    """Whether these kernels apply, those of halo.h aside; all or none."""
    found = ops.kernels(op, x, w, precision="bf16", device="emulator", **TAKEN | options)
    ring = on_the_ring(found)
    assert ring in (set(), on_the_ring(table(op, BF16)))
    return bool(ring)


def test_limits_of_instructions_and_maps():
    x, w = (2, 40, 40, 16), (16, 3, 3, 16)
    assert taken(x, w)
    assert taken(x, w, stride=8)
    assert not taken(x, w, stride=9)  # an im2col map steps over 8 pixels at most
    assert taken(x, w, pad=((128, 0), (0, 128)))
    assert not taken(x, w, pad=((129, 0), (0, 0)))  # a corner is a byte
    assert not taken(x, w, pad=((0, 0), (0, 131)))
    for rows, pad, good in (
        (129, 0, True),
        (130, 0, False),
        (256, 128, True),
        (257, 128, False),
    ):  # an offset, too
        assert taken((1, 300, 4, 8), (8, rows, 1, 8), stride=1, pad=((pad, pad), (0, 0))) == good
    assert not taken((2, 40, 40, 12), (16, 3, 3, 12))  # 24 bytes
    assert not taken(x, (12, 3, 3, 16))
    for channels, whole in (
        (8, False),
        (48, True),
        (64, True),
        (72, False),
        (96, True),
        (192, True),
        (200, False),
    ):
        grouped = taken((2, 9, 9, 2 * channels), (16, 3, 3, channels), groups=2)
        assert grouped == whole, "a step must not reach over the end of a group"
        assert taken((2, 9, 9, channels), (16, 3, 3, channels))


def test_limits_of_dgrad():
    def back(x, w, **options):
        return taken(x, w, "conv2d_dgrad", **{"stride": 1} | options)

    x, w = (2, 40, 40, 16), (16, 3, 3, 16)
    assert back(x, w)
    assert not back(x, w, stride=2)
    assert not back(x, w, stride=(1, 2))
    assert not back((2, 40, 40, 12), (16, 3, 3, 12))
    assert not back(x, (12, 3, 3, 16))
    # Rows of dx before dy begins: corners are bytes.
    for rows, pad, good in ((129, 0, True), (130, 0, False), (130, 1, True), (3, 129, True), (3, 130, False)):
        assert back((1, 300, 4, 8), (8, rows, 1, 8), pad=((pad, 0), (0, 0))) == good
    for filters, whole in ((48, False), (64, True), (96, False), (128, True), (192, True)):
        assert back((2, 9, 9, 16), (2 * filters, 3, 3, 8), groups=2) == whole
        assert back((2, 9, 9, 16), (filters, 3, 3, 16))


def test_limits_of_wgrad():
    def weights(x, w, **options):
        return taken(x, w, "conv2d_wgrad", **options)

    x, w = (2, 40, 40, 16), (16, 3, 3, 16)
    assert weights(x, w)
    assert weights(x, w, stride=8)
    assert not weights(x, w, stride=9)
    assert not weights(x, w, pad=((129, 0), (0, 0)))
    assert not weights(x, (12, 3, 3, 16))
    # A block must not have two taps.
    for channels, whole in ((8, False), (16, True), (24, False), (48, True), (64, True), (72, False)):
        assert weights((2, 9, 9, 2 * channels), (16, 1, 2, channels), groups=2) == whole
        assert weights((2, 9, 9, 2 * channels), (16, 1, 1, channels), groups=2)


@pytest.mark.parametrize(
    ("card", "wgmma"), [("80", False), ("89", False), ("90", True), ("100", False), ("120", False)]
)
def test_other_cards_take_portable_rows(monkeypatch, card, wgmma):
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", card)
    for op in ("conv2d", "conv2d_dgrad", "conv2d_wgrad"):
        names = kernels(op, CASES[2], precision="bf16")
        assert any("_wgmma" in name for name in names) == wgmma
        assert any("_mma" in name for name in names)


def test_alexnet_runs_on_them(monkeypatch):
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", "90")
    from support.kernels.conv_shapes import alexnet_convs

    for batch in (128, 1024):
        for op in ("conv2d", "conv2d_dgrad", "conv2d_wgrad"):
            chosen = {case.name: kernels(op, case, precision="bf16")[0] for case in alexnet_convs(batch)[1:]}
            assert all("_wgmma" in name for name in chosen.values()), chosen


@pytest.mark.parametrize("case", [*RAGGED_CONVS, *RAGGED_OF_EIGHT], ids=str)
def test_other_precisions_do_not_take_them(case):
    for op in ("conv2d", "conv2d_dgrad", "conv2d_wgrad"):
        for precision in ("fp32", "fp32x3"):
            assert not any("_wgmma" in name for name in kernels(op, case, precision=precision))
        for name in kernels(op, case, precision="tf32"):
            assert not ("_wgmma" in name and "_bf16" in name)


def test_maps_are_of_the_arrays_that_are_given():
    """A launch after another of the same shape reads and writes its own arrays."""
    case, dev = CASES[5], devices.emulator()
    (kernel, *_) = (name for name in kernels("conv2d", case, precision="bf16") if "_wgmma" in name)
    rng = np.random.default_rng(2)
    with ops.on(dev):
        for _ in range(3):
            x, w = (rng.standard_normal(shape).astype(BF16) for shape in (case.x, case.w))
            y = reference.conv2d(x.astype(np.float64), w.astype(np.float64), **case.options)
            assert_right(
                ops.conv2d(x, w, kernel=kernel, **case.options), y, problem(case, BF16).terms["conv2d"]
            )


def test_maps_that_are_found_again_are_of_the_call():
    """At one address lie new contents and arrays of another shape in turn."""
    case, dev = CASES[5], devices.emulator()
    (kernel, *_) = (name for name in kernels("conv2d", case, precision="bf16") if "_wgmma" in name)
    n, h, w, c = case.x
    rng = np.random.default_rng(3)
    pixels, filters = np.empty(n * h * w * c, BF16), rng.standard_normal(case.w).astype(BF16)
    with ops.on(dev):
        for shape in 2 * [(n, h, w, c), (n, w, h, c), (n, h, w, c)]:
            x = pixels.reshape(shape)
            x[...] = rng.standard_normal(shape)
            y = reference.conv2d(x.astype(np.float64), filters.astype(np.float64), **case.options)
            found = ops.conv2d(x, filters, kernel=kernel, **case.options)
            assert_right(found, y, problem(case, BF16).terms["conv2d"])
