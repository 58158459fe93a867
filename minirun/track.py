"""A run's figures sent to TensorBoard or Weights & Biases as well; each is imported only when it is used."""

import uuid
from pathlib import Path

from minihub import atomic_write
from minirun.flags import missing_packages

NEEDS = {"none": None, "tensorboard": "tensorboard>=2.16", "wandb": "wandb>=0.17"}


class NoTracker:
    """Sends nothing; the interface of every tracker."""

    def send(self, values: dict) -> None:
        """Args: values: numbers by name, one of them `step`; None for a figure that a step lacks."""

    def close(self) -> None:
        """Deliver what is still on its way. To be called when the run ends or stops."""


class TensorBoard(NoTracker):
    """Event files in RUN/tensorboard, flushed after each line."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        # A resumed run logs the steps after its checkpoint again: hide the old points.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def send(self, values: dict) -> None:
        for name in values.keys() - {"step"}:
            if values[name] is not None:
                self.writer.add_scalar(name, values[name], values["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB(NoTracker):
    """A run in the project "minibert", named after its folder; its id is in RUN/wandb/id, its files beside that."""

    def __init__(self, folder: Path):
        import wandb

        path = folder / "wandb" / "id"
        if not path.exists():
            with atomic_write(path.parent) as part:
                (part / path.name).write_text(uuid.uuid4().hex, encoding="utf-8")
        settings = wandb.Settings(console="off", disable_git=True, save_code=False)
        names = {"project": "minibert", "name": folder.resolve().name, "id": path.read_text(encoding="utf-8")}
        try:
            self.run = wandb.init(**names, dir=str(folder), resume="allow", settings=settings)
        except wandb.Error as error:
            raise ValueError(f"--track wandb: {error}; WANDB_MODE=offline needs neither network nor account") from error

    def send(self, values: dict) -> None:
        # wandb drops steps older than its last one, so what a resumed run sends again changes nothing
        self.run.log(values, step=values["step"])

    def close(self) -> None:
        self.run.finish()


def check_tracker(name: str) -> None:
    """Raise ValueError, with the install command, when the package that this tracker needs is not installed."""
    if NEEDS[name] and missing_packages(name):
        raise ValueError(f"--track {name} needs a package that is not installed: pip install '{NEEDS[name]}'")


def open_tracker(name: str, folder: str | Path, step: int) -> NoTracker:
    """The tracker `none`, `tensorboard` or `wandb` of the run in `folder`; it continues where an earlier one stopped.

    Args: step: the last step whose figures are kept; later ones will be sent again.
    Raises ValueError when wandb cannot start.
    """
    if name == "none":
        return NoTracker()
    return TensorBoard(Path(folder), step) if name == "tensorboard" else WandB(Path(folder))
