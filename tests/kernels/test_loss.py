"""Softmax and cross-entropy: every kernel and the reference against float64, error counts against a sort."""

import numpy as np
import pytest
from support.helpers import assert_close, same_bits, tolerance
from support.kernels.placing import kernels_of, place

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.common.precision import BFLOAT16

pytestmark = pytest.mark.kernels

SHAPES = [
    (1, 1),
    (3, 1),
    (9, 2),
    (128, 10),
    (5, 31),
    (4, 33),
    (7, 128),
    (7, 129),
    (3, 1000),
    (300, 3),
    (2, 4097),
    (1, 100_003),
    (128, 1000),  # AlexNet's: ILSVRC, and ImageNet's 10,184 classes of 2009
    (8, 10_184),
]


def expected(logits, labels, topk=5):
    """(losses, softmax, top-1 errors, top-k errors) in float64; ranks from a stable sort."""
    x = logits.astype(np.float64)
    top = x.max(axis=1, keepdims=True)
    e = np.exp(x - top)
    total = e.sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    losses = np.log(total[:, 0]) - (x - top)[rows, labels]
    order = np.argsort(-logits, axis=1, kind="stable")
    ranks = (order == labels[:, None]).argmax(axis=1)
    return losses, e / total, int((ranks >= 1).sum()), int((ranks >= topk).sum())


def case(shape, rng, ties=True):
    logits = (4 * rng.standard_normal(shape)).astype(np.float32)
    if ties:
        logits = np.round(logits * 2) / 2  # many equal ones
    return logits, rng.integers(0, shape[1], shape[0]).astype(np.int32)


def check_softmax(device, shape, misaligned, rng):
    logits, labels = case(shape, rng)
    want = expected(logits, labels)[1]
    for kernel in kernels_of(device, "softmax", shape):
        out = place(device, np.full(shape, np.nan, np.float32), misaligned)
        x = place(device, logits, misaligned)
        assert ops.softmax(x, out=out, kernel=kernel) is out
        got = device.to_numpy(out)
        assert_close(got, want, shape[1], scale=want.max())
        assert ops.softmax(x, out=x, kernel=kernel) is x
        assert np.array_equal(device.to_numpy(x), got)


def check_loss(device, shape, misaligned, rng, topk):
    logits, labels = case(shape, rng)
    n, classes = shape
    losses, probabilities, top1, top_k = expected(logits, labels, topk)
    want = probabilities.copy()
    want[np.arange(n), labels] -= 1
    for kernel in kernels_of(device, "softmax_cross_entropy", shape):
        loss = device.asarray(np.array(np.nan, np.float32))
        dlogits = place(device, np.full(shape, np.nan, np.float32), misaligned)
        metrics = device.asarray(np.array([100.0, 0.5, 7.0, 3.0]))
        x, y = place(device, logits, misaligned), place(device, labels, misaligned)
        result = ops.softmax_cross_entropy(
            x, y, topk=topk, metrics=metrics, out=(loss, dlogits), kernel=kernel
        )
        assert result[0] is loss
        assert result[1] is dlogits
        got, gradient = device.to_numpy(loss), device.to_numpy(dlogits)
        scale = max(1.0, np.abs(losses).max())
        assert_close(got, np.array(losses.mean()), classes, scale=scale)
        assert_close(gradient, want / n, classes, scale=np.abs(want / n).max())
        m = device.to_numpy(metrics)
        assert m[[0, 2, 3]].tolist() == [100 + n, 7 + top1, 3 + top_k]
        assert abs(m[1] - 0.5 - losses.sum()) <= 4e-6 * np.sqrt(classes) * scale * n

        again = ops.softmax_cross_entropy(x, y, grad_scale=2.0, out=(loss, x), kernel=kernel)[1]  # in place
        assert np.array_equal(device.to_numpy(loss), got)
        assert_close(device.to_numpy(again), want * 2, classes, scale=max(np.abs(want * 2).max(), 1e-6))


@pytest.mark.parametrize("misaligned", [False, True])
def test_softmax_kernels(misaligned, device, schedule, run_on, rng):
    with run_on(device):
        for shape in SHAPES:
            check_softmax(device, shape, misaligned, rng)


