"""The cases of same_bits.py: what is trained or computed, and the SHA-256 of all that comes out.

    python -P benchmarks/same_bits_cases.py CIFAR_FOLDER IMAGES [CASE ...]

prints one JSON line a case: its name, the SHA-256 of each part, seconds of processor time. same_bits.py runs
it with one of the two trees on PYTHONPATH. Only public names and the formats of checkpoint and log are used,
so that the one script fits both.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PRECISIONS = ("fp32", "tf32", "fp32x3", "bf16")
CLASSES = 10

# ---- sums --------------------------------------------------------------------------------------------------


def sha256(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def of_json(value: Any) -> str:
    """SHA-256 of a JSON-ready value; its floats are written with all their digits."""
    return sha256([json.dumps(value, sort_keys=True).encode()])


def flat(value: Any) -> Iterator[bytes]:
    """dtype, shape and bytes of an array, or of all arrays in a tuple."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from flat(part)
    else:
        array = np.ascontiguousarray(value)
        yield f"{array.dtype}{array.shape}".encode()
        yield array.tobytes()


def of_checkpoint(path: Path, prefix: str) -> str:
    """SHA-256 of the tensors of a .safetensors file whose names begin with `prefix`."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:start])
    chosen = {name: tensor for name, tensor in sorted(head.items()) if name.startswith(prefix)}
    if not chosen:
        raise RuntimeError(f"{path.name} holds no tensor named {prefix}...")
    parts = []
    for name, tensor in chosen.items():
        begin, end = tensor["data_offsets"]
        parts += [f"{name}{tensor['dtype']}{tensor['shape']}".encode(), content[start + begin : start + end]]
    return sha256(parts)


def losses(path: Path) -> list[dict[str, Any]]:
    """The records of losses and errors in a log, without times."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [record for record in records if record["event"] in ("train", "validation")]
    if not kept:
        raise RuntimeError(f"{path.name} holds no loss")
    timing = ("time", "times", "images_per_second")
    return [{k: v for k, v in r.items() if k not in timing} for r in kept]


# ---- trainings ---------------------------------------------------------------------------------------------


def trained(model: Any, data: Any, test: Any, views: int = 1, **options: Any) -> dict[str, str]:
    """Train, evaluate and predict; SHA-256 of what comes out, part by part."""
    import pyconvnet as pcn

    how = {name: options[name] for name in ("precision", "replicas", "hybrid") if name in options}
    how |= {"device": options["devices"], "batch_size": 16}
    with tempfile.TemporaryDirectory() as folder:
        run = pcn.train(model, data, seed=7, progress=False, workers=0, out=Path(folder) / "run", **options)
        last, log = run.out / "last.safetensors", run.out / "log.jsonl"
        sums = {
            part: of_checkpoint(last, prefix)
            for part, prefix in (("weights", "parameter/"), ("momenta", "momentum/"), ("state", "state/"))
        }
        sums["losses"] = of_json(losses(log))
    result = pcn.evaluate(run, test, views, **how)
    guesses = pcn.predict(run, list(test.read(range(min(16, len(test))))), top=CLASSES, views=views, **how)
    sums["predictions"] = of_json(
        [guesses, result.loss, result.error, result.top5_error, result.predictions.tolist()]
    )
    return sums


def pictures(count: int, size: int) -> Any:
    """A dataset of noise around a colour of each class."""
    import pyconvnet as pcn

    rng = np.random.default_rng(size * count)
    labels = np.arange(count) % CLASSES
    tone = rng.integers(0, 128, (CLASSES, 1, 1, 3))
    images = (tone[labels] + rng.integers(0, 128, (count, size, size, 3))).astype(np.uint8)
    return pcn.data.ArrayDataset(images, labels, [f"class {i}" for i in range(CLASSES)])


def first(dataset: Any, count: int) -> Any:
    """The first examples of a dataset."""
    import pyconvnet as pcn

    return pcn.data.Subset(dataset, range(min(count, len(dataset))))


def digits(device: str, images: int, epochs: int) -> dict[str, str]:
    import pyconvnet as pcn

    data, test = (first(pcn.data.Digits(train=train), images) for train in (True, False))
    return trained("digits", data, test, validation=test, epochs=epochs, devices=device)


def cifar(device: Any, folder: Path, images: int, **options: Any) -> dict[str, str]:
    """Train cuda-convnet's 80sec net for two epochs."""
    import pyconvnet as pcn

    data, test = (first(pcn.data.Cifar10(folder, train=train), images) for train in (True, False))
    return trained("cifar10_80sec", data, test, validation=test, epochs=2, devices=device, **options)


def alexnet(
    devices: Any, images: int, batch: int, name: str = "alexnet", views: int = 1, **options: Any
) -> dict[str, str]:
    """AlexNet with an eighth of its filters on 67 pixels, He's values and a normalisation that matters."""
    import pyconvnet as pcn

    net = pcn.models.build(name, classes=CLASSES, input_size=67, width=0.125, lrn_alpha=1.0, init="he")
    how = {"epochs": 2, "batch_size": batch, "schedule": "constant", "devices": devices, **options}
    return trained(net, pictures(images, 70), pictures(batch, 70), views, **how)


