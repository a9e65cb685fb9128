"""Cross-validation: each source of images, or each fold, is left out of training once.

So each image of train and val gets probabilities from a network that has not seen its source. They
say what to expect on images from elsewhere, and give temperature and thresholds that hold there.
With a frozen backbone all folds are fitted at once to one embedding; otherwise each is a run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neither.config.schema import Config
from neither.data.dataset import Dataset, Split
from neither.data.fingerprints import hex_digests
from neither.data.folds import (
    MAX_FOLDS,
    MIN_SOURCE_IMAGES,
    assign_folds,
    assign_source_folds,
    find_left_out,
    group_names,
    split_fold,
)
from neither.data.sources import weigh_images
from neither.data.split_file import csv_line, safe_cell
from neither.data.splits import SPLITS
from neither.evaluation.calibration import expected_calibration_error, fit_temperature
from neither.evaluation.metrics import (
    accuracy,
    confusion_matrix,
    describe_mean,
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
from neither.models.checkpoint import DecisionRule
from neither.models.networks import check_network_name
from neither.models.softmax import to_probabilities
from neither.reporting.html import write_cross_validation_report
from neither.runtime import files
from neither.runtime.console import info, printable, warn
from neither.runtime.devices import choose_device_config
from neither.runtime.errors import DataError, UsageError
from neither.training.head import L2_GRID, embed_splits, find_lowest_loss, fit_folds, standardise
from neither.training.out_of_fold import OutOfFold, config_digest, write_out_of_fold
from neither.training.run_folder import RunFolder, open_run_folder, require_same_config
from neither.training.teacher import check_seen_by_teacher
from neither.training.trainer import check_folders, load, require_images, run_training
from neither.training.warm_start import check_seen_images

SCHEMA_VERSION = 1
_NUM_MISTAKES = 6  # of a source, that the report shows


def cross_validate(
    config: Config, folder: Path, max_folds: int | None, fresh: bool = False
) -> dict[str, Any]:
    """Leave each source out once, or each fold where no image has a source; write the results.

    The same command goes on after a stop: features and finished folds are kept. There are at most
    10 folds, or `max_folds`; `fresh` renames what is in the folder.

    Returns:
        The content of `metrics.json`.

    Raises:
        DataError: if nothing can be left out, such as where a class has one source and one group.
        UsageError, CheckpointError, OutputError, Stopped: as `train`.
    """
    check_network_name(config.model.name)
    _require_folder(config, folder, fresh, is_repeated=False)
    with open_run_folder(config, folder, fresh) as run:
        on_disk = config.data.model_copy(update={"store": "disk"})  # pixels are read once, or never
        device_config, state, data = load(config.model_copy(update={"data": on_disk}), run)
        if state.initial is not None:
            check_seen_images(config, state.initial, data, "predictions for images left out")
        if config.train.teacher is not None:
            check_seen_by_teacher(config, data, left_out=True)
        images, fingerprints = _join(data)
        labels, sources = images.labels, images.sources
        pattern, num, seed = config.data.group_pattern, max_folds or MAX_FOLDS, config.seed
        home_groups = groups = group_names(images.paths, fingerprints, pattern)
        home_folds = torch.from_numpy(assign_folds(home_groups, labels.numpy(), num, seed))
        folds = home_folds
        if any(sources):
            groups = group_names(images.paths, fingerprints, pattern, sources)
            assigned = assign_source_folds(sources, groups, labels.numpy(), num, seed)
            folds = torch.from_numpy(assigned)
        if any(sources) and not find_left_out(sources, folds.numpy()).any():
            warn("no source can be left out as a whole: look-alikes and groups are instead")
            sources, groups, folds = [""] * len(sources), home_groups, home_folds
        if not folds.any():
            raise DataError(
                f"{config.data.source}: nothing can be left out, as without it some class would "
                "have no images to train on; add images"
            )
        num_classes, iterations = len(config.classes), config.train.epochs
        home = None
        if not config.model.is_frozen:
            is_val = np.arange(len(labels)) >= len(data.train.paths)
            manifests = _plan_folds(config, images, is_val, fingerprints, folds, groups)
            elsewhere = _train_folds(config, run.folder / "folds", images, folds, manifests)
        else:
            embedded = torch.cat(embed_splits(config, state, data, device_config))
            features, _, _ = standardise(embedded)
            weights = torch.from_numpy(weigh_images(sources, labels.numpy()))
            elsewhere = fit_folds(features, labels, weights, folds, num_classes, iterations)
            if any(sources) and home_folds.any():
                home = fit_folds(features, labels, weights, home_folds, num_classes, iterations)
        result = OutOfFold(images.paths, labels, sources, folds, elsewhere)
        at_home = home if home is None else replace(result, folds=home_folds, logits=home)
        metrics = _describe(config, result, at_home) | {"data_fingerprint": data.fingerprint}
        index = L2_GRID.index(metrics["l2"]) if "l2" in metrics else 0
        probabilities = to_probabilities(elsewhere[index], metrics["temperature"])
        write_out_of_fold(run.folder / "out_of_fold.csv", config.classes, result, probabilities)
        write_cross_validation_report(run.folder, config.data.source, config.name, metrics)
        files.write_atomic(run.folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def _plan_folds(
    config: Config,
    images: Split,
    is_val: NDArray[np.bool_],
    fingerprints: NDArray[np.void],
    folds: Tensor,
    groups: Sequence[str],
) -> list[bytes]:
    """Return the content of the manifest of each fold's run: see `split_fold`.

    Raises:
        DataError: if some run would lack images of a class.
    """
    hashes = hex_digests(fingerprints)
    names = [config.classes[label] for label in images.labels.tolist()]
    paths = [safe_cell(str(path.resolve())) for path in _find(config, images.paths)]
    manifests = []
    for fold in range(int(folds.max()) + 1):
        is_left_out = (folds == fold).numpy()
        labels = images.labels.numpy()
        splits = split_fold(is_left_out, is_val, groups, labels, fingerprints, config.seed)
        if splits is None:
            source = images.sources[int(is_left_out.argmax())]
            raise DataError(
                f"{config.data.source}: without fold {fold + 1}"
                f"{f' (source {printable(source)})' if source else ''} train or val of a run has "
                "no image of some class; add images of each class from other sources"
            )
        # The hashes are not read: they show whether the same images are behind the paths.
        columns = zip(paths, names, [SPLITS[split] for split in splits], hashes, strict=True)
        rows = [["path", "label", "split", "sha256"], *columns]
        manifests.append(b"".join(map(csv_line, rows)))
    return manifests


def _train_folds(
    config: Config, folder: Path, images: Split, folds: Tensor, manifests: Sequence[bytes]
) -> Tensor:
    """Train a run for each fold on the others, or go on with it, in the subfolders `0`, `1`, ...

    Returns:
        (1, N, C) float64 logits, each image's from the run that has not seen its fold.

    Raises:
        UsageError: if the folder holds runs of other folds.
    """
    places = [folder / str(fold) for fold in range(len(manifests))]
    for place, content in zip(places, manifests, strict=True):
        manifest = place / "images.csv"
        if manifest.exists() and manifest.read_bytes() != content:
            raise UsageError(
                f"{folder}: these folds are of other images, or of another --folds; start again "
                "with --fresh, which keeps them under another name"
            )
    if config.data.unlabelled is not None:
        info("the folds are trained without data.unlabelled, which may hold what is left out")
    logits = torch.zeros(1, len(images.paths), len(config.classes), dtype=torch.float64)
    for fold, (place, content) in enumerate(zip(places, manifests, strict=True)):
        place.mkdir(parents=True, exist_ok=True)
        files.write_atomic(place / "images.csv", content)
        indices = (folds == fold).nonzero()[:, 0].tolist()
        info(f"fold {fold + 1} of {len(places)}: {len(indices):,} images left out")
        with run_training(_configure(config, fold, place / "images.csv"), place / "run", False):
            device = choose_device_config(config.device, "float32").device
            classifier = load_classifier(place / "run", device)
            paths = _find(config, [images.paths[index] for index in indices])
            results = classifier.predict_files(paths)
            for index, path, result in zip(indices, paths, results, strict=True):
                if result.logits is None:
                    raise DataError(f"{path}: {result.prediction.error}")
                logits[0, index] = result.logits.double()
    return logits


def _configure(config: Config, fold: int, manifest: Path) -> Config:
    """Return the config of the run of a fold.

    The manifest has absolute paths, correct classes, and each group in one split: what the config
    says of paths and labels is done. Images without labels may be of the sources that are left out.
    """
    data: dict[str, Any] = {
        "root": None, "manifest": str(manifest), "sources": None, "group_pattern": None,
        "aliases": {}, "ignored_folders": (), "corrections": None, "unlabelled": None,
    }  # fmt: skip
    changes = {
        "name": f"{config.name}-{fold}",
        "data": config.data.model_copy(update=data),
        "decision": config.decision.model_copy(update={"cross_validation": None}),
    }
    return config.model_copy(update=changes)


def _find(config: Config, paths: Sequence[str]) -> list[Path]:
    """Return where images are that the config's folder or manifest names."""
    return [config.data.folder / path for path in paths]


