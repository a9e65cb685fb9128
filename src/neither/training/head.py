"""Fit the head of a pretrained backbone: embed, choose the L2 penalty, fit, calibrate, save.

The head is softmax regression on the features of the backbone. Fine-tuning starts from it, because
gradients through a random head would spoil the backbone (Kumar et al., "Fine-tuning can distort
pretrained features and underperform out-of-distribution", 2022). A run that is stopped saves no
state of the fit, which takes seconds: the same command reads the features from disk and fits again.
"""

import copy
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neither.config.schema import Config
from neither.data.batches import Batches
from neither.data.dataset import Dataset, Split
from neither.data.folds import (
    MAX_FOLDS,
    assign_folds,
    assign_source_folds,
    find_left_out,
    group_names,
)
from neither.data.sources import weigh_images
from neither.evaluation.metrics import nll
from neither.evaluation.selective import accepts, bootstrap_precision
from neither.inference.embedding import compute_head_logits, embed
from neither.models.efficientnet_lite import fused
from neither.models.networks import FlipTTA
from neither.models.softmax import to_probabilities
from neither.models.softmax_regression import Iterate, fit_softmax_regression
from neither.runtime import signals
from neither.runtime.console import info, warn
from neither.runtime.devices import DeviceConfig
from neither.runtime.errors import CheckpointError
from neither.training import summaries
from neither.training.label_issues import find_out_of_fold_issues, write_label_issues
from neither.training.run_folder import RunFolder
from neither.training.state import TrainState
from neither.training.summaries import MetricsLogger
from neither.training.validation import logit_metrics, val_metrics

# Measured on the photos that this project is developed on: benchmarks/LOG.md.
L2_GRID = (0.003, 0.01, 0.03, 0.1, 0.3)
_NUM_FOLDS = 5
_MAX_ITERATIONS = 200  # of a head that is trained further
_MIN_STD = 1e-6  # of a feature; one that never changes is divided by this


def train_head(
    config: Config, run: RunFolder, state: TrainState, data: Dataset, device_config: DeviceConfig
) -> None:
    """Fit the head to the features of train, and save the run's checkpoints.

    `train.epochs` is the most iterations. The state is that before the first step, with the
    pretrained backbone; it gets the head.

    Raises:
        CheckpointError: if the backbone's features are not finite.
        Stopped: if a signal asks to stop; the features that were computed are kept.
    """
    classes, labels = config.classes, data.train.labels
    train_features, val_features = embed_splits(config, state, data, device_config)
    train_inputs, mean, std = standardise(train_features)
    val_inputs = (val_features.double() - mean) / std

    fit, at_home, left_out = _start_fit(config, data, train_inputs, config.train.epochs)
    batches = Batches(
        data, config.augmentation, config.train.batch_size, config.seed, device_config.device
    )
    logger = MetricsLogger(run.folder if state.world.is_rank0 else None, None)
    with closing(logger):
        first = next(batches.iterate_epoch(0))
        summaries.log_run(logger, config, state, first, run.folder / "splits.csv")
        for state.epoch, iterate in enumerate(fit):
            signals.poll()
            is_last = iterate.is_converged or state.epoch == config.train.epochs
            state.step = state.epoch
            train_metrics = logit_metrics(iterate.logits[:, 0].T, labels, classes)
            if is_last:
                break
            val_logits = val_inputs @ iterate.weights[:, 0].T + iterate.bias[:, 0]
            metrics = logit_metrics(val_logits, data.val.labels, classes)
            logger.write_epoch(state.epoch, state.step, train_metrics, metrics)
        _set_head(state, iterate, mean, std)
        val_logits = compute_head_logits(fused(state.ema.network), val_features)
        if left_out is None:
            state.calibrate(val_logits, data.val.labels, config)
        else:
            indices, logits = left_out
            state.calibrate(logits, labels[indices], config, "left-out sources")
            _log_certainty(config, state, data.train, indices, logits)
        metrics = val_metrics(state, val_logits, data.val.labels, classes)
        logger.write_epoch(state.epoch, state.step, train_metrics, metrics)
        if not iterate.is_converged:
            warn(f"the fit has not converged after {state.epoch} iterations; raise train.epochs")
        state.metrics, state.val_logits = metrics, val_logits
        state.mark_best()
        summaries.log_epoch(logger, config, state, data, val_logits)
    info(
        f"fitted in {state.epoch} iterations: train loss {train_metrics['loss']:.3f}, val loss "
        f"{metrics['loss']:.3f}, val macro recall {metrics['macro_recall']:.3f}"
    )
    _write_label_issues(run, state, data, at_home)
    if state.world.is_rank0:
        state.save(run.best, config, resumable=False)
        state.save(run.last, config, resumable=False)  # from here on the run is finished


