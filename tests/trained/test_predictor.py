"""Probabilities of all classes, and one plan that answers many threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from support.runs import go, small, toy

import pyconvnet as pcn
from pyconvnet.trained import predictor as module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return go(tmp_path_factory.mktemp("run") / "run", epochs=1).model


@pytest.fixture
def batches(monkeypatch):
    """How many images each computed batch had."""
    found, real = [], module.log_probabilities

    def counted(plan, images, draws):
        found.append(len(images))
        return real(plan, images, draws)

    monkeypatch.setattr(module, "log_probabilities", counted)
    return found


@pytest.mark.parametrize("device", ["cpu", "emulator"])
@pytest.mark.parametrize("views", [1, 10])
def test_probabilities_are_those_of_predict(model, device, views, tmp_path):
    x, _ = toy(9, seed=5)
    p = model.predict_proba(x, views=views, device=device, batch_size=4)
    assert (p.shape, p.dtype) == ((9, model.outputs), np.float64)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    guesses = pcn.predict(model, x, top=model.outputs, views=views, device=device, batch_size=4)
    for row, guess in zip(p, guesses, strict=True):
        assert guess == sorted(
            ((model.class_name(i), float(v)) for i, v in enumerate(row)), key=lambda pair: -pair[1]
        )
    Image.fromarray(x[2]).save(tmp_path / "a.png")
    one = model.predict_proba(tmp_path / "a.png", views=views, device=device)
    assert one.shape == (model.outputs,)
    np.testing.assert_allclose(one, p[2], rtol=1e-5)


def test_many_threads_get_their_own_answers(model, batches):
    """Requests of 1 to 5 images, uint8 and float, of 8 threads at once."""
    x, _ = toy(120, seed=6)
    wanted = model.predict_proba(x)
    starts = np.random.default_rng(1).integers(0, 115, 60)

    def ask(start):
        some = x[start : start + 1 + start % 5]
        if start % 2:
            some = some.astype(np.float32)
        return start, predictor.predict_proba(some if start % 5 else some[0])

    with pcn.Predictor(model, batch_size=16, wait=0.05) as predictor, ThreadPoolExecutor(8) as pool:
        for start, found in pool.map(ask, starts):
            expected = wanted[start : start + 1 + start % 5] if start % 5 else wanted[start]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert max(batches) <= 16
    assert sum(batches) == sum(1 + start % 5 for start in starts)
    assert len(batches) < len(starts)  # they shared


def test_what_waits_makes_the_next_batch(model, monkeypatch):
    """Three askers come while the first one's batch is computed: two batches, not four."""
    inside, go_on, sizes, real = threading.Event(), threading.Event(), [], module.log_probabilities

    def held(plan, images, draws):
        sizes.append(len(images))
        if len(sizes) == 1:
            inside.set()
            assert go_on.wait(60)
        return real(plan, images, draws)

    monkeypatch.setattr(module, "log_probabilities", held)
    x, _ = toy(4, seed=7)
    with pcn.Predictor(model) as predictor, ThreadPoolExecutor(4) as pool:
        first = pool.submit(predictor.predict, x[0])
        assert inside.wait(60)
        rest = [pool.submit(predictor.predict, image) for image in x[1:]]
        while predictor._waiting.qsize() < 3:
            assert not any(one.done() for one in rest)
        go_on.set()
        found = [one.result() for one in (first, *rest)]
    assert sizes == [1, 3]
    for guess, image in zip(found, x, strict=True):
        assert [name for name, _ in guess] == [name for name, _ in pcn.predict(model, image)]


def test_a_request_longer_than_a_batch(model, batches):
    x, _ = toy(11, seed=8)
    with pcn.Predictor(model, batch_size=4) as predictor:
        np.testing.assert_allclose(predictor.predict_proba(x), model.predict_proba(x), rtol=1e-4, atol=1e-7)
        assert len(predictor.predict(x, top=2)) == 11
    assert max(batches) <= 4


def test_an_error_reaches_those_who_asked_and_no_one_else(model, monkeypatch, tmp_path):
    x, _ = toy(2, seed=9)
    (tmp_path / "bad.png").write_bytes(b"no image")
    real = module.log_probabilities

    def failing(plan, images, draws):
        if images.max() == 0:
            raise MemoryError("planted")
        return real(plan, images, draws)

    monkeypatch.setattr(module, "log_probabilities", failing)
    with pcn.Predictor(model) as predictor:
        with pytest.raises(ValueError, match=r"bad\.png"):
            predictor.predict([tmp_path / "bad.png"])
        with pytest.raises(MemoryError, match="planted"):
            predictor.predict(np.zeros_like(x))
        np.testing.assert_allclose(predictor.predict_proba(x), model.predict_proba(x), rtol=1e-4, atol=1e-7)


def test_closing(model):
    before = threading.active_count()
    predictor = pcn.Predictor(model)
    x, _ = toy(1, seed=10)
    predictor.predict(x[0])
    predictor.close()
    predictor.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        predictor.predict(x[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.0}, TypeError, "batch_size"),
        ({"wait": -1}, ValueError, "wait"),
        ({"wait": "soon"}, TypeError, "wait"),
        ({"views": 3}, ValueError, "views"),
        ({"max_pixels": 0}, ValueError, "max_pixels"),
        ({"device": "abacus"}, ValueError, "abacus"),
        ({"precision": "fp8"}, ValueError, "precision"),
    ],
)
def test_bad_options(model, options, error, message):
    before = threading.active_count()
    with pytest.raises(error, match=message):
        pcn.Predictor(model, **options)
    assert threading.active_count() == before


def test_no_model():
    with pytest.raises(TypeError, match="model must be"):
        pcn.Predictor(small())
