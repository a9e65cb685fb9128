"""Cross-validation: each source of images, or each fold, is left out of training once.

So each image of train and val gets probabilities from a network that has not seen its source. They
say what to expect on images from elsewhere, and give temperature and thresholds that hold there.
With a frozen backbone all folds are fitted at once to one embedding; otherwise each is a run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neither.config.schema import Config
from neither.data.dataset import Dataset
from neither.data.folds import (
    MAX_FOLDS,
    MIN_SOURCE_IMAGES,
    assign_folds,
    assign_source_folds,
    find_left_out,
    group_names,
)
from neither.data.split_file import csv_line, safe_cell
from neither.evaluation.calibration import fit_temperature
from neither.evaluation.metrics import (
    accuracy,
    confusion_matrix,
    macro_recall,
    nll,
    wilson_interval,
)
from neither.evaluation.selective import (
    accepts,
    bootstrap_precision,
    fit_decision_rule,
    fit_pooled_rule,
)
from neither.inference.classifier import load_classifier
from neither.models.backbones import check_network_name
from neither.models.decision_rule import DecisionRule
from neither.models.softmax import to_probabilities
from neither.runtime import files
from neither.runtime.console import info, warn
from neither.runtime.devices import choose_device_config
from neither.runtime.errors import DataError, UsageError
from neither.training.head import (
    L2_GRID,
    embed_splits,
    find_lowest_loss,
    fit_folds,
    standardise,
)
from neither.training.run_folder import (
    RunFolder,
    config_digest,
    open_run_folder,
    require_same_config,
)
from neither.training.trainer import load, require_images, run_training

SCHEMA_VERSION = 1
_NUM_MISTAKES = 6  # of a source, that the report shows


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for N images by networks that were trained without the fold of each.

    Attributes:
        paths: of the images, below the root.
        labels: (N,) int64.
        sources: of the images, empty for none, and for all if none can be left out.
        folds: (N,) int64.
        logits: (L, N, C), for each of L settings to choose from.
    """

    paths: list[str]
    labels: Tensor
    sources: list[str]
    folds: Tensor
    logits: Tensor