def fit_initial_head(
    config: Config, run: RunFolder, state: TrainState, data: Dataset, device_config: DeviceConfig
) -> None:
    """Fit the head that further training starts from, and list label issues; else as `train_head`.

    After an own run its rows are on average no longer than those of the old head: the rows of a
    fitted head can be ten times as long as those of a trained one, and the layers below are then
    trained too fast (`benchmarks/LOG.md`).
    """
    features, _ = embed_splits(config, state, data, device_config)
    inputs, mean, std = standardise(features)
    fit, at_home, _ = _start_fit(config, data, inputs, _MAX_ITERATIONS)
    for iterate in islice(fit, _MAX_ITERATIONS):
        signals.poll()
        if iterate.is_converged:
            break
    factor = 1.0
    if state.initial is not None:
        heads = state.initial.weights["head.weight"], iterate.weights[:, 0] / std
        old, new = (float(each.norm(dim=1).mean()) for each in heads)
        if 0 < old < new:
            factor = old / new
    _set_head(state, iterate, mean, std, factor)
    _write_label_issues(run, state, data, at_home)


def _start_fit(
    config: Config, data: Dataset, inputs: Tensor, max_iterations: int
) -> tuple[Iterator[Iterate], Tensor | None, tuple[Tensor, Tensor] | None]:
    """Return the iterates of the fit to train, and then what `_choose_l2` returns."""
    labels = data.train.labels
    weights = torch.from_numpy(weigh_images(data.train.sources, labels.numpy()))
    l2, at_home, left_out = _choose_l2(config, data, inputs, weights, max_iterations)
    fit = fit_softmax_regression(
        inputs, labels, weights[None], inputs.new_tensor([l2]), len(config.classes)
    )
    return fit, at_home, left_out


def _write_label_issues(
    run: RunFolder, state: TrainState, data: Dataset, at_home: Tensor | None
) -> None:
    if state.world.is_rank0 and at_home is not None:
        issues = find_out_of_fold_issues(at_home, data.train, data.classes)
        write_label_issues(run.folder / "label_issues.csv", issues)


def fit_folds(
    inputs: Tensor,
    labels: Tensor,
    weights: Tensor,
    folds: Tensor,
    num_classes: int,
    max_iterations: int,
) -> Tensor:
    """Compute logits of each image by heads that were fitted without its fold.

    Given are (N, F) float64 standardised features, (N,) int64 labels, (N,) float64 weights of
    images, and (N,) int64 folds, from 0, at least two; the logits are (L, N, C) float64, for each
    penalty of `L2_GRID`.
    """
    num_folds, num_penalties = int(folds.max()) + 1, len(L2_GRID)
    counted = weights * (folds != torch.arange(num_folds)[:, None])
    fit = fit_softmax_regression(
        inputs, labels, counted.repeat(num_penalties, 1),
        inputs.new_tensor(L2_GRID).repeat_interleave(num_folds), num_classes,
    )  # fmt: skip
    for _ in range(max_iterations + 1):
        signals.poll()
        iterate = next(fit)
        if iterate.is_converged:
            break
    problems = torch.arange(num_penalties)[:, None] * num_folds + folds  # (L, N)
    return iterate.logits[:, problems, torch.arange(len(labels))].permute(1, 2, 0)


def find_lowest_loss(logits: Tensor, labels: Tensor) -> tuple[int, float]:
    """Return which of (L, N, C) logits have the lowest cross entropy, and how much that is."""
    losses = [nll(each, labels, 1.0) for each in logits]
    return losses.index(min(losses)), min(losses)


