"""The state of training: network, EMA, optimizer and sums, to a checkpoint and back."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neither.config.schema import Config, Train
from neither.data.preprocessing import Preprocessing
from neither.evaluation.calibration import fit_temperature
from neither.evaluation.metrics import confusion_matrix, curve_metrics
from neither.evaluation.selective import fit_decision_rule, fit_pooled_rule
from neither.models.checkpoint import (
    CalibratedOn,
    Checkpoint,
    DecisionRule,
    load_weights,
    save_checkpoint,
)
from neither.models.efficientnet_lite import fused
from neither.models.networks import BackboneNetwork, FlipTTA, build_network, check_image_size
from neither.models.pretrained import load_pretrained, take_over
from neither.models.softmax import to_probabilities
from neither.runtime.console import log_only, printable
from neither.runtime.devices import DeviceConfig
from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.errors import CheckpointError, DivergedError
from neither.training.fast_conv import use_fast_convolutions
from neither.training.label_issues import LabelStats
from neither.training.optimizers import build_optimizer
from neither.training.out_of_fold import Calibration

_FRACTIONS = (0.25, 0.5, 0.75)  # of the way from the start of fine-tuning to its end


class EMA:
    """Exponential moving average of a network's weights and batch-norm statistics.

    The decay rises to its final value over the first steps, so that the random initial weights are
    soon forgotten (Polyak averaging; Tarvainen and Valpola, "Mean teachers", 2017).

    Attributes:
        network: the averaged copy, always in evaluation mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._averages, self._counters = _split_by_dtype(self.network)
        self._source_values, self._source_counters = _split_by_dtype(network)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the network's weights after `step` optimizer steps."""
        decay = min(self._decay, step / (step + 9))
        torch._foreach_lerp_(self._averages, self._source_values, 1 - decay)
        for counter, source in zip(self._counters, self._source_counters, strict=True):
            counter.copy_(source)