def repeat_cross_validation(
    config: Config, seeds: Sequence[int], folder: Path, max_folds: int | None, fresh: bool
) -> dict[str, Any]:
    """Cross-validate once for each of two or more seeds, in a subfolder each; average the metrics.

    The arguments are those of `cross_validate`; `seed` of the config does not matter.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: also if nothing is random.
    """
    if config.model.is_frozen:
        raise UsageError(
            "--seeds: nothing is random where a head is fitted to a frozen backbone; leave --seeds "
            "out, or set model.trainable=all"
        )
    _require_folder(config, folder, fresh, is_repeated=True)
    with open_run_folder(config, folder, fresh) as run:
        results = []
        for number, seed in enumerate(seeds, start=1):
            info(f"seed {seed}: {number} of {len(seeds)}")
            own = config.model_copy(update={"seed": seed})
            results.append(cross_validate(own, run.folder / f"seed-{seed}", max_folds))
        key = "elsewhere" if "elsewhere" in results[0] else "folds"
        parts = [result[key] for result in results if key in result]
        measured = {
            name: [part[name] for part in parts if part[name] is not None]
            for name in ("accuracy", "macro_recall", "nll", "precision", "coverage")
        }
        metrics: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "seeds": list(seeds),
            "num_images": results[0]["num_images"],
            "num_folds": results[0]["num_folds"],
            key: {name: describe_mean(each) for name, each in measured.items() if len(each) > 1},
            "sources": [],
        }
        write_cross_validation_report(run.folder, config.data.source, config.name, metrics)
        files.write_atomic(run.folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def _require_folder(config: Config, folder: Path, fresh: bool, is_repeated: bool) -> None:
    """Raise if the images are missing, or the folder is not one for this cross-validation."""
    if not config.data.source.exists():
        require_images(config)
    check_folders(config, folder)
    if RunFolder(folder).has_checkpoint():
        raise UsageError(f"{folder}: this folder holds a run; name another with --output-dir")
    if fresh:
        return
    has_seeds = any(folder.glob("seed-*"))
    has_folds = (folder / "metrics.json").exists() or (folder / "folds").exists()
    if has_seeds if not is_repeated else has_folds and not has_seeds:
        raise UsageError(
            f"{folder}: this cross-validation was started {'with' if has_seeds else 'without'} "
            "--seeds; name another folder with --output-dir, or start again with --fresh"
        )
    if has_seeds or has_folds:
        require_same_config(config, folder / "config.yaml")


def _join(data: Dataset) -> tuple[Split, NDArray[np.void]]:
    """Return the images of train and then val, and their (N,) fingerprints."""
    rows = torch.cat([data.train.rows, data.val.rows])
    labels = torch.cat([data.train.labels, data.val.labels])
    paths, sources = data.train.paths + data.val.paths, data.train.sources + data.val.sources
    return Split(paths, rows, labels, sources), data.image_fingerprints[rows.numpy()]


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
    if config.model.is_frozen:
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
    target = config.decision.target_precision
    rule = fit(probabilities, labels, config.reject_index, target)
    # Nothing is certified of the network that will use the rule: each image's is another.
    return index, temperature, DecisionRule(target, rule.threshold, rule.reject_threshold)


def _summarise(config: Config, scores: Tensor, labels: Tensor) -> dict[str, Any]:
    confusion = confusion_matrix(labels, scores.argmax(dim=1), len(config.classes))
    hit_rate = accuracy(confusion)
    error = expected_calibration_error(to_probabilities(scores), labels)
    return {
        "accuracy": hit_rate,
        "accuracy_interval": list(wilson_interval(hit_rate, len(labels))),
        "macro_recall": macro_recall(confusion),
        "nll": nll(scores, labels, 1.0),
        "ece": error.value,
        "expected_if_calibrated": {"ece": {"mean": error.expected, "q95": error.bound}},
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
    numbers = {name: number for number, name in enumerate(sorted({*result.sources}))}
    source_numbers = torch.tensor([numbers[name] for name in result.sources])
    for name, number in numbers.items():
        own = chosen & (source_numbers == number)
        if not name or not own.any():
            continue
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
