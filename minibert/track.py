"""A run's figures sent to TensorBoard or Weights & Biases too, each imported only where it is used."""

import importlib.util
import uuid
from pathlib import Path

from minibert.files import whole_files

NEEDS = {"none": None, "tensorboard": "tensorboard>=2.16", "wandb": "wandb>=0.17"}


class NoTracker:
    """Sends nothing; what every tracker can do."""

    def send(self, values: dict) -> None:
        """Args: values: numbers by name, one of them `step`; None where there is none."""

    def close(self) -> None:
        """To be called when the run ends or stops: what is on its way arrives."""


class TensorBoard(NoTracker):
    """Event files in RUN/tensorboard, on the disk after each line."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        # what a killed run sent after its last checkpoint comes again: of the old points, those are hidden
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def send(self, values: dict) -> None:
        for name in values.keys() - {"step"}:
            if values[name] is not None:
                self.writer.add_scalar(name, values[name], values["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB(NoTracker):
    """A run in the project "minibert", named after its folder; its id stands in RUN/wandb/id, its files beside that."""

    def __init__(self, folder: Path):
        import wandb

        path = folder / "wandb" / "id"
        if not path.exists():
            with whole_files(path.parent) as part:
                (part / path.name).write_text(uuid.uuid4().hex, encoding="utf-8")
        settings = wandb.Settings(console="off", disable_git=True, save_code=False)
        names = {"project": "minibert", "name": folder.resolve().name, "id": path.read_text(encoding="utf-8")}
        try:
            self.run = wandb.init(**names, dir=str(folder), resume="allow", settings=settings)
        except wandb.Error as error:
            raise ValueError(f"--track wandb: {error}; WANDB_MODE=offline needs neither network nor account") from error

    def send(self, values: dict) -> None:
        # steps that a resumed run sends again are older than wandb's last one: it drops them, and they are the same
        self.run.log(values, step=values["step"])

    def close(self) -> None:
        self.run.finish()


def check_tracker(name: str) -> None:
    """Raises ValueError when the package that this tracker needs is not installed, and says how to install it."""
    spec = importlib.util.find_spec(name) if NEEDS[name] else None
    if NEEDS[name] and (spec is None or spec.origin is None):  # without origin: a mere folder of that name
        raise ValueError(f"--track {name} needs a package that is not installed: pip install '{NEEDS[name]}'")


def open_tracker(name: str, folder: str | Path, step: int) -> NoTracker:
    """The tracker of the run in `folder`: none, tensorboard or wandb; it goes on where one was before.

    Args: step: the last step whose figures stay; those of the next ones are about to be sent.
    Raises ValueError when wandb cannot start.
    """
    if name == "none":
        return NoTracker()
    return TensorBoard(Path(folder), step) if name == "tensorboard" else WandB(Path(folder))