@pytest.mark.parametrize("misaligned", [False, True])
def test_softmax_cross_entropy_kernels(misaligned, device, schedule, run_on, rng):
    with run_on(device):
        for i, shape in enumerate(SHAPES):
            check_loss(device, shape, misaligned, rng, topk=(1, 2, 5, 200_000)[i % 4])


def assert_rounded(actual, expected, reduction, scale):
    """The error of float32 arithmetic, and then that of one rounding to bfloat16."""
    assert actual.dtype == BFLOAT16
    limit = tolerance(expected, reduction, scale) * (1 + 2**-8) + np.abs(expected) * 2**-8
    assert (np.abs(actual.astype(np.float64) - expected) <= limit).all()


@pytest.mark.parametrize("misaligned", [False, True])
def test_bfloat16(misaligned, any_device, schedule, run_on, rng):
    with run_on(any_device):
        for shape in SHAPES[:11]:
            logits, labels = case(shape, rng, ties=shape[0] % 2 == 0)
            logits, (n, classes) = logits.astype(BFLOAT16), shape
            losses, probabilities, top1, top5 = expected(logits.astype(np.float64), labels)
            want = probabilities.copy()
            want[np.arange(n), labels] -= 1
            for kernel in kernels_of(any_device, "softmax", shape):
                out = place(any_device, np.full(shape, np.nan, BFLOAT16), misaligned)
                ops.softmax(place(any_device, logits, misaligned), out=out, kernel=kernel)
                assert_rounded(any_device.to_numpy(out), probabilities, classes, probabilities.max())
            for kernel in kernels_of(any_device, "softmax_cross_entropy", shape):
                x, y = place(any_device, logits, misaligned), place(any_device, labels, misaligned)
                dlogits = place(any_device, np.full(shape, np.nan, BFLOAT16), misaligned)
                metrics = any_device.zeros((4,), np.float64)
                loss, _ = ops.softmax_cross_entropy(
                    x, y, metrics=metrics, grad_scale=2.0, out=(None, dlogits), kernel=kernel
                )
                assert loss.dtype == np.float32
                scale = max(1.0, losses.max())
                assert_close(any_device.to_numpy(loss), np.array(losses.mean()), classes, scale=scale)
                assert_rounded(any_device.to_numpy(dlogits), 2 * want, classes, 2.0)
                assert any_device.to_numpy(metrics)[[0, 2, 3]].tolist() == [n, top1, top5]
                again = ops.softmax_cross_entropy(x, y, grad_scale=2.0, out=(None, x), kernel=kernel)[1]
                assert same_bits(any_device.to_numpy(again), any_device.to_numpy(dlogits))


def test_reference(run_on, rng):
    cpu = devices.cpu()
    with run_on(cpu):
        for shape in [*SHAPES, (700, 300)]:
            check_softmax(cpu, shape, False, rng)
            for topk in (1, 2, 5):
                check_loss(cpu, shape, False, rng, topk)


def test_every_row_has_been_run(device):
    for op in ("softmax", "softmax_cross_entropy"):
        reached = {name for shape in SHAPES for name in ops.kernels(op, shape, device=device)}
        assert reached == set(getattr(device.ext, f"{op}_table")())


def test_gradient_by_central_differences(rng):
    logits = 2 * rng.standard_normal((5, 7))
    labels = np.array([0, 3, 6, 3, 1], np.int32)
    _, dlogits = ops.softmax_cross_entropy(logits, labels)
    assert dlogits.dtype == np.float64
    h = 1e-6
    for index in np.ndindex(logits.shape):
        ends = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * h
            ends.append(ops.softmax_cross_entropy(moved, labels)[0])
        assert abs((ends[0] - ends[1]) / (2 * h) - dlogits[index]) < 1e-9


