"""What a run was told and what came of it, as a row of TensorBoard's HParams table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neither.config import Config
from neither.training.run import HARMLESS, flatten

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Of `best.pt`, when training has ended: what several runs are to be compared by.
_FIGURES = ("macro_recall", "accuracy", "loss", "calibrated_loss", "ece")
# The table opens with five keys: those that are said to differ, else the first by the alphabet.
_FIRST = ("data.image_size", "model.width", "seed", "train.epochs", "train.lr")


def write_told(writer: "SummaryWriter", config: Config) -> None:
    """Write the keys that change figures, so that the run has its row from its first step on.

    They go where the curves are. `SummaryWriter.add_hparams` would make another folder, which
    TensorBoard takes for another run.
    """
    told, _ = _summaries(config)
    for summary in told:
        writer.file_writer.add_summary(summary, 0)  # type: ignore[attr-defined]


def write_final(
    writer: "SummaryWriter", config: Config, best: Mapping[str, float], epoch: int, step: int
) -> None:
    """Write the figures of the best epoch, and that the run has ended.

    Args:
        writer: that `write_told` got.
        config: likewise.
        best: the values of the curves on val.
        epoch: that they are of.
        step: optimizer steps taken in all.
    """
    for name in _FIGURES:
        if name in best:
            writer.add_scalar(f"final/{name}", best[name], step)
    writer.add_scalar("final/best_epoch", epoch, step)
    _, ended = _summaries(config)
    writer.file_writer.add_summary(ended, step)  # type: ignore[attr-defined]


def _summaries(config: Config) -> tuple[tuple[Any, Any], Any]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    told = {
        key: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
        for key, value in flatten(config).items()
        if key not in HARMLESS
    }
    metrics = dict.fromkeys((*(f"final/{name}" for name in _FIGURES), "final/best_epoch"), 0.0)
    experiment, start, end = hparams(told, metrics)  # type: ignore[no-untyped-call]
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for key in content.experiment.hparam_infos:
        key.differs = key.name in _FIRST
    plugin.content = content.SerializeToString()
    return (experiment, start), end