def cross_validate(config: Config, folder: Path, max_folds: int | None) -> dict[str, Any]:
    """Leave each source out once, or each fold where no image has a source; write the results.

    The same command goes on after a stop: features and finished folds are kept.

    Args:
        config: of the run.
        folder: for `metrics.json` and `out_of_fold.csv`.
        max_folds: the most folds; None for 10.

    Returns:
        The content of `metrics.json`.

    Raises:
        DataError: if nothing can be left out, such as where a class has one source and one group.
        UsageError, CheckpointError, OutputError, Stopped: as `train`.
    """
    source = config.data.source
    check_network_name(config.model.name)
    if not source.exists():
        require_images(config)
    if source.is_dir():
        files.require_readable(source)
        files.require_outside(folder, source)
    if RunFolder(folder, None).has_checkpoint():
        raise UsageError(f"{folder}: this folder holds a run; name another with --output-dir")
    if (folder / "metrics.json").exists():
        require_same_config(config, folder / "config.yaml")
    with open_run_folder(config, folder, fresh=False) as run:
        is_frozen = config.model.trainable == "head"
        on_disk = config.data.model_copy(update={"store": "disk"})  # pixels are read once, or never
        device_config, state, data = load(config.model_copy(update={"data": on_disk}), run)
        labels = torch.cat([data.train.labels, data.val.labels])
        paths = data.train.paths + data.val.paths
        sources = data.train.sources + data.val.sources
        rows = torch.cat([data.train.rows, data.val.rows]).numpy()
        fingerprints, pattern = data.image_fingerprints[rows], config.data.group_pattern
        num, seed = max_folds or MAX_FOLDS, config.seed
        home_groups = group_names(paths, fingerprints, pattern)
        home_folds = torch.from_numpy(assign_folds(home_groups, labels.numpy(), num, seed))
        folds = home_folds
        if any(sources):
            groups = group_names(paths, fingerprints, pattern, sources)
            folds = torch.from_numpy(
                assign_source_folds(sources, groups, labels.numpy(), num, seed)
            )
        if any(sources) and not find_left_out(sources, folds.numpy()).any():
            warn("no source can be left out as a whole: look-alikes and groups are instead")
            sources, folds = [""] * len(sources), home_folds
        if not folds.any():
            raise DataError(
                f"{config.data.source}: nothing can be left out, as without it some class would "
                "have no images to train on; add images"
            )
        num_classes, iterations = len(config.classes), config.train.epochs
        home = None
        if not is_frozen:
            elsewhere = _train_folds(config, run.folder, data, paths, labels, folds)
        else:
            embedded = torch.cat(embed_splits(config, state, data, device_config))
            features, _, _ = standardise(embedded)
            elsewhere = fit_folds(features, labels, folds, num_classes, iterations)
            if any(sources) and home_folds.any():
                home = fit_folds(features, labels, home_folds, num_classes, iterations)
        result = OutOfFold(paths, labels, sources, folds, elsewhere)
        at_home = home if home is None else replace(result, folds=home_folds, logits=home)
        metrics = _describe(config, result, at_home)
        _write_rows(run.folder / "out_of_fold.csv", config, result, metrics)
        files.write_atomic(run.folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def _train_folds(
    config: Config, folder: Path, data: Dataset, paths: Sequence[str], labels: Tensor, folds: Tensor
) -> Tensor:
    """Train a run for each fold on the others; return the (1, N, C) logits of its images."""
    root = config.data.source if config.data.root else config.data.source.parent
    splits = ["train"] * len(data.train.paths) + ["val"] * len(data.val.paths)
    logits = torch.zeros(1, len(paths), len(config.classes), dtype=torch.float64)
    for fold in range(int(folds.max()) + 1):
        place = folder / "folds" / str(fold)
        is_left_out = (folds == fold).tolist()
        place.mkdir(parents=True, exist_ok=True)
        manifest = place / "images.csv"
        lines = [csv_line(["path", "label", "split"])]
        for path, label, split, left_out in zip(paths, labels, splits, is_left_out, strict=True):
            cells = [safe_cell(str((root / path).resolve())), config.classes[int(label)]]
            lines.append(csv_line([*cells, "test" if left_out else split]))
        files.write_atomic(manifest, b"".join(lines))
        settings = config.data.model_copy(
            update={"root": None, "manifest": str(manifest), "sources": None}
        )
        decision = config.decision.model_copy(update={"cross_validation": None})
        own = config.model_copy(
            update={"name": f"{config.name}-{fold}", "data": settings, "decision": decision}
        )
        info(f"fold {fold + 1} of {int(folds.max()) + 1}: {sum(is_left_out):,} images left out")
        with run_training(own, place / "run", fresh=False):
            device = choose_device_config(config.device, "float32").device
            classifier = load_classifier(place / "run", device)
            indices = [index for index, left_out in enumerate(is_left_out) if left_out]
            results = classifier.predict_files(root / paths[index] for index in indices)
            for index, result in zip(indices, results, strict=True):
                if result.logits is None:
                    raise DataError(f"{root / paths[index]}: {result.prediction.error}")
                logits[0, index] = result.logits.double()
    return logits


def _describe(config: Config, result: OutOfFold, home: OutOfFold | None) -> dict[str, Any]:
    """Compute `metrics.json`.

    What is said of a source comes from temperature and thresholds that the other sources give, and
    from the penalty that they choose.
    """
    by_source = any(result.sources)
    chosen = torch.ones(len(result.paths), dtype=torch.bool)
    if by_source:
        chosen = torch.from_numpy(find_left_out(result.sources, result.folds.numpy()))
    best, temperature, rule = _calibrate(config, result, chosen)
    nested = torch.zeros_like(result.logits[0])
    is_accepted = torch.zeros_like(chosen)
    for fold in range(int(result.folds.max()) + 1):
        own = result.folds == fold
        if not (own & chosen).any():
            continue
        index, own_temperature, own_rule = _calibrate(config, result, chosen & ~own)
        nested[own] = result.logits[index, own] / own_temperature
        is_accepted[own] = accepts(own_rule, to_probabilities(nested[own]), config.reject_index)
    is_accepted &= chosen
    probabilities = to_probabilities(nested)
    hits = probabilities.argmax(dim=1) == result.labels
    rows = _describe_sources(config, result, chosen, probabilities, hits, is_accepted)
    metrics: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "config_digest": config_digest(config),
        "num_images": len(result.paths),
        "num_folds": int(result.folds.max()) + 1,
        "temperature": temperature,
        "decision_rule": asdict(rule),
        "calibrated_on": "left-out sources" if by_source else "cross-validation",
        "elsewhere" if by_source else "folds": {
            **_summarise(config, nested[chosen], result.labels[chosen]),
            "precision": float(hits[is_accepted].double().mean()) if is_accepted.any() else None,
            "coverage": float(is_accepted[chosen].double().mean()),
        },
        "sources": rows,
    }
    if by_source and is_accepted.any():
        accepted_sources = [
            name for name, each in zip(result.sources, is_accepted, strict=True) if each
        ]
        metrics["elsewhere"]["precision_interval"] = bootstrap_precision(
            hits[is_accepted], accepted_sources
        )
    large = [row["accuracy"] for row in rows if row["num_images"] >= MIN_SOURCE_IMAGES]
    if len(large) > 1:
        # One more draw is as likely to be the lowest or highest as any other: no assumption on how
        # sources are distributed (order statistics, Wilks, 1941).
        level = (len(large) - 1) / (len(large) + 1)
        metrics["elsewhere"]["prediction_interval"] = [min(large), max(large)]
        metrics["elsewhere"]["prediction_level"] = level
        metrics["elsewhere"]["mean_of_sources"] = sum(large) / len(large)
    if config.model.trainable == "head":
        metrics["l2"] = L2_GRID[best]
    if home is not None and by_source:
        index, home_temperature, _ = _calibrate(config, home, torch.ones_like(chosen))
        metrics["home"] = _summarise(config, home.logits[index] / home_temperature, home.labels)
    return metrics