# ---- single operations -------------------------------------------------------------------------------------


def numbers(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(sum((i + 3) * n for i, n in enumerate(shape)))
    return rng.standard_normal(shape, dtype=np.float32)


def each_kernel(
    run: Callable[..., Any], listing: tuple[Any, ...], options: dict[str, Any], device: str
) -> list[bytes]:
    """Results of all kernels that apply, in the table's order; on the cpu of the one way there is."""
    from pyconvnet import ops

    names = [None] if device == "cpu" else ops.kernels(*listing, **options, device=device)
    return [part for name in names for part in flat(run(kernel=name))]


def products(device: str, precision: str) -> dict[str, str]:
    """Convolutions and fully connected layers in all directions, by every kernel that applies."""
    from pyconvnet import ops

    problems = {
        "11x11 stride 4": ((2, 35, 35, 3), (16, 11, 11, 3), {"stride": 4, "pad": ((0, 3), (0, 3))}),
        "5x5 groups": ((2, 7, 7, 32), (32, 5, 5, 16), {"pad": 2, "groups": 2}),
        "3x3": ((2, 6, 6, 32), (64, 3, 3, 32), {"pad": 1}),
        "odd": ((3, 5, 6, 5), (7, 3, 2, 5), {"stride": (2, 1), "pad": 1}),
    }

    def cast(array: np.ndarray) -> np.ndarray:
        if precision == "bf16":
            import ml_dtypes

            return array.astype(ml_dtypes.bfloat16)
        return array.astype(np.float64) if precision == "fp64" else array

    said = {} if precision == "fp64" or device == "cpu" else {"precision": precision}
    sums = {}
    with ops.on(device):
        for name, (x_shape, w_shape, options) in problems.items():
            x, w = cast(numbers(*x_shape)), cast(numbers(*w_shape))
            dy = cast(numbers(*ops.conv2d(x, w, **options).shape))
            how = {**options, **said}
            calls = {
                "conv2d": lambda x=x, w=w, how=how, **k: ops.conv2d(x, w, **how, **k),
                "conv2d_dgrad": lambda dy=dy, w=w, s=x_shape, how=how, **k: ops.conv2d_dgrad(
                    dy, w, s, **how, **k
                ),
                "conv2d_wgrad": lambda dy=dy, x=x, s=w_shape, how=how, **k: ops.conv2d_wgrad(
                    dy, x, s, **how, **k
                ),
            }
            for op, call in calls.items():
                sums[f"{op} {name}"] = sha256(each_kernel(call, (op, x_shape, w_shape), how, device))
        for rows, inputs, outputs in ((3, 40, 24), (17, 96, 32)):
            x, w = cast(numbers(rows, inputs)), cast(numbers(outputs, inputs))
            dy = cast(numbers(rows, outputs))
            calls = {
                "linear": lambda x=x, w=w, **k: ops.linear(x, w, **said, **k),
                "linear_dgrad": lambda dy=dy, w=w, **k: ops.linear_dgrad(dy, w, **said, **k),
                "linear_wgrad": lambda dy=dy, x=x, **k: ops.linear_wgrad(dy, x, **said, **k),
            }
            for op, call in calls.items():
                listing = (op, x.shape, w.shape)
                sums[f"{op} {rows}x{inputs}"] = sha256(each_kernel(call, listing, said, device))
    return sums


def others(device: str, dtype: str) -> dict[str, str]:
    """The other operations on feature maps, by every kernel that applies."""
    import ml_dtypes

    from pyconvnet import ops

    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    shape = (2, 9, 8, 32)
    x, dy, b = numbers(*shape).astype(kind), numbers(*shape[::-1]).reshape(shape).astype(kind), numbers(32)
    b = b.astype(np.float64 if dtype == "float64" else np.float32)
    sums = {}

    def add(op: str, call: Callable[..., Any], *listing: Any, label: str = "", **options: Any) -> Any:
        result = call()
        parts = each_kernel(call, (op, *listing), options, device) if listing else flat(result)
        sums[f"{op}{label}"] = sha256(parts)
        return result

    with ops.on(device):
        for op in ("relu", "tanh", "logistic"):
            y = add(op, lambda op=op, **k: getattr(ops, op)(x, **k), shape)
            back = getattr(ops, f"{op}_backward")
            add(f"{op}_backward", lambda back=back, y=y, **k: back(dy, y, **k), shape)
        add("add", lambda **k: ops.add(x, dy, alpha=0.5, **k), shape)
        add("add_bias", lambda **k: ops.add_bias(x, b, **k), shape)
        add("bias_backward", lambda **k: ops.bias_backward(x, **k), shape)
        both = add("concat", lambda: ops.concat([x, dy]))
        add("split", lambda: ops.split(both, [8, 56]))
        _, mask = add("dropout", lambda **k: ops.dropout(x, 0.4, 3, 5, 1, **k), shape)
        add("dropout_backward", lambda: ops.dropout_backward(dy, mask, 0.4))
        add("bias_relu_dropout", lambda: ops.bias_relu_dropout(x.reshape(-1, 32), b, 0.5, 3, 5, 1))
        y, argmax = add("max_pool2d", lambda **k: ops.max_pool2d(x, **k), shape)
        add("max_pool2d_backward", lambda **k: ops.max_pool2d_backward(y, argmax, shape, **k), shape)
        y = add("avg_pool2d", lambda **k: ops.avg_pool2d(x, ceil_mode=True, **k), shape, ceil_mode=True)
        add("avg_pool2d_backward", lambda: ops.avg_pool2d_backward(y, shape, ceil_mode=True))
        y, scale = add("lrn", lambda **k: ops.lrn(x, 5, 1.0, groups=2, **k), shape, groups=2)
        add(
            "lrn_backward",
            lambda **k: ops.lrn_backward(dy, x, y, scale, 5, 1.0, groups=2, **k),
            *(shape, 5, 2),
        )
        y, scale = add("lrn_spatial", lambda **k: ops.lrn_spatial(x, 5, 1.0, **k), shape)
        add("lrn_spatial_backward", lambda **k: ops.lrn_spatial_backward(dy, x, y, scale, 5, 1.0, **k), shape)
        y, argmax = add("lrn_max_pool2d", lambda **k: ops.lrn_max_pool2d(x, alpha=1.0, **k), shape)
        back = ops.lrn_max_pool2d_backward
        add("lrn_max_pool2d_backward", lambda **k: back(y, argmax, x, alpha=1.0, **k), shape)
        for width in (32, 2304):
            logits, label = x.reshape(-1, width)[:8], f" of {width}"
            labels = np.arange(len(logits), dtype=np.int32)
            add("softmax", functools.partial(ops.softmax, logits), logits.shape, label=label)
            call = functools.partial(ops.softmax_cross_entropy, logits, labels)
            add("softmax_cross_entropy", call, logits.shape, label=label)
    return sums


# ---- the list ----------------------------------------------------------------------------------------------


def cases(folder: Path, images: int) -> dict[str, Callable[[], dict[str, str]]]:
    """The cases by name: first the cpu's, then the emulator's, with as little work as shows every kernel."""
    part = functools.partial
    found: dict[str, Callable[[], dict[str, str]]] = {
        "digits, cpu": part(digits, "cpu", 1438, 8),
        "digits, emulator": part(digits, "emulator", 64, 1),
        "80sec, cpu": part(cifar, "cpu", folder, images),
        "80sec, emulator": part(cifar, "emulator", folder, 16, batch_size=8),
    }
    for device, count, batch in (("cpu", 24, 8), ("emulator", 4, 2)):
        run = part(alexnet, images=count, batch=batch)
        two, four = [device] * 2, [device] * 4
        found |= {
            f"alexnet, {device}": part(run, device),
            f"alexnet, {device}, two towers": part(run, two),
            f"alexnet, {device}, two replicas": part(run, two, replicas=2),
            f"alexnet, {device}, hybrid": part(run, two, replicas=2, hybrid=True),
            f"alexnet, {device}, 2 replicas x 2 towers": part(run, four, images=2 * batch, replicas=2),
            f"alexnet_2012, {device}": part(run, device, name="alexnet_2012"),
        }
        for precision in ("bf16",) if device == "cpu" else PRECISIONS[1:]:
            found[f"alexnet, {device}, {precision}"] = part(run, device, precision=precision)
    found["alexnet, cpu, ten views"] = part(alexnet, "cpu", 16, 8, views=10)
    for device, kinds in (("cpu", ("fp32", "fp64", "bf16")), ("emulator", PRECISIONS)):
        found |= {f"products, {device}, {kind}": part(products, device, kind) for kind in kinds}
    for device, kinds in (("cpu", ("float32", "float64", "bfloat16")), ("emulator", ("float32", "bfloat16"))):
        found |= {f"other operations, {device}, {kind}": part(others, device, kind) for kind in kinds}
    return found


def check_origin(tree: Path) -> None:
    """Raise where a module of the package came from elsewhere, an editable install say."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] == "pyconvnet" and file and not Path(file).is_relative_to(tree):
            raise ImportError(f"{name} was loaded from {file}, not from {tree}")


def main() -> None:
    """Run the cases; one that raises has the error in place of sums."""
    folder, images, *wanted = sys.argv[1:]
    found = cases(Path(folder), int(images))
    for name in wanted or found:
        start = time.process_time()
        try:
            sums = found[name]()
            check_origin(Path(os.environ["PYTHONPATH"]))
        except Exception as error:
            traceback.print_exc()
            sums = {"error": f"{type(error).__name__}: {error}"}
        seconds = round(time.process_time() - start, 1)
        print(json.dumps({"case": name, "sums": sums, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
