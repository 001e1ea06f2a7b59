"""Trains cuda-convnet's 80sec net on CIFAR-10 with its own hyper-parameters, through the public API.

    python benchmarks/cifar10_80sec.py --data cifar-10-batches-py --json result.json --check-resume

Batch 128, raw pixels minus the mean image, no augmentation, rates 0.001 (weights) and 0.002 (biases),
momentum 0.9, weight decay 0.004 (convolutions) and 0.03 (fully connected), divided by ten after epoch 8.
cuda-convnet published 26% test error. The whole test set is read after every epoch; the run passes with
less than 42% after 3 epochs and at most 27% after 10.

`--check-resume` then trains on the first images only, once without a break and once killed with SIGKILL in
the middle of an epoch and resumed, and passes if both end with the same bits: parameters, momenta, errors.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# (after epoch, test error, is it a limit to stay under or one that may be met)
LIMITS = ((3, 0.42, "under"), (10, 0.27, "at most"))
RESUME_IMAGES, RESUME_EPOCHS, RESUME_EVERY = 12_800, 3, 30


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with CIFAR-10, Python or binary form"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", help="fp32 (default), tf32, fp32x3 or bf16")
    parser.add_argument("--threads", type=int, help="of the cpu device; default: all")
    parser.add_argument("--out", type=Path, help="folder of the run; default: a temporary one")
    parser.add_argument("--json", type=Path, help="write the result")
    parser.add_argument("--images", type=int, help="train on the first images only")
    parser.add_argument("--checkpoint-batches", type=int, help="write a checkpoint every so many batches")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--check-resume", action="store_true", help="also kill and resume a shorter run")
    parser.add_argument("--only-check-resume", action="store_true", help="do nothing else")
    options = parser.parse_args()
    if options.threads:
        os.environ["PYCONVNET_NUM_THREADS"] = str(options.threads)
    return options


# ---- training ----------------------------------------------------------------------------------------------


def train(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """One training run; its figures."""
    import pyconvnet as pcn

    training = pcn.Cifar10(options.data, train=True)
    if options.images:
        training = pcn.data.Subset(training, range(options.images))
    start = time.perf_counter()
    run = pcn.train(
        "cifar10_80sec",
        training,
        validation=pcn.Cifar10(options.data, train=False),
        epochs=options.epochs,
        seed=options.seed,
        devices=options.device,
        precision=options.precision,
        out=out,
        resume=options.resume,
        checkpoint_batches=options.checkpoint_batches,
    )
    return {
        "epochs": options.epochs,
        "seed": options.seed,
        "device": options.device,
        "precision": options.precision,
        "training_images": len(training),
        "seconds": round(time.perf_counter() - start, 1),
        "seconds_per_epoch": [record["seconds"] for record in run.history],
        "train_error": [round(record["train_error"], 5) for record in run.history],
        "test_error": [round(record["validation_error"], 5) for record in run.history],
        "test_loss": [round(record["validation_loss"], 5) for record in run.history],
        "finished": not run.interrupted,
    }


def judge(errors: list[float]) -> dict[str, bool]:
    """Whether the test errors keep the limits of the epochs that were run."""
    verdicts = {}
    for epoch, limit, how in LIMITS:
        if len(errors) >= epoch:
            error = errors[epoch - 1]
            verdicts[f"{how} {limit:.0%} after {epoch} epochs"] = (
                error < limit if how == "under" else error <= limit
            )
    return verdicts


# ---- kill and resume ---------------------------------------------------------------------------------------


def command(options: argparse.Namespace, out: Path, *extra: str) -> list[str]:
    """This script, training on the first images only, into `out`."""
    values = {
        "--data": options.data,
        "--epochs": RESUME_EPOCHS,
        "--seed": options.seed,
        "--device": options.device,
        "--precision": options.precision,
        "--images": RESUME_IMAGES,
        "--checkpoint-batches": RESUME_EVERY,
        "--out": out,
    }
    words = [str(word) for pair in values.items() for word in pair]
    return [sys.executable, str(Path(__file__).resolve()), *words, *extra]


def saved_steps(out: Path) -> list[int]:
    """Steps at which a run has written a checkpoint so far."""
    try:
        lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:  # the last line is being written
            break
    return [event["step"] for event in events if event["event"] == "checkpoint"]


def kill_in_the_middle(options: argparse.Namespace, out: Path, after_step: int) -> int:
    """Start a run, SIGKILL it a second after the checkpoint at `after_step`; the last step that was saved."""
    process = subprocess.Popen(command(options, out), stdout=subprocess.DEVNULL)
    try:
        while max(saved_steps(out), default=-1) < after_step:
            if process.poll() is not None:
                raise SystemExit("the run to be killed ended by itself")
            time.sleep(0.02)
        # Several batches on: killed is a step in flight, not a run that has just written everything down.
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the run to be killed ended with {process.returncode}")
    return max(saved_steps(out))


def final_state(out: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """All arrays of the last checkpoint as bytes, and the history without its times."""
    from pyconvnet.trained import checkpoint

    model, state, arrays = checkpoint.read(out / "last.safetensors")
    arrays = {**{f"parameter/{name}": value for name, value in model.parameters.items()}, **arrays}
    times = ("seconds", "images_per_second")
    history = [{k: v for k, v in record.items() if k not in times} for record in state["history"]]
    return {name: value.tobytes() for name, value in arrays.items()}, history


def check_resume(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a shorter run without a break, and once more with SIGKILL in between; are the bits the same?"""
    whole, broken = folder / "unbroken", folder / "killed"
    subprocess.run(command(options, whole), check=True)
    steps = RESUME_EPOCHS * (RESUME_IMAGES // 128)
    saved = kill_in_the_middle(options, broken, steps // 2)
    print(f"killed; the last checkpoint is of step {saved} of {steps}; resuming")
    subprocess.run(command(options, broken, "--resume"), check=True)
    arrays, history = final_state(whole)
    arrays_resumed, history_resumed = final_state(broken)
    digest = hashlib.sha256(b"".join(arrays[name] for name in sorted(arrays))).hexdigest()
    return {
        "training_images": RESUME_IMAGES,
        "epochs": RESUME_EPOCHS,
        "steps": steps,
        "resumed_from_step": saved,
        "arrays_compared": len(arrays),
        "sha256_of_arrays": digest,
        "same_bits": arrays == arrays_resumed,
        "same_history": history == history_resumed,
        "test_error": [record["validation_error"] for record in history],
    }


# ---- main --------------------------------------------------------------------------------------------------


def main() -> None:
    options = arguments()
    document: dict[str, Any] = {
        "benchmark": "cifar10_80sec",
        "command": shlex.join(["python", *sys.argv]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "published_test_error": 0.26,
    }
    load = [os.getloadavg()[0]]
    passed = True
    with tempfile.TemporaryDirectory(prefix="cifar10-80sec-") as temporary:
        if not options.only_check_resume:
            document["run"] = train(options, options.out or Path(temporary) / "run")
            whole = options.images is None
            document["verdicts"] = judge(document["run"]["test_error"]) if whole else {}
            passed = document["run"]["finished"] and all(document["verdicts"].values())
            errors = ", ".join(f"{error:.2%}" for error in document["run"]["test_error"])
            print(
                f"test error by epoch: {errors}; {document['run']['seconds']:.0f} s; {document['verdicts']}"
            )
        if options.check_resume or options.only_check_resume:
            document["resume"] = result = check_resume(options, Path(temporary))
            passed = passed and result["same_bits"] and result["same_history"]
            print(
                f"killed and resumed: same bits {result['same_bits']}, same history {result['same_history']}"
            )
    if options.json:
        from harness import machine, versions

        from pyconvnet.common.devices import get_device

        device = get_device(options.device)
        document |= {"machine": machine(device), "versions": versions(device)}
        document["threads"] = options.threads or document["machine"]["threads"]
        document["load_average"] = [*load, os.getloadavg()[0]]  # above the threads: others were at work
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if not passed:
        raise SystemExit("failed")


if __name__ == "__main__":
    main()
