"""Learning-rate schedules."""

import copy
import json
import math

import pytest
from support.runs import go

from pyconvnet.training.schedules import Constant, Plateau, Steps, Warmup, schedule


def test_constant():
    for spec in (None, "constant", Constant()):
        assert [schedule(spec).factor(e) for e in (0, 5, 900)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("spec", [[(2, 0.1), (3, 0.5)], ((2, 0.1), (3, 0.5)), "steps:2=0.1,3=0.5"])
def test_steps_multiply_up(spec):
    factors = [schedule(spec).factor(e) for e in range(5)]
    assert factors == pytest.approx([1, 1, 0.1, 0.05, 0.05])


def test_function_of_the_epoch():
    assert schedule(lambda epoch: 0.5**epoch).factor(3) == 0.125
    with pytest.raises(ValueError, match="function returns for epoch 2 must be finite"):
        schedule(lambda epoch: math.nan).factor(2)
    with pytest.raises(TypeError, match="must be a number"):
        schedule(lambda epoch: "x").factor(0)


def follow(s, errors):
    factors = []
    for epoch, error in enumerate(errors):
        factors.append(s.factor(epoch))
        s.observe(epoch, error)
    return factors


def test_plateau_divides_by_ten_when_the_error_stops_falling():
    errors = [0.9, 0.8, 0.8, 0.7, 0.7, 0.75, 0.6, 0.65, 0.65, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7]
    factors = follow(schedule("plateau:patience=2,times=3"), errors)
    # 0.7 is not undercut at epochs 4 and 5; 0.6 not at 7 and 8, nor at 9 and 10; then the three falls are
    # used up
    want = [1] * 6 + [0.1] * 3 + [0.01] * 2 + [0.001] * 4
    assert factors == pytest.approx(want)


def test_plateau_min_delta_and_missing_validation():
    assert follow(Plateau(patience=1, min_delta=0.05), [0.5, 0.48, 0.46, 0.40]) == pytest.approx(
        [1, 1, 0.1, 0.01]
    )
    assert follow(Plateau(patience=1), [0.5, None, None, 0.4]) == [1, 1, 1, 1]


def test_plateau_state_survives_json():
    errors = [0.5, 0.4, 0.45, 0.41, 0.39, 0.5, 0.5, 0.5]
    whole = follow(Plateau(patience=2), errors)
    for cut in range(len(errors)):
        first, second = Plateau(patience=2), Plateau(patience=2)
        begun = follow(first, errors[:cut])
        second.restore(json.loads(json.dumps(first.state())))
        assert begun + follow(second, errors[cut:]) == whole


@pytest.mark.parametrize(
    "spec", ["constant", [(3, 0.5)], "plateau:factor=0.2,patience=4,times=1,min_delta=0.01", "plateau"]
)
def test_description_makes_the_same_schedule(spec):
    first = schedule(spec)
    again = schedule(json.loads(json.dumps(first.describe())))
    assert type(again) is type(first)
    assert again.describe() == first.describe()


def test_kinds():
    assert isinstance(schedule("plateau"), Plateau)
    assert schedule("plateau").needs_validation
    assert not schedule("constant").needs_validation
    assert isinstance(schedule([]), Steps)
    ready = Plateau(patience=7)
    assert schedule(ready) is ready


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("cosine", ValueError, "schedule must be 'constant'"),
        ("constant:x=1", ValueError, "schedule must be"),
        ("steps", ValueError, "schedule must be"),
        ("steps:8", ValueError, "cannot read 'steps:8'"),
        ("steps:8=x", ValueError, "cannot read"),
        ("steps:1.5=0.1", ValueError, "must be whole numbers"),
        ("steps:5=0.1,3=0.1", ValueError, "must not decrease"),
        ("plateau:speed=3", ValueError, "got 'speed'"),
        ("plateau:patience=0", ValueError, "patience must be at least 1"),
        ("plateau:patience=1.5", ValueError, "must be a whole number"),
        ("plateau:factor=-1", ValueError, "must not be negative"),
        ("plateau:times=nan", ValueError, "whole number|finite"),
        ([8, 0.1], ValueError, r"pairs \(epoch, factor\)"),
        ([(8, 0.1, 3)], ValueError, "pairs"),
        ([(-1, 0.1)], ValueError, "at least 0"),
        ([(1, float("nan"))], ValueError, "must be finite"),
        ([(1.5, 0.1)], TypeError, "must be an int"),
        (0.1, TypeError, "schedule must be a name"),
    ],
)
def test_bad_schedules(spec, error, message):
    with pytest.raises(error, match=message):
        schedule(spec)


