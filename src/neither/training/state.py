"""A moving average of the weights: steadier than the weights themselves, at no cost in use.

Sums and counts of an epoch so far, kept on the device until it ends.

All that training changes, and how it goes into a checkpoint and comes back.

The loss that is no longer finite: where it was lost, in words.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neither.config.schema import Config
from neither.data.preprocessing import Preprocessing
from neither.evaluation.calibration import choose_threshold, fit_temperature
from neither.evaluation.metrics import confusion_matrix, curve_metrics
from neither.models.checkpoint import Checkpoint, load_weights, save_checkpoint
from neither.models.networks import FlipTTA, build_network
from neither.models.pretrained import load_pretrained
from neither.models.softmax import to_probabilities
from neither.models.torchvision_networks import TorchvisionNetwork, check_image_size
from neither.runtime.console import log_only, printable
from neither.runtime.devices import Compute
from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.errors import CheckpointError, DivergedError
from neither.training.fast_conv import use_gemm_weight_gradients
from neither.training.label_issues import LabelStats
from neither.training.optimizers import build_optimizer


class EMA:
    """A copy of a network whose weights and statistics follow the original's, smoothed.

    Polyak averaging with exponential decay (Tarvainen and Valpola, "Mean teachers", 2017). The
    decay rises to its final value over the first steps, so that the random start is soon forgotten.

    Attributes:
        network: the averaged copy, always in evaluation mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._averaged, self._counted = _split(self.network)
        self._followed, self._counts = _split(network)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the network as it is after `step` steps."""
        decay = min(self._decay, step / (step + 9))
        torch._foreach_lerp_(self._averaged, self._followed, 1 - decay)
        for mine, followed in zip(self._counted, self._counts, strict=True):
            mine.copy_(followed)


def _split(network: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Separate what can be averaged from whole-number counters, live views of the network."""
    tensors = list(network.state_dict(keep_vars=True).values())
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    return floating, [tensor for tensor in tensors if not tensor.is_floating_point()]