def _split_by_dtype(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return floating-point tensors, which are averaged, and integers, which are copied."""
    tensors = list(network.state_dict(keep_vars=True).values())
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    return floating, [tensor for tensor in tensors if not tensor.is_floating_point()]


class EpochMetrics:
    """Sums over the steps of one epoch, kept on the device; `update` does not wait for it.

    Attributes:
        loss_sum: scalar, sum of the images' losses.
        part_sums: (2,), sums of their cross entropy with label and teacher; zero without a teacher.
        num_images: so far, with those that have no label, which only the losses count.
        grad_norm_sum: scalar, sum of the steps' gradient norms.
        confusion: (C, C) int64 counts; row = true class, column = predicted class.
        num_steps: steps so far.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        # MPS has no float64; the sums there are a little less exact.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.loss_sum = torch.zeros((), dtype=dtype, device=device)
        self.part_sums = torch.zeros(2, dtype=dtype, device=device)
        self.grad_norm_sum = torch.zeros((), dtype=dtype, device=device)
        self.confusion = torch.zeros((num_classes, num_classes), dtype=torch.int64, device=device)
        self.num_images = 0
        self.num_steps = 0

    def update(
        self,
        loss: Tensor,
        logits: Tensor,
        labels: Tensor,
        grad_norm: Tensor,
        parts: Tensor,
    ) -> None:
        """Add one step.

        Args:
            loss: scalar, the mean over the batch.
            logits: (B, C), before the optimizer step.
            labels: (B,) int64; -1 for images without a label.
            grad_norm: scalar, before clipping.
            parts: (2,), the means of the two parts of the loss; (0,) without a teacher.
        """
        self.loss_sum += loss.detach() * len(labels)
        self.part_sums[: len(parts)] += parts * len(labels)
        self.grad_norm_sum += grad_norm
        self.num_images += len(labels)
        num_classes = len(self.confusion)
        # Images without a label are counted in a row of their own, which is then dropped.
        predicted, rows = logits.detach().argmax(1), labels % (num_classes + 1)
        self.confusion += confusion_matrix(rows, predicted, num_classes + 1)[:-1, :-1]
        self.num_steps += 1

    def mean_loss(self) -> float:
        """Return the mean loss of the images so far."""
        return float(self.loss_sum) / max(1, self.num_images)

    def compute(self, classes: Sequence[str]) -> dict[str, float]:
        """Return the metrics of the epoch on train."""
        metrics = curve_metrics(self.mean_loss(), self.confusion, classes)
        if self.part_sums.any():
            label, teacher = self.part_sums.tolist()
            metrics["label_loss"] = label / int(self.confusion.sum())
            metrics["teacher_loss"] = teacher / self.num_images
        return metrics | {"gradient_norm": float(self.grad_norm_sum) / self.num_steps}

    def is_finite(self) -> bool:
        """Return whether every loss and gradient so far was finite."""
        return math.isfinite(float(self.loss_sum)) and math.isfinite(float(self.grad_norm_sum))

    def state_dict(self) -> dict[str, Any]:
        """Return copies on the CPU for `load_state_dict`."""
        return {
            name: value.cpu().clone() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state; older ones have no parts, and no images without a label."""
        num_images = int(state["confusion"].sum())
        state = {"part_sums": self.part_sums, "num_images": num_images, **state}
        for name, own in list(vars(self).items()):
            value = state[name]
            setattr(self, name, value.to(own.device) if isinstance(own, Tensor) else value)


@dataclass
class TrainState:
    """All that changes in training, and the settings that a step needs.

    Order and augmentation are functions of (seed, epoch, index), so no RNG state is part of it.
    """

    settings: Train
    seed: int
    preprocessing: Preprocessing  # of the network's input
    flip_tta: bool  # evaluate with flip test-time augmentation
    network: nn.Module  # being trained
    ema: EMA  # moving average of its weights, which is evaluated and kept
    optimizer: torch.optim.Optimizer  # with its momentum buffers
    epoch_metrics: EpochMetrics  # sums of the epoch so far
    # per training image, how often the prediction differed from the label
    label_stats: LabelStats = field(
        default_factory=lambda: LabelStats(torch.zeros(0, dtype=torch.int64))
    )
    class_frequencies: tuple[float, ...] = ()  # fraction of the training images in each class
    epoch: int = 0  # number of completed epochs
    step_in_epoch: int = 0  # number of steps in the current epoch
    step: int = 0  # number of steps in all
    # on val after the last epoch; None if it was not validated
    metrics: dict[str, float] | None = None
    best_metrics: dict[str, float] | None = None  # those of `best.pt`
    best_epoch: int = 0  # the epoch of `best.pt`
    temperature: float = 1.0  # fitted to the last val logits, or to those of other images
    decision_rule: DecisionRule = field(default_factory=DecisionRule)  # likewise
    calibrated_on: CalibratedOn = "val"  # what images these are
    # it gives temperature and decision rule, if it was done before; None fits them here
    cross_validation: Calibration | None = None
    val_paths: Sequence[str] = ()  # of the N images of val
    # (N, C), of the last validation; None if there was none since the run resumed
    val_logits: Tensor | None = None
    best_val_logits: Tensor | None = None  # those of `best.pt`, likewise
    start: nn.Module | None = None  # in fine-tuning, the network before the first step
    # the processes that train; after each step all hold the same state
    world: World = SINGLE_PROCESS
    initial: Checkpoint | None = None  # of the run that this one starts from

    def eval_model(self, network: nn.Module) -> nn.Module:
        """Return a network as it is evaluated: with flip TTA if configured."""
        network = fused(network)
        return FlipTTA(network).eval() if self.flip_tta else network

    @torch.no_grad()
    def candidates(self) -> dict[float, nn.Module]:
        """Return the networks of which validation keeps one: that of the EMA weights, at 1.

        At the end of fine-tuning there are also those a fraction of the way from the start to it:
        the end knows images like those of train better, the start all others (WiSE-FT: Wortsman et
        al., "Robust fine-tuning of zero-shot models", 2022).
        """
        result = {1.0: self.ema.network}
        if self.start is None or self.step == 0 or self.epoch + 1 < self.settings.epochs:
            return result
        for fraction in _FRACTIONS:
            result[fraction] = copy.deepcopy(self.start)
            values, end_values = (
                _split_by_dtype(network)[0] for network in (result[fraction], self.ema.network)
            )
            torch._foreach_lerp_(values, end_values, fraction)
        return result

    def set_training_labels(self, labels: Tensor) -> None:
        """Set the (R,) int64 labels of the training images before the first step."""
        counts = labels.bincount(minlength=len(self.epoch_metrics.confusion))
        self.class_frequencies = tuple((counts.double() / len(labels)).tolist())
        self.label_stats = LabelStats(labels.to(self.epoch_metrics.loss_sum.device))

    def end_step(self) -> None:
        """Count an optimizer step and update the EMA."""
        self.step += 1
        self.step_in_epoch += 1
        self.ema.update(self.step)

    def end_epoch(self, metrics: dict[str, float] | None) -> None:
        """Count an epoch, with its metrics on val if it was validated, and reset the sums."""
        # Early on the network disagrees with many correct labels: only the second half counts.
        self.label_stats.end_epoch(self.epoch >= self.settings.epochs // 2)
        self.epoch += 1
        self.step_in_epoch = 0
        self.metrics = metrics
        confusion = self.epoch_metrics.confusion
        self.epoch_metrics = EpochMetrics(len(confusion), confusion.device)

    def calibrate(
        self, logits: Tensor, labels: Tensor, config: Config, calibrated_on: CalibratedOn = "val"
    ) -> None:
        """Fit temperature and decision rule to images that the network was not trained on.

        They have (N, C) logits and (N,) int64 labels, and are `calibrated_on`. The precision is
        certified on val alone: pooled images of sources are no independent draws of a new one.
        """
        if (given := self.cross_validation) is not None:
            self.temperature, self.decision_rule = given.temperature, given.decision_rule
            self.calibrated_on = given.calibrated_on
            return
        self.temperature, self.calibrated_on = fit_temperature(logits, labels), calibrated_on
        fit = fit_decision_rule if calibrated_on == "val" else fit_pooled_rule
        self.decision_rule = fit(
            to_probabilities(logits, self.temperature),
            labels,
            config.reject_index,
            config.decision.target_precision,
        )

    def is_best(self) -> bool:
        """Return whether the last epoch beats the best: by calibrated loss, then macro recall.

        The loss after temperature scaling is less noisy than a count of correct predictions:
        `benchmarks/LOG.md` compares them. A loss that is not finite beats nothing.
        """
        if self.metrics is None or not math.isfinite(self.metrics["calibrated_loss"]):
            return False
        return self.best_metrics is None or _selection_key(self.metrics) > _selection_key(
            self.best_metrics
        )

    def mark_best(self) -> None:
        """Make the last epoch the best so far."""
        self.best_metrics, self.best_epoch = self.metrics, self.epoch
        self.best_val_logits = self.val_logits

    def reset_best(self) -> None:
        """Forget the best epoch, so that the next validated one becomes the best."""
        self.best_metrics, self.best_epoch = None, 0

    def save(self, path: Path, config: Config, resumable: bool) -> None:
        """Write a checkpoint atomically.

        It holds the config of the run, and what resuming needs only if it is `resumable`.
        """
        training = {
            "network": _to_cpu(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "epoch_metrics": self.epoch_metrics.state_dict(),
            "label_stats": self.label_stats.state_dict(),
            "step_in_epoch": self.step_in_epoch,
            "best": self.best_metrics,
            "best_epoch": self.best_epoch,
            "start": None if self.start is None else _to_cpu(self.start.state_dict()),
        }
        checkpoint = Checkpoint(
            classes=config.classes,
            reject_class=config.reject_class,
            model=config.model,
            preprocessing=self.preprocessing,
            weights=_to_cpu(self.ema.network.state_dict()),
            flip_tta=self.flip_tta,
            temperature=self.temperature,
            decision_rule=self.decision_rule,
            calibrated_on=self.calibrated_on,
            class_frequencies=self.class_frequencies,
            source=config.data.root or config.data.manifest or "",
            aliases=dict(config.data.aliases),
            config=config.model_dump(mode="json"),
            epoch=self.epoch,
            step=self.step,
            metrics=self.metrics or {},
            training=training if resumable else None,
        )
        save_checkpoint(path, checkpoint)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint.

        Raises:
            CheckpointError: if it is for inference only, or of another network or other images.
        """
        training = checkpoint.training
        if training is None:
            raise CheckpointError("this checkpoint is for inference only; it cannot be resumed")
        try:
            load_weights(self.network, training["network"])
            load_weights(self.ema.network, checkpoint.weights)
            self.optimizer.load_state_dict(training["optimizer"])
            _require_shapes(self.optimizer)
            self.epoch_metrics.load_state_dict(training["epoch_metrics"])
            self.label_stats.load_state_dict(training["label_stats"])
            self.step_in_epoch = training["step_in_epoch"]
            self.best_metrics = training["best"]
            self.best_epoch = training["best_epoch"]
            if self.start is not None:
                load_weights(self.start, training["start"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"this checkpoint does not fit the run's network and optimizer: {error}"
            ) from error
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.metrics = checkpoint.metrics or None
        self.temperature, self.decision_rule = checkpoint.temperature, checkpoint.decision_rule
        self.calibrated_on = checkpoint.calibrated_on


def build_state(
    config: Config,
    preprocessing: Preprocessing,
    device_config: DeviceConfig,
    is_resumed: bool = False,
    world: World = SINGLE_PROCESS,
    initial: Checkpoint | None = None,
) -> TrainState:
    """Build the state before the first step.

    Random weights depend on the seed alone. Pretrained weights are read here, unless the run is
    resumed: then its checkpoint replaces them, and their file may be gone. Those of an own run are
    taken over from `initial`.
    """
    network = build_network(config.model, len(config.classes), config.data.image_size, config.seed)
    if initial is not None:
        take_over(network, initial, config)
    if isinstance(network, BackboneNetwork):
        if config.model.weights != "none":
            network.fix_batch_norm()
            if not is_resumed and initial is None:
                load_pretrained(network, config.model, config.data.image_size)
        # A frozen backbone sees no batches of training, whatever their size.
        num = 2 if config.model.is_frozen else min(2, config.train.batch_size)
        for scale in {1, config.augmentation.train_scale}:
            size = round(scale * config.data.image_size)
            check_image_size(network, config.model.name, num, size)
    network = network.to(device_config.device)
    ema = EMA(network, config.train.ema_decay)
    use_fast_convolutions(network, device_config)
    if world.size > 1 and device_config.device.type == "cuda":
        # Normalizes by the whole batch. PyTorch has it for GPUs only: on CPUs each rank normalizes
        # by the statistics of its own shard.
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    optimizer = build_optimizer(network, config.train, device_config.dtype)
    return TrainState(
        settings=config.train,
        seed=config.seed,
        preprocessing=preprocessing,
        flip_tta=config.augmentation.horizontal_flip,
        network=network,
        ema=ema,
        optimizer=optimizer,
        epoch_metrics=EpochMetrics(len(config.classes), device_config.device),
        start=copy.deepcopy(ema.network) if config.model.is_fine_tuned else None,
        world=world,
        initial=initial,
    )


def diverged_error(state: TrainState, paths: Sequence[str] = ()) -> DivergedError:
    """Return the error for a loss or gradient that is not finite; `paths` are the failed batch."""
    where = f"by step {state.step}"
    if paths:
        where = f"in step {state.step + 1}, with {printable(paths[0])} in its batch"
        log_only("the images of this batch: " + ", ".join(map(printable, paths)))
    return DivergedError(
        f"the loss or its gradient is no longer finite in epoch {state.epoch + 1}, {where}; the "
        "checkpoints are from before. Try a lower train.lr"
    )


def _require_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise if a loaded momentum has another shape; torch itself fails only in the next step."""
    for weights, values in optimizer.state.items():
        for name, tensor in values.items():
            if isinstance(tensor, Tensor) and tensor.ndim and tensor.shape != weights.shape:
                own, wanted = tuple(tensor.shape), tuple(weights.shape)
                raise ValueError(f"{name} of shape {own} for weights of {wanted}")


def _selection_key(metrics: dict[str, float]) -> tuple[float, float]:
    return -metrics["calibrated_loss"], metrics["macro_recall"]


def _to_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in weights.items()}
