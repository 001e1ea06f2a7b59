"""What a run tells of itself when it starts: in the log and on the screen."""

from __future__ import annotations

from typing import Any

from .resume import described


def write_start(trainer: Any) -> None:
    """Tell the log and the screen what is trained, on what, with which options and kernels."""
    names = [device.name for device in trainer.devices]
    validation = 0 if trainer.validation_set is None else len(trainer.validation_set)
    trainer.log.write(
        "start",
        step=trainer.step,
        epoch=trainer.epoch,
        resumed=trainer.saved is not None,
        network=trainer.network.name,
        parameters=trainer.network.num_parameters,
        device=names[0],
        devices=names,
        replicas=trainer.settings.replicas,
        hybrid=trainer.settings.hybrid,
        ranks=trainer.ranks.size,
        train_images=len(trainer.train_set),
        validation_images=validation,
        classes=len(trainer.train_set.classes),
        keep_on_device=trainer.settings.keep_on_device,
        options=trainer.settings.describe(),
    )
    for text in filter(None, (trainer.settings.told, trainer.settings.note)):
        trainer.log.write("note", step=trainer.step, epoch=trainer.epoch, text=text)
        trainer.progress.note(text)
    if trainer.plan.kernels:
        trainer.log.write("kernels", step=trainer.step, epoch=trainer.epoch, **_kernels(trainer))
    where = ", ".join(names) + (f" in each of {trainer.ranks.size} ranks" if trainer.ranks.size > 1 else "")
    kept = " kept on the device" if trainer.settings.keep_on_device else ""
    trainer.progress.note(
        f"{trainer.network.name}: {trainer.network.num_parameters:,} parameters on {where}; "
        f"{len(trainer.train_set):,} training and {validation:,} validation images{kept}; {trainer.out}"
    )


def _kernels(trainer: Any) -> dict[str, Any]:
    """Describe what runs: of each problem the kernel, and where known its time and its source."""
    chosen = []
    for problem, kernel in trainer.plan.kernels.items():
        choice = trainer.choices.get(problem)
        how = {} if choice is None else {"us": choice.us, "heuristic_us": choice.heuristic_us}
        source = "checkpoint" if choice is None else choice.source
        chosen.append({"problem": problem, "kernel": kernel, "source": source, **how})
    return described({}, trainer.devices[0]) | {"kernels": chosen}