class EpochMetrics:
    """What the steps of one epoch add up to; nothing here waits for the device."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        # Apple's GPUs have no float64; there the sum is a little less exact.
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.loss = torch.zeros((), dtype=kind, device=device)
        self.norm = torch.zeros((), dtype=kind, device=device)
        self.confusion = torch.zeros((num_classes, num_classes), dtype=torch.int64, device=device)
        self.num_steps = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, norm: Tensor) -> None:
        """Count one step.

        Args:
            loss: scalar, the mean over the batch.
            logits: (B, C), before the update.
            labels: (B,) int64.
            norm: scalar, the length of the gradient before clipping.
        """
        self.loss += loss.detach() * len(labels)
        self.norm += norm
        self.confusion += confusion_matrix(labels, logits.detach().argmax(1), len(self.confusion))
        self.num_steps += 1

    def mean_loss(self) -> float:
        """Return the mean loss of an image so far; this waits for the device."""
        return float(self.loss) / max(1, int(self.confusion.sum()))

    def figures(self, classes: Sequence[str]) -> dict[str, float]:
        """Return the values of the curves; this waits for the device."""
        figures = curve_metrics(self.mean_loss(), self.confusion, classes)
        return figures | {"gradient_norm": float(self.norm) / self.num_steps}

    def is_finite(self) -> bool:
        """Say whether every loss and gradient so far was finite; this waits for the device."""
        return math.isfinite(float(self.loss)) and math.isfinite(float(self.norm))

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes back."""
        return {name: _copy(value) for name, value in vars(self).items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name, value in state.items():
            own = getattr(self, name)
            setattr(self, name, value.to(own.device) if isinstance(own, Tensor) else value)


def _copy(value: Tensor | int) -> Tensor | int:
    return value.cpu().clone() if isinstance(value, Tensor) else value


@dataclass
class TrainState:
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
        world: the processes that train; after each step all hold the same state.
    """

    config: Config
    preprocessing: Preprocessing
    network: nn.Module
    average: EMA
    optimizer: torch.optim.Optimizer
    tally: EpochMetrics
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    metrics: dict[str, float] | None = None
    best: dict[str, float] | None = None
    best_epoch: int = 0
    temperature: float = 1.0
    threshold: float | None = None
    shares: tuple[float, ...] = ()
    doubts: LabelStats = field(
        default_factory=lambda: LabelStats(torch.zeros(0, dtype=torch.int64))
    )
    world: World = SINGLE_PROCESS

    def meet(self, labels: Tensor) -> None:
        """Learn the (R,) int64 labels of the training images: how common each is, whom to doubt."""
        counts = labels.bincount(minlength=len(self.config.classes))
        self.shares = tuple((counts.double() / len(labels)).tolist())
        self.doubts = LabelStats(labels.to(self.tally.loss.device))

    def begin_epoch(self) -> None:
        """Freeze the backbone in the first epochs, if it is asked for, and let it learn then."""
        if isinstance(self.network, TorchvisionNetwork):
            self.network.freeze_backbone(self.epoch < self.config.model.freeze_epochs)

    @property
    def eval_model(self) -> nn.Module:
        """The averaged network, answering exactly as it will in use."""
        network = self.average.network
        return FlipTTA(network).eval() if self.config.augmentation.horizontal_flip else network

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
        self.tally = EpochMetrics(len(self.config.classes), self.tally.loss.device)

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
            flip_tta=config.augmentation.horizontal_flip,
            temperature=self.temperature,
            threshold=self.threshold,
            target_precision=config.decision.target_precision,
            class_frequencies=self.shares,
            source=config.data.root or config.data.manifest or "",
            aliases=dict(config.data.aliases),
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
            self.doubts.restore(training["doubts"])
            self.step_in_epoch = training["step_in_epoch"]
            self.best, self.best_epoch = training["best"], training["best_epoch"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"this checkpoint does not fit the run's network and optimizer: {error}"
            ) from error
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.metrics = checkpoint.metrics or None
        self.temperature, self.threshold = checkpoint.temperature, checkpoint.threshold


def build_state(
    config: Config,
    preprocessing: Preprocessing,
    compute: Compute,
    is_resumed: bool = False,
    world: World = SINGLE_PROCESS,
) -> TrainState:
    """Return the state before the first step.

    Random weights depend on the seed alone. Pretrained ones are read and checked here, unless the
    run has checkpoints that hold what became of them.
    """
    network = build_network(config.model, len(config.classes), config.data.image_size, config.seed)
    if isinstance(network, TorchvisionNetwork):
        if config.model.weights != "none" and not is_resumed:
            load_pretrained(network, config.model, config.data.image_size)
        for share in (1, config.augmentation.train_scale):
            size = round(share * config.data.image_size)
            check_image_size(network, config.model.name, min(2, config.train.batch_size), size)
    network = network.to(compute.device)
    average = EMA(network, config.train.ema_decay)
    use_gemm_weight_gradients(network, compute)
    convert_sync_batchnorm(network, compute.device, world)
    return TrainState(
        config=config,
        preprocessing=preprocessing,
        network=network,
        average=average,
        optimizer=build_optimizer(
            network, config.train, compute.dtype, config.model.backbone_lr_factor
        ),
        tally=EpochMetrics(len(config.classes), compute.device),
        world=world,
    )


def convert_sync_batchnorm(network: nn.Module, device: torch.device, world: World) -> None:
    """Let batch norm normalise by the whole batch where its parts lie on several GPUs.

    Elsewhere each part is normalised by statistics of its own, as PyTorch can do no other.

    Args:
        network: changed in place, but not its weights, nor their names.
        device: that it trains on.
        world: those that train.
    """
    if world.size > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]


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


def diverged_error(state: TrainState, paths: Sequence[str] = ()) -> DivergedError:
    """Say where the loss was lost: in the step that would come next, or at most a second ago.

    Args:
        state: with the steps that were taken.
        paths: of the images of the next step, if it is the one.
    """
    step = f"by step {state.step}"
    if paths:
        step = f"in step {state.step + 1}, with {printable(paths[0])} in its batch"
        log_only("the images of this batch: " + ", ".join(map(printable, paths)))
    return DivergedError(
        f"the loss or its gradient is no longer finite in epoch {state.epoch + 1}, {step}; the "
        "checkpoints are from before. Try a lower train.lr"
    )