def _calibrate(
    config: Config, result: OutOfFold, chosen: Tensor
) -> tuple[int, float, DecisionRule]:
    """Choose setting, temperature and decision rule by the images that `chosen` (N,) names."""
    labels = result.labels[chosen]
    index, _ = find_lowest_loss(result.logits[:, chosen], labels)
    logits = result.logits[index, chosen]
    temperature = fit_temperature(logits, labels)
    fit = fit_pooled_rule if any(result.sources) else fit_decision_rule
    probabilities = to_probabilities(logits, temperature)
    rule = fit(probabilities, labels, config.reject_index, config.decision.target_precision)
    return index, temperature, rule


def _summarise(config: Config, scores: Tensor, labels: Tensor) -> dict[str, Any]:
    confusion = confusion_matrix(labels, scores.argmax(dim=1), len(config.classes))
    hit_rate = accuracy(confusion)
    return {
        "accuracy": hit_rate,
        "accuracy_interval": list(wilson_interval(hit_rate, len(labels))),
        "macro_recall": macro_recall(confusion),
        "nll": nll(scores, labels, 1.0),
        "confusion_matrix": confusion.tolist(),
    }


def _describe_sources(
    config: Config,
    result: OutOfFold,
    chosen: Tensor,
    probabilities: Tensor,
    hits: Tensor,
    is_accepted: Tensor,
) -> list[dict[str, Any]]:
    """Return a row for each source of the images that `chosen` (N,) names, least accurate first."""
    rows = []
    sources = {result.sources[index] for index in chosen.nonzero()[:, 0].tolist()}
    for name in sorted(filter(None, sources)):
        own = torch.tensor([source == name for source in result.sources])
        accepted, num = own & is_accepted, int(own.sum())
        wrong = (own & ~hits).nonzero()[:, 0].tolist()
        wrong.sort(key=lambda index: -float(probabilities[index].max()))
        counts = result.labels[own].bincount(minlength=len(config.classes)).tolist()
        rows.append(
            {
                "source": name,
                "num_images": num,
                "classes": {
                    each: count for each, count in zip(config.classes, counts, strict=True) if count
                },
                "accuracy": float(hits[own].double().mean()),
                "coverage": float(is_accepted[own].double().mean()),
                "precision": float(hits[accepted].double().mean()) if accepted.any() else None,
                "mistakes": [result.paths[index] for index in wrong[:_NUM_MISTAKES]],
            }
        )
    return sorted(rows, key=lambda row: row["accuracy"])


def _write_rows(path: Path, config: Config, result: OutOfFold, metrics: dict[str, Any]) -> None:
    """Write `out_of_fold.csv`: a row for each image, with its calibrated probabilities."""
    index = L2_GRID.index(metrics["l2"]) if "l2" in metrics else 0
    probabilities = to_probabilities(result.logits[index], metrics["temperature"]).tolist()
    with files.atomic_writer(path) as file:
        columns = ["path", "label", "source", "fold", *(f"prob_{each}" for each in config.classes)]
        file.write(csv_line(columns))
        rows = zip(result.paths, result.labels.tolist(), result.sources, result.folds.tolist(),
                   probabilities, strict=True)  # fmt: skip
        for image, label, source, fold, row in rows:
            cells = [safe_cell(image), config.classes[label], safe_cell(source), str(fold)]
            file.write(csv_line([*cells, *(f"{each:.6f}" for each in row)]))