# ---- warm-up -----------------------------------------------------------------------------------------------
def test_warmup_grows_evenly_to_the_full_rate():
    for spec in ("warmup:3", "warmup:epochs=3", Warmup(3)):
        assert [schedule(spec).factor(e) for e in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [schedule("warmup:0").factor(e) for e in range(2)] == [1, 1]


def test_warmup_then_another_schedule():
    steps = schedule("warmup:3,then=steps:1=0.5,4=0.1")  # epochs are the run's
    assert [steps.factor(e) for e in range(6)] == pytest.approx([0.25, 0.25, 0.375, 0.5, 0.05, 0.05])
    halved = Warmup(1, then=lambda epoch: 0.5**epoch)
    assert [halved.factor(e) for e in range(4)] == [0.5, 0.5, 0.25, 0.125]
    plateau = schedule("warmup:2,then=plateau:patience=2")
    assert plateau.needs_validation
    assert not steps.needs_validation
    # 0.1 of epoch 1 is not seen: the rule begins with epoch 2's 0.8, and waits through 3 and 4
    assert follow(plateau, [0.9, 0.1, 0.8, 0.8, 0.8, 0.8]) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 0.1])


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("warmup:5", "warmup:5"),
        ("warmup:5,then=constant", "warmup:5"),
        ("warmup:2,then=steps:8=0.1,10=0.25", "warmup:2,then=steps:8=0.1,10=0.25"),
        (Warmup(2, [(8, 1 / 3)]), f"warmup:2,then=steps:8={1 / 3!r}"),
        (Warmup(2, []), "warmup:2"),
        (
            "warmup:1,then=plateau:patience=3",
            "warmup:1,then=plateau:factor=0.1,patience=3,times=3,min_delta=0",
        ),
        ("warmup:1,then=warmup:4", "warmup:1,then=warmup:4"),
    ],
)
def test_warmup_is_described_as_it_is_written(spec, text):
    assert schedule(spec).describe() == text
    again = schedule(text)
    assert again.describe() == text
    assert [again.factor(e) for e in range(12)] == [schedule(spec).factor(e) for e in range(12)]


def test_warmup_state_survives_json():
    text, errors = "warmup:2,then=plateau:patience=1", [0.9, 0.9, 0.5, 0.6, 0.4, 0.4, 0.4]
    whole = follow(schedule(text), errors)
    assert whole == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.1, 0.1, 0.01])
    for cut in range(len(errors)):
        first, second = schedule(text), schedule(text)
        begun = follow(first, errors[:cut])
        second.restore(json.loads(json.dumps(first.state())))
        rest = []
        for epoch, error in enumerate(errors[cut:], cut):
            rest.append(second.factor(epoch))
            second.observe(epoch, error)
        assert begun + rest == whole


def test_a_copied_warmup_has_a_state_of_its_own():
    mine = schedule("warmup:0,then=plateau:patience=1")
    assert follow(copy.copy(mine), [0.5, 0.5, 0.5])[-1] == pytest.approx(0.1)
    assert mine.factor(9) == 1


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("warmup", "write 'warmup:5' or 'warmup:5,then=plateau', got 'warmup'"),
        ("warmup:-1", "write 'warmup:5'"),
        ("warmup:2.5", "write 'warmup:5'"),
        ("warmup:5,plateau", "write 'warmup:5'"),
        ("warmup:5,then=cosine", "schedule must be 'constant'.*'warmup:EPOCHS.*got 'cosine'"),
    ],
)
def test_warmups_that_make_no_sense(spec, match):
    with pytest.raises(ValueError, match=match):
        schedule(spec)


def test_a_run_with_a_warmup_resumes_to_the_same_bits(tmp_path):
    text = "warmup:2,then=plateau:patience=1"
    whole = go(tmp_path / "whole", epochs=5, schedule=text)
    go(tmp_path / "run", epochs=1, schedule=text)
    go(tmp_path / "run", epochs=4, resume=True)
    run = go(tmp_path / "run", epochs=5, resume=True)
    rates = [record["lr"] for record in run.history]
    assert rates[:3] == pytest.approx([0.02 / 3, 0.04 / 3, 0.02])
    assert rates == [record["lr"] for record in whole.history]
    for name, value in whole.model.parameters.items():
        assert value.tobytes() == run.model.parameters[name].tobytes()
