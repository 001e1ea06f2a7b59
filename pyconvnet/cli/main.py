"""The command ``pyconvnet``: reads what is typed, runs one of its commands.

Exit codes: 0 done; 1 a check failed, or training left the finite numbers; 2 a wrong option, file or data,
told in one line; 130 stopped by Ctrl-C. ``PYCONVNET_TRACEBACK=1`` shows where an error arose.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..common.text import columns
from . import arguments, convert, features, prepare, report, setting, status
from .parser import parser, version_text

_ERRORS = (ValueError, TypeError, OSError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default: the process's.
    """
    from ..common.devices import DeviceUnavailableError
    from ..training.ranks import RankError
    from ..training.run import NonFiniteLossError

    if getattr(sys.stdout, "errors", None) == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files and folders need not be UTF-8
    try:
        args = parser(_COMMANDS).parse_args(argv)
        args.argv = sys.argv[1:] if argv is None else argv
    except SystemExit as stop:  # --help, --version, or a wrong option
        return int(stop.code or 0)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("pyconvnet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except NonFiniteLossError as error:
        return _fail(error, 1)
    except (*_ERRORS, DeviceUnavailableError, RankError) as error:
        return _fail(error, 2)
    except RuntimeError as error:
        return _fail(error, 1)


def _fail(error: BaseException, code: int) -> int:
    if os.environ.get("PYCONVNET_TRACEBACK"):
        raise error
    if getattr(error, "tell", True):  # of several ranks one speaks
        print(f"pyconvnet: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return code


# ---- commands --------------------------------------------------------------------------------------------
def _train(args: argparse.Namespace) -> int:
    from ..training.ranks import current
    from ..training.train import train

    ranks = current()  # first of all: a rank that failed before it could not tell the others
    with ranks.guard():
        with ranks.together():
            model, data = arguments.training(args)
        options = (
            "epochs",
            "batch_size",
            "lr",
            "momentum",
            "weight_decay",
            "schedule",
            "seed",
            "init",
            "stop_after",
            "class_weights",
            "balance",
            "out",
            "workers",
            "keep_on_device",
            "checkpoint_minutes",
            "checkpoint_batches",
            "new_head",
            "freeze",
            "layer_rates",
            "keep",
            "tensorboard",
        )
        run = train(
            model,
            data,
            validation=args.validation,
            precision=args.precision,
            devices=arguments.devices(args.devices),
            replicas=args.replicas,
            hybrid=args.hybrid,
            resume=args.resume,
            augment=args.augment,
            progress=not args.quiet,
            **arguments.reading(args),
            **{option: getattr(args, option) for option in options},
        )
    if not ranks.main:
        return 0
    if run.interrupted:
        again = [
            *args.argv,
            *([] if args.out else ["--out", str(run.out)]),
            *([] if args.resume else ["--resume"]),
        ]
        how = "" if ranks.size == 1 else ", under mpirun on any number of ranks"
        print(f"stopped; go on with: {shlex.join(['pyconvnet', *again])}{how}", file=sys.stderr)
        return 130
    best = run.best
    if run.stopped_early:
        print(f"stopped early after epoch {len(run.history)}: no gain since epoch {best['epoch']}")
    if best is not None:
        kind = "train" if best["validation_error"] is None else "validation"
        print(f"best epoch {best['epoch']}: {kind} error {100 * best[f'{kind}_error']:.2f}%")
    for path in _pictures(run, args.validation if isinstance(args.validation, str) else data):
        print(f"wrote {path}")
    print(f"model: {run.out / ('last.safetensors' if best is None else 'best.safetensors')}")
    return 0


def _pictures(run: Any, data: Any) -> list[Path]:
    """Draw what can be drawn of a finished run; nothing where matplotlib is missing."""
    from ..trained import plots
    from ..training.run import warn_on_error

    made = [path for path in [run.out / "curves.png"] if path.is_file()]  # train() draws it
    drawers: dict[str, Callable[[Path], Path]] = {
        "filters.png": lambda path: plots.filters(run, path),
        "predictions.png": lambda path: plots.predictions(run, data, path),
    }
    for name, draw in drawers.items():
        try:
            with warn_on_error(f"no {name}", ValueError, plots.NotInstalledError):
                made.append(draw(run.out / name))
        except plots.NotInstalledError as error:
            print(f"no pictures: {error}", file=sys.stderr)
            break
        except ValueError:
            continue  # nothing to draw: no convolution, no finished epoch
    return made


def _evaluate(args: argparse.Namespace) -> int:
    from ..common.files import write_atomically
    from ..trained.checkpoint import load
    from ..trained.evaluate import evaluate

    model = load(args.model)
    models = [model, *map(load, args.others)]
    result = evaluate(
        models if args.at_size is None else [each.at_size(args.at_size) for each in models],
        arguments.data_of(args.data, model.network.name),
        args.views,
        batch_size=args.batch_size,
        workers=args.workers,
        **arguments.placing(args),
        **arguments.reading(args),
        progress=not args.json and sys.stderr.isatty(),
    )
    if args.csv:
        write_atomically(args.csv, result.csv().encode("utf-8", "surrogateescape"))
    if args.json:
        values = {
            "error": result.error,
            "top5_error": result.top5_error,
            "loss": result.loss,
            "views": result.views,
            "images": len(result),
            "seconds": round(result.seconds, 3),
            "skipped": result.skipped,
        }
        print(json.dumps(values))
    else:
        print(result.report() if args.report else repr(result))
    return 0


def _predict(args: argparse.Namespace) -> int:
    from ..trained.checkpoint import load
    from ..trained.prediction import image_sources, predict_each

    model, failed = load(args.model), 0
    model = model if args.at_size is None else model.at_size(args.at_size)
    _, paths = image_sources(args.images, model.preprocessing.image_shape)
    how = {**arguments.placing(args), **arguments.reading(args)}
    for path, guess, error in predict_each(model, paths, args.top, args.views, args.batch_size, **how):
        if guess is None:  # the others are still predicted
            failed = _fail(error, 2)
        elif args.json:
            classes = [{"name": name, "probability": p} for name, p in guess]
            print(json.dumps({"image": path, "classes": classes}))
        else:
            print(f"{path}: " + ", ".join(f"{name} {100 * p:.1f}%" for name, p in guess))
    return failed


def _plot(args: argparse.Namespace) -> int:
    from ..trained import plots
    from ..trained.checkpoint import load
    from ..trained.evaluate import evaluate

    place = Path(args.model)
    folder = place if place.is_dir() else place.parent
    output = Path(args.output) if args.output else folder / f"{args.kind}.png"
    if args.kind == "curves":
        path = plots.training_curves(args.model if place.suffix != ".safetensors" else folder, output)
    elif args.kind == "filters":
        path = plots.filters(load(args.model), output, args.layer)
    else:
        model, device = load(args.model), arguments.devices(args.device)
        data = arguments.data_of(args.data, model.network.name)
        if args.kind == "predictions":
            path = plots.predictions(
                model,
                data,
                output,
                count=args.count,
                only_errors=args.only_errors,
                views=args.views,
                seed=args.seed,
                device=device,
            )
        elif args.kind == "neighbours":
            from ..trained.neighbours import neighbours

            how = {"layer": args.layer, "count": args.count, "seed": args.seed, "device": device}
            path = neighbours(model, data, output, **how)
        else:
            path = plots.confusion(evaluate(model, data, args.views, device=device), output)
    print(f"wrote {path}")
    return 0


def _summary(args: argparse.Namespace) -> int:
    print(arguments.network_of(args).summary(args.batch_size))
    return 0


def _partition(args: argparse.Namespace) -> int:
    network = arguments.network_of(args)
    names = arguments.devices(args.devices)
    print(network.partition(names, args.replicas, args.hybrid, batch_size=args.batch_size))
    return 0


def _check_grads(args: argparse.Namespace) -> int:
    from ..plan.gradients import check_gradients

    network = arguments.network_of(args)
    print(f"{network.name}: central differences in float64, tolerance {args.tolerance:g}")
    results = check_gradients(
        network,
        batch_size=args.batch_size,
        samples=args.samples,
        tolerance=args.tolerance,
        seed=args.seed,
        progress=sys.stderr.isatty(),
    )
    rows = []
    for r in results:
        figures = f"{r.checked} derivatives", f"norm {r.norm:.3e}", f"relative error {r.error:.1e}"
        rows.append((r.name, *figures, "ok" if r.error <= args.tolerance else "WRONG"))
    print("\n".join(columns(rows, right=(1,))))
    failed = sum(row[-1] != "ok" for row in rows)
    print(f"{failed} of {len(results)} parameter arrays are wrong" if failed else f"all {len(results)} pass")
    return 1 if failed else 0


def _tune(args: argparse.Namespace) -> int:
    from ..ops import tuning
    from ..plan.tune import entries_table, export, table, tune

    cache = tuning.Cache()
    if sum(map(bool, (args.model, args.show, args.clear, args.export))) != 1:
        raise ValueError("tune: give a model, or one of --show, --clear, --export")
    if args.show:
        print(f"{cache.path}\n{entries_table(list(cache.entries.values()))}")
        if tuning.shipped():
            print(f"with the package\n{entries_table(tuning.shipped())}")
    elif args.clear:
        print(f"{cache.clear()} entries removed from {cache.path}")
    elif args.export:
        print(f"wrote {args.export}, entries: {export(args.export, args.device)}")
    else:
        choices = tune(
            arguments.network_of(args),
            args.batch_size,
            device=args.device,
            precision=args.precision,
            train=not args.inference,
            seconds=args.seconds,
            again=args.again,
            progress=sys.stderr.isatty(),
        )
        print(f"{table(choices)}\n{cache.path}")
    return 0


def _devices(args: argparse.Namespace) -> int:
    from ..common.devices import available_devices, get_device, peer_matrix

    default = get_device(None).name
    found = available_devices()
    codes = {n: code for n, r in found if r is None and (code := get_device(n).code) is not None}
    peers = peer_matrix()
    if args.json:
        print(
            json.dumps(
                [
                    {
                        "device": n,
                        "works": r is None,
                        "reason": r,
                        "default": n == default,
                        "code": str(codes[n]) if n in codes else None,
                        "peer_access": {m: p is True for m, p in peers.get(n, {}).items()},
                    }
                    for n, r in found
                ]
            )
        )
        return 0
    rows = []
    for name, reason in found:
        state = "works" if reason is None else f"does not work: {reason}"
        if name in codes:
            state += f", by {codes[name]}"
        rows.append((name, state + (" (default)" if name == default else "")))
    print("\n".join([*columns(rows), prepare.decoder_report(), *_peer_report(peers)]))
    return 0


def _peer_report(peers: dict[str, dict[str, bool | str]]) -> list[str]:
    """Tell which CUDA device reaches the memory of which others, as lines of text."""
    if len(peers) < 2:
        return [f"peer access: between CUDA devices, of which {len(peers) or 'none'} works here"]
    lines = []
    for name, others in peers.items():
        direct = [other for other, able in others.items() if able is True]
        lines.append(f"peer access: {name} to {', '.join(direct) or 'none'}")
        lines += [f"  not to {other}: {able}" for other, able in others.items() if able is not True]
    return lines


def _version(_: argparse.Namespace) -> int:
    print(version_text())
    return 0


_COMMANDS = {
    "train": _train,
    "prepare": prepare.run,
    "evaluate": _evaluate,
    "predict": _predict,
    "features": features.run,
    "plot": _plot,
    "report": report.run,
    "set": setting.run,
    "status": status.run,
    "convert": convert.run,
    "summary": _summary,
    "partition": _partition,
    "check-grads": _check_grads,
    "tune": _tune,
    "devices": _devices,
    "version": _version,
}