def test_probabilities_sum_to_one_and_gradients_to_zero(any_device, run_on, rng):
    logits, labels = case((50, 200), rng, ties=False)
    with run_on(any_device):
        y = any_device.to_numpy(ops.softmax(any_device.asarray(logits)))
        _, dlogits = ops.softmax_cross_entropy(any_device.asarray(logits), any_device.asarray(labels))
    np.testing.assert_allclose(y.astype(np.float64).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(any_device.to_numpy(dlogits).astype(np.float64).sum(axis=1), 0, atol=1e-7)


@pytest.mark.parametrize("classes", [5, 300])
def test_huge_logits_do_not_overflow(classes, any_device, run_on, rng):
    logits = (1e4 * rng.standard_normal((6, classes))).astype(np.float32)
    logits[3] += np.float32(3e4)
    logits[4, 1:] = -np.inf
    labels = logits.argmax(axis=1).astype(np.int32)
    labels[0] = (labels[0] + 1) % classes
    losses, probabilities, _, _ = expected(logits, labels)
    with run_on(any_device):
        for kernel in kernels_of(any_device, "softmax", logits.shape):
            y = any_device.to_numpy(ops.softmax(any_device.asarray(logits), kernel=kernel))
            np.testing.assert_allclose(y, probabilities, atol=1e-6)
        for kernel in kernels_of(any_device, "softmax_cross_entropy", logits.shape):
            args = any_device.asarray(logits), any_device.asarray(labels)
            loss = any_device.to_numpy(ops.softmax_cross_entropy(*args, kernel=kernel)[0])
            np.testing.assert_allclose(loss, losses.mean(), rtol=1e-6)


@pytest.mark.parametrize("classes", [6, 300])
def test_ties_go_to_the_smaller_index(classes, any_device, run_on):
    logits = np.zeros((4, classes), np.float32)
    labels = np.array([0, 1, 4, 5], np.int32)
    with run_on(any_device):
        for kernel in kernels_of(any_device, "softmax_cross_entropy", logits.shape):
            metrics = any_device.zeros((4,), np.float64)
            ops.softmax_cross_entropy(
                any_device.asarray(logits), any_device.asarray(labels), metrics=metrics, kernel=kernel
            )
            assert any_device.to_numpy(metrics)[[0, 2, 3]].tolist() == [4, 3, 1]


@pytest.mark.parametrize("classes", [6, 300])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_logits_that_are_not_finite_count_as_errors(poison, classes, any_device, run_on, rng):
    logits, labels = case((9, classes), rng, ties=False)
    labels[:] = logits.argmax(axis=1)
    logits[2, (labels[2] + 1) % classes] = poison
    logits[5, labels[5]] = poison
    logits[7] = np.nan
    with run_on(any_device):
        for kernel in kernels_of(any_device, "softmax_cross_entropy", logits.shape):
            metrics = any_device.zeros((4,), np.float64)
            loss, dlogits = ops.softmax_cross_entropy(
                any_device.asarray(logits), any_device.asarray(labels), metrics=metrics, kernel=kernel
            )
            assert np.isnan(any_device.to_numpy(loss))
            bad = np.isnan(any_device.to_numpy(dlogits)).all(axis=1)
            assert bad.nonzero()[0].tolist() == [2, 5, 7]
            assert np.isfinite(any_device.to_numpy(dlogits)[~bad]).all()
            assert any_device.to_numpy(metrics)[[0, 2, 3]].tolist() == [9, 3, 3]


@pytest.mark.parametrize("classes", [6, 300])
def test_kernels_mark_labels_out_of_range(classes, device, rng):
    """On CUDA nobody reads the labels beforehand; the emulator's kernels are asked directly."""
    logits, labels = case((10, classes), rng)
    labels[[1, 4, 8]] = [-1, classes, 2**31 - 1]
    extent = device.ext.LossShape(examples=10, classes=classes)
    for name, nbytes in device.ext.softmax_cross_entropy_kernels(extent):
        loss, dlogits = device.empty(()), device.empty(logits.shape)
        metrics, workspace = device.zeros((4,), np.float64), device.empty((nbytes,), np.uint8)
        device.ext.softmax_cross_entropy(
            name,
            extent,
            loss,
            dlogits,
            metrics,
            device.asarray(logits),
            device.asarray(labels),
            None,
            5,
            0.1,
            workspace,
            device.stream(),
        )
        assert np.isnan(device.to_numpy(loss))
        bad = np.isnan(device.to_numpy(dlogits)).all(axis=1)
        assert bad.nonzero()[0].tolist() == [1, 4, 8]
        good = ~bad
        _, probabilities, top1, top_k = expected(logits[good], labels[good])
        probabilities[np.arange(7), labels[good]] -= 1
        assert_close(device.to_numpy(dlogits)[good], probabilities * 0.1, classes, scale=0.1)
        assert device.to_numpy(metrics)[[0, 2, 3]].tolist() == [10, 3 + top1, 3 + top_k]


def test_same_bits_under_every_schedule(run_on, rng):
    emulator = devices.emulator()
    logits, labels = case((70, 130), rng)
    results = []
    with run_on(emulator):
        for order, seed in [("fwd", 1), ("rev", 1), ("mix", 3), ("rand", 4)]:
            emulator.ext.configure(order, seed)
            metrics = np.zeros(4)
            loss, dlogits = ops.softmax_cross_entropy(logits, labels, metrics=metrics)
            results.append(np.concatenate([loss.reshape(1), dlogits.ravel(), metrics]))
    emulator.ext.configure()
    assert all(np.array_equal(r, results[0]) for r in results)


F = np.float32
X, Y = np.zeros((4, 6), F), np.zeros(4, np.int32)
BAD = [
    (
        lambda: ops.softmax(Y.astype(F)),
        ValueError,
        r"softmax: logits must have 2 dimensions \(N, C\), got shape \(4,\)",
    ),
    (lambda: ops.softmax(X.T), ValueError, r"softmax: logits must be C-contiguous"),
    (lambda: ops.softmax(X[:, :0]), ValueError, r"softmax: logits must not be empty"),
    (lambda: ops.softmax(X.astype(np.float16)), TypeError, r"softmax: logits must be float32.*got float16"),
    (lambda: ops.softmax_cross_entropy(X, Y.astype(F)), TypeError, r"labels must be integers, got float32"),
    (lambda: ops.softmax_cross_entropy(X, Y > 0), TypeError, r"labels must be integers, got bool"),
    (
        lambda: ops.softmax_cross_entropy(X, Y[:3]),
        ValueError,
        r"labels must have shape \(4,\) for the rows of logits, got \(3,\)",
    ),
    (lambda: ops.softmax_cross_entropy(X, Y + 6), ValueError, r"labels must be in 0 … 5, got 6 at index 0"),
    (
        lambda: ops.softmax_cross_entropy(X, np.array([0, 1, -2, 9], np.int32)),
        ValueError,
        r"got -2 at index 2",
    ),
    (lambda: ops.softmax_cross_entropy(X, Y, topk=0), ValueError, r"topk must be at least 1, got 0"),
    (lambda: ops.softmax_cross_entropy(X, Y, topk=2.5), TypeError, r"topk must be an integer, got float"),
    (lambda: ops.softmax_cross_entropy(X, Y, grad_scale=np.inf), ValueError, r"grad_scale must be finite"),
    (
        lambda: ops.softmax_cross_entropy(X, Y, metrics=np.zeros(3)),
        ValueError,
        r"metrics must have shape \(4,\), got \(3,\)",
    ),
    (
        lambda: ops.softmax_cross_entropy(X, Y, metrics=np.zeros(4, F)),
        TypeError,
        r"metrics must be float64, got float32",
    ),
    (lambda: ops.softmax_cross_entropy(X, Y, out=X), TypeError, r"out must be a tuple \(loss, dlogits\)"),
    (
        lambda: ops.softmax_cross_entropy(X, Y, out=(X[0], X)),
        ValueError,
        r"loss must have shape \(\), got \(6,\)",
    ),
    (
        lambda: ops.softmax_cross_entropy(X[:3], Y[:3], out=(None, X[1:])),
        ValueError,
        r"dlogits must be logits itself or not overlap",
    ),
    (
        lambda: ops.softmax_cross_entropy(X.tolist(), Y),
        TypeError,
        r"logits must be a NumPy or CUDA array, got list",
    ),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_refuses(call, error, message, where):
    with ops.on(where), pytest.raises(error, match=message):
        call()


def test_a_kernel_that_does_not_apply_is_refused():
    x = np.zeros((2, 129), F)
    with (
        ops.on("emulator"),
        pytest.raises(ValueError, match=r"'softmax_warp' does not apply.*: softmax_block"),
    ):
        ops.softmax(x, kernel="softmax_warp")
    with ops.on("cpu"), pytest.raises(ValueError, match="needs arrays on a CUDA device or the emulator"):
        ops.softmax(x, kernel="softmax_block")
    ext = devices.emulator().ext
    with pytest.raises(ValueError, match="kernel 'softmax_warp' does not support this shape"):
        ext.softmax("softmax_warp", ext.LossShape(examples=2, classes=129), x, x, 0)
