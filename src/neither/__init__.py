"""Train a small image classifier that can answer "neither".

    import neither

    classifier = neither.load("runs/photos")
    print(classifier("cat.jpg").probabilities)

This is the Python API, described in `docs/api.md`. Importing it is quick: torch is imported by the
first call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neither.runtime.errors import DataError, UserError

if TYPE_CHECKING:
    from neither.inference.classifier import Classifier
    from neither.inference.prediction import Prediction

__all__ = ["Classifier", "DataError", "Prediction", "UserError", "evaluate", "load", "train"]


def load(model: str | Path, device: str = "auto") -> "Classifier":
    """Load a classifier.

    Nothing of the process is changed: no signal handlers, logging, threads or seeds.

    Args:
        model: folder of a run, which means its `best.pt`, or one checkpoint file.
        device: auto, cpu, cuda, cuda:N or mps; auto uses a GPU if there is one.

    Raises:
        UserError: if the checkpoint is missing or unusable, or the device is missing.
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
    """Train as `scripts/train.py` does: resume an unfinished run, leave a finished one unchanged.

    Images are decoded in other processes, so a script calls this below
    `if __name__ == "__main__":`. Messages go to the logger `neither`.

    Args:
        config: YAML file.
        overrides: values that replace those of the file, such as `train.epochs=20`.
        output_dir: folder of the run; None for `runs/<name>`.
        fresh: start again; the old folder is renamed to `<folder>.1`.

    Returns:
        The folder of the run, for `load`.

    Raises:
        UserError: if something must be corrected: config, images, checkpoint, disk, device.
    """
    from neither.config.loader import load_config
    from neither.data.workers import exit_if_imported_as_main

    exit_if_imported_as_main()
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
    """Evaluate a model as `scripts/evaluate.py` does, and write the same files.

    Images are decoded in other processes, so a script calls this below
    `if __name__ == "__main__":`. Messages go to the logger `neither`.

    Args:
        model: folder of a run, or one checkpoint file.
        images: folder with or without labels, CSV file, or image.
        split: train, val or test; None for test if the folder has splits, else for all images.
        unseen: folder of folders, each with images of a kind that is not a class.
        output_dir: None for `evaluations/<a>-<b>` in the folder of the run.

    Returns:
        The content of `metrics.json`; `num_unreadable` counts the files that could not be read.

    Raises:
        UserError: if the model is unusable, there are no images, or results cannot be written.
    """
    from neither.data.workers import exit_if_imported_as_main

    exit_if_imported_as_main()
    from neither.evaluation.evaluation import evaluate_path
    from neither.reporting.html import report_evaluation

    others, folder = (None if path is None else Path(path) for path in (unseen, output_dir))
    evaluation = evaluate_path(Path(model), load(model), Path(images), split, others, folder)
    report_evaluation(Path(model), evaluation)
    return evaluation.metrics


if not TYPE_CHECKING:  # type checkers have the imports above, and would accept any name here

    def __getattr__(name: str) -> object:
        """Import a public class, and torch with it, when it is first used."""
        if name == "Classifier":
            from neither.inference.classifier import Classifier

            return Classifier
        if name == "Prediction":
            from neither.inference.prediction import Prediction

            return Prediction
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