def _choose_l2(
    config: Config, data: Dataset, inputs: Tensor, weights: Tensor, max_iterations: int
) -> tuple[float, Tensor | None, tuple[Tensor, Tensor] | None]:
    """Choose the L2 penalty by the loss on images of train that are left out of the fit.

    Returns:
        The penalty; the (N, C) logits of images whose groups were left out; and the (M,) indices
        and (M, C) logits of images whose whole sources were, which then choose the penalty. None
        where nothing can be left out, or no image has a source.
    """
    labels, train, seed = data.train.labels, data.train, config.seed
    fingerprints, pattern = data.image_fingerprints[train.rows.numpy()], config.data.group_pattern

    def fit(folds: NDArray[np.int64], what: str) -> tuple[float, Tensor | None]:
        if not folds.any():
            return L2_GRID[len(L2_GRID) // 2], None
        fold_of = torch.from_numpy(folds)
        num_classes = len(config.classes)
        logits = fit_folds(inputs, labels, weights, fold_of, num_classes, max_iterations)
        best, loss = find_lowest_loss(logits, labels)
        info(
            f"L2 penalty {L2_GRID[best]:g}: its loss on {what} left out of the fit is "
            f"{loss:.3f}, the lowest of {len(L2_GRID)}"
        )
        return L2_GRID[best], logits[best]

    groups = group_names(train.paths, fingerprints, pattern)
    l2, at_home = fit(assign_folds(groups, labels.numpy(), _NUM_FOLDS, seed), "images")
    if not any(train.sources):
        return l2, at_home, None
    groups = group_names(train.paths, fingerprints, pattern, train.sources)
    folds = assign_source_folds(train.sources, groups, labels.numpy(), MAX_FOLDS, seed)
    indices = torch.from_numpy(np.flatnonzero(find_left_out(train.sources, folds)))
    if len({*labels[indices].tolist()}) < len(config.classes):
        warn(
            "the sources that can be left out as a whole do not have images of all classes: "
            "temperature and thresholds come from val"
        )
        return l2, at_home, None
    source_l2, logits = fit(folds, "sources")
    return source_l2, at_home, None if logits is None else (indices, logits[indices])


def _log_certainty(
    config: Config, state: TrainState, split: Split, indices: Tensor, logits: Tensor
) -> None:
    """Log how far the precision on left-out images depends on which sources there are."""
    probabilities = to_probabilities(logits, state.temperature)
    is_accepted = accepts(state.decision_rule, probabilities, config.reject_index)
    hits = probabilities.argmax(dim=1) == split.labels[indices]
    if not is_accepted.any():
        return
    sources = [split.sources[index] for index in indices[is_accepted].tolist()]
    low, high = bootstrap_precision(hits[is_accepted], sources)
    info(
        f"decisions on left-out sources: {float(hits[is_accepted].double().mean()):.1%} correct, "
        f"{low:.1%} to {high:.1%} if the sources are drawn anew (90 %, bootstrap); "
        f"{float(is_accepted.double().mean()):.0%} accepted"
    )


def standardise(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (N, F) float64 features of mean 0 and variance 1, and their (F,) means and stds."""
    features = features.double()
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0).clamp(min=_MIN_STD)
    return (features - mean) / std, mean, std


def embed_splits(
    config: Config, state: TrainState, data: Dataset, device_config: DeviceConfig
) -> tuple[Tensor, Tensor]:
    """Return the (N, F) float32 features of train and val.

    Raises:
        CheckpointError: if they are not finite.
    """
    backbone = copy.deepcopy(state.ema.network)
    backbone.set_submodule("head", nn.Identity())
    backbone = fused(backbone)
    if state.flip_tta:
        backbone = FlipTTA(backbone)
    rows = torch.cat([data.train.rows, data.val.rows])
    keys = data.image_fingerprints["sha256"][rows.numpy()]
    features = state.world.rank0_first(
        lambda: embed(
            backbone, data.pixels, rows, keys, state.preprocessing, device_config.device,
            config.data.source,
        )
    )  # fmt: skip
    if not features.isfinite().all():
        raise CheckpointError(
            f"model.weights: {config.model.weights}: features of these images are not finite"
        )
    train, val = torch.split(features, [len(data.train.rows), len(data.val.rows)])
    return train, val


def _set_head(
    state: TrainState, iterate: Iterate, mean: Tensor, std: Tensor, factor: float = 1.0
) -> None:
    """Fold the standardisation of the features into the head, whose logits get the factor."""
    weights = factor * iterate.weights[:, 0] / std
    bias = factor * iterate.bias[:, 0] - weights @ mean
    for network in filter(None, (state.network, state.ema.network, state.start)):
        head = network.get_submodule("head")
        head.load_state_dict({"weight": weights, "bias": bias})
