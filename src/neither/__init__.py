"""Train a small image classifier that knows when to say: neither.

    import neither

    classifier = neither.load("runs/photos")
    print(classifier("cat.jpg").probabilities)

This is the Python API; `docs/api.md` tells more. Importing it is quick: torch comes with the first
call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neither.inference.prediction import Verdict
from neither.runtime.errors import DataError, UserError

if TYPE_CHECKING:
    from neither.inference.classifier import Classifier

__all__ = ["Classifier", "DataError", "UserError", "Verdict", "evaluate", "load", "train"]


def load(model: str | Path, device: str = "auto") -> "Classifier":
    """Load a classifier. Nothing of the process is changed: no signals, logs, threads or seeds.

    Args:
        model: the folder of a run, whose `best.pt` is meant, or one checkpoint file.
        device: auto, cpu, cuda, cuda:N or mps; auto takes what the machine has.

    Raises:
        UserError: if there is none, it cannot be used, or the device is missing.
    """
    from neither.inference.classifier import load_classifier
    from neither.runtime.devices import choose_device

    return load_classifier(Path(model), choose_device(device))


def train(
    config: str | Path,
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    fresh: bool = False,
) -> Path:
    """Train as `scripts/train.py` does: go on with an unfinished run, leave a finished one alone.

    Images are decoded in processes of their own, so a script calls this below
    `if __name__ == "__main__":`. Messages go to the logger `neither`.

    Args:
        config: a YAML file.
        overrides: put over its values, such as `train.epochs=20`.
        output_dir: the run's folder; None for `runs/<name>`.
        fresh: start over; the old folder is kept as `<folder>.1`.

    Returns:
        The run's folder, to be loaded.

    Raises:
        UserError: whatever is to be put right: config, images, checkpoint, disk, device.
    """
    from neither.config.loader import load_config
    from neither.training.trainer import run_training

    settings = load_config(Path(config), overrides)
    folder = Path("runs") / settings.name if output_dir is None else Path(output_dir)
    with run_training(settings, folder, fresh):
        return folder


def evaluate(
    model: str | Path,
    images: str | Path,
    split: str | None = None,
    unseen: str | Path | None = None,
    output_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Score a model as `scripts/evaluate.py` does, and write the same files.

    Images are decoded in processes of their own, so a script calls this below
    `if __name__ == "__main__":`. Messages go to the logger `neither`.

    Args:
        model: the folder of a run, or one checkpoint file.
        images: a folder with or without labels, a CSV file, or an image.
        split: train, val or test; None for test where the folder has splits, else for all of it.
        unseen: a folder with folders of kinds that are no class.
        output_dir: None for `evaluations/<a>-<b>` in the run's folder.

    Returns:
        What `metrics.json` holds; a file that could not be read is counted in `num_unreadable`.

    Raises:
        UserError: if the model cannot be used, there is no image, or nothing can be written.
    """
    from neither.evaluation.evaluation import evaluate_path
    from neither.reporting.html import report_evaluation

    others, folder = (None if path is None else Path(path) for path in (unseen, output_dir))
    evaluation = evaluate_path(Path(model), load(model), Path(images), split, others, folder)
    report_evaluation(Path(model), evaluation)
    return evaluation.metrics


if not TYPE_CHECKING:  # a type checker knows it from above, and is to know no other name

    def __getattr__(name: str) -> object:
        """Import `Classifier`, and torch with it, when it is first asked for."""
        if name == "Classifier":
            from neither.inference.classifier import Classifier

            return Classifier
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
