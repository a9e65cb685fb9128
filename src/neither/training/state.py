"""All that training changes, and how it goes into a checkpoint and comes back."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neither.config import Config
from neither.data.preprocessing import Preprocessing
from neither.devices import Compute
from neither.errors import CheckpointError
from neither.evaluation.temperature import fit_temperature
from neither.evaluation.threshold import choose_threshold
from neither.model.checkpoint import Checkpoint, load_weights, save_checkpoint
from neither.model.mirror import MirrorAverage
from neither.model.network import build_network
from neither.model.pretrained import begin_with_weights
from neither.model.softmax import to_probabilities
from neither.model.torchvision_network import TorchvisionNetwork, require_size
from neither.ranks import ALONE, Ranks
from neither.terminal import say
from neither.training.average import AveragedNetwork
from neither.training.convolution import use_matrix_gradients
from neither.training.doubts import Doubts
from neither.training.gradients import synchronize_statistics
from neither.training.optimizer import build_optimizer
from neither.training.tally import Tally


@dataclass
class State:
    """A moment of training.

    Order and augmentation are functions of (seed, epoch, place), so no generator is part of it.

    Attributes:
        network: being trained.
        average: its moving average, which is evaluated and kept.
        optimizer: with its momenta.
        tally: sums of the epoch so far.
        doubts: of the training images' labels, over the epochs.
        epoch: full epochs done.
        step_in_epoch: steps done of the epoch after them.
        step: steps done in all.
        metrics: of the average on val after the last full epoch, if it was measured: the values of
            the curves.
        best: those of `best.pt`.
        best_epoch: when that was.
        temperature: what logits are divided by before softmax, fitted whenever val is measured.
        threshold: the least probability to accept, likewise; None if none keeps the promise.
        shares: of each class among the training images.
        ranks: the processes that train; after each step all hold the same state.
    """

    config: Config
    preprocessing: Preprocessing
    network: nn.Module
    average: AveragedNetwork
    optimizer: torch.optim.Optimizer
    tally: Tally
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    metrics: dict[str, float] | None = None
    best: dict[str, float] | None = None
    best_epoch: int = 0
    temperature: float = 1.0
    threshold: float | None = None
    shares: tuple[float, ...] = ()
    doubts: Doubts = field(default_factory=lambda: Doubts(torch.zeros(0, dtype=torch.int64)))
    ranks: Ranks = ALONE

    def meet(self, labels: Tensor) -> None:
        """Learn the (R,) int64 labels of the training images: how common each is, whom to doubt."""
        counts = labels.bincount(minlength=len(self.config.classes))
        self.shares = tuple((counts.double() / len(labels)).tolist())
        self.doubts = Doubts(labels.to(self.tally.loss.device))

    def begin_epoch(self) -> None:
        """Freeze the backbone in the first epochs, if it is asked for, and let it learn then."""
        if isinstance(self.network, TorchvisionNetwork):
            self.network.freeze_backbone(self.epoch < self.config.model.freeze_epochs)

    @property
    def answering(self) -> nn.Module:
        """The averaged network, answering exactly as it will in use."""
        network = self.average.network
        return MirrorAverage(network).eval() if self.config.augmentation.flip else network

    def end_step(self) -> None:
        """Count an optimizer step and let the average follow it."""
        self.step += 1
        self.step_in_epoch += 1
        self.average.update(self.step)

    def calibrate(self, logits: Tensor, labels: Tensor) -> None:
        """Fit temperature and threshold to (N, C) logits of val and its (N,) labels."""
        self.temperature = fit_temperature(logits, labels)
        confidences, predicted = to_probabilities(logits, self.temperature).max(dim=1)
        target = self.config.decision.target_precision
        self.threshold = choose_threshold(confidences, predicted == labels, target)

    def end_epoch(self, metrics: dict[str, float] | None) -> None:
        """Count an epoch, with its metrics if it was measured, and begin the sums of the next."""
        # The second half alone: before, the network doubts much that it has not learned yet.
        self.doubts.end_epoch(self.epoch >= self.config.train.epochs // 2)
        self.epoch += 1
        self.step_in_epoch = 0
        self.metrics = metrics
        self.tally = Tally(len(self.config.classes), self.tally.loss.device)

    def is_best(self) -> bool:
        """Say whether the last epoch beats the best so far: by calibrated loss, then macro recall.

        The loss after temperature is finer than a count of right answers, and so less a matter of
        luck: `benchmarks/LOG.md` compares them. One that is not finite beats nothing.
        """
        if self.metrics is None or not math.isfinite(self.metrics["calibrated_loss"]):
            return False
        return self.best is None or _rank(self.metrics) > _rank(self.best)

    def begins_at(self) -> int:
        """Return the number of steps before this epoch's first."""
        return self.step - self.step_in_epoch

    def forget_best(self) -> None:
        """Let the next epoch that is measured be the best so far."""
        self.best, self.best_epoch = None, 0

    def keep_best(self) -> None:
        """Note that the last epoch is the best so far."""
        self.best, self.best_epoch = self.metrics, self.epoch

    def save(self, path: Path, to_go_on: bool) -> None:
        """Write a checkpoint, with what going on takes or without."""
        going_on = {
            "network": _on_cpu(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "tally": self.tally.state(),
            "doubts": self.doubts.state(),
            "step_in_epoch": self.step_in_epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }
        config = self.config
        checkpoint = Checkpoint(
            classes=config.classes,
            reject_class=config.reject_class,
            model=config.model,
            preprocessing=self.preprocessing,
            weights=_on_cpu(self.average.network.state_dict()),
            mirrored=config.augmentation.flip,
            temperature=self.temperature,
            threshold=self.threshold,
            shares=self.shares,
            config=config.model_dump(mode="json"),
            epoch=self.epoch,
            step=self.step,
            metrics=self.metrics or {},
            training=going_on if to_go_on else None,
        )
        save_checkpoint(path, checkpoint)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: if it lacks what going on takes, or belongs to another network.
        """
        training: dict[str, Any] | None = checkpoint.training
        if training is None:
            raise CheckpointError("this checkpoint is for use only; training cannot go on from it")
        try:
            load_weights(self.network, training["network"])
            load_weights(self.average.network, checkpoint.weights)
            self.optimizer.load_state_dict(training["optimizer"])
            _require_shapes(self.optimizer)
            self.tally.restore(training["tally"])
            self._restore_doubts(training)
            self.step_in_epoch = training["step_in_epoch"]
            self.best, self.best_epoch = training["best"], training["best_epoch"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"this checkpoint does not fit the run's network and optimizer: {error}"
            ) from error
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.metrics = checkpoint.metrics or None
        self.temperature, self.threshold = checkpoint.temperature, checkpoint.threshold

    def _restore_doubts(self, training: dict[str, Any]) -> None:
        if "doubts" in training:
            self.doubts.restore(training["doubts"])
        else:
            say("this run was begun by a version that did not watch labels: suspects.csv will rest "
                "on the epochs from here on")  # fmt: skip


def new_state(
    config: Config,
    preprocessing: Preprocessing,
    compute: Compute,
    is_resumed: bool = False,
    ranks: Ranks = ALONE,
) -> State:
    """Return the state before the first step.

    Random weights depend on the seed alone. Pretrained ones are read and checked here, unless the
    run has checkpoints that hold what became of them.
    """
    network = build_network(config.model, len(config.classes), config.data.image_size, config.seed)
    if isinstance(network, TorchvisionNetwork):
        if config.model.weights != "none" and not is_resumed:
            begin_with_weights(network, config.model, config.data.image_size)
        for share in (1, config.augmentation.resolution):
            size = round(share * config.data.image_size)
            require_size(network, config.model.name, min(2, config.train.batch_size), size)
    network = network.to(compute.device)
    average = AveragedNetwork(network, config.train.ema_decay)
    use_matrix_gradients(network, compute)
    synchronize_statistics(network, compute.device, ranks)
    return State(
        config=config,
        preprocessing=preprocessing,
        network=network,
        average=average,
        optimizer=build_optimizer(network, config.train, compute.dtype, config.model.backbone_lr),
        tally=Tally(len(config.classes), compute.device),
        ranks=ranks,
    )


def _require_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Refuse momenta of other parameters, which torch would take until the first step."""
    for weights, values in optimizer.state.items():
        for name, tensor in values.items():
            if isinstance(tensor, Tensor) and tensor.ndim and tensor.shape != weights.shape:
                raise ValueError(
                    f"{name} of shape {tuple(tensor.shape)} for weights of {tuple(weights.shape)}"
                )


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    return -metrics["calibrated_loss"], metrics["macro_recall"]


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in weights.items()}
