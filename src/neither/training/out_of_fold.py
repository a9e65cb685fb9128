"""What a cross-validation leaves to later runs: predictions out of fold, and a calibration."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from neither.config.schema import Config
from neither.data.dataset import Dataset
from neither.data.split_file import csv_line, safe_cell
from neither.models.checkpoint import CalibratedOn, DecisionRule
from neither.runtime import files
from neither.runtime.errors import DataError, UsageError
from neither.training.run_folder import RESUMABLE_CHANGES, flatten_config

_MIN_PROBABILITY = 1e-6  # the last digit that is written


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for N images by networks that were trained without the fold of each."""

    paths: list[str]  # below the root
    labels: Tensor  # (N,) int64
    sources: list[str]  # empty for none, and for all if none can be left out
    folds: Tensor  # (N,) int64
    logits: Tensor  # (L, N, C), for each of L settings to choose from


@dataclass(frozen=True)
class Calibration:
    """What a run takes from a finished cross-validation of the same config and images."""

    temperature: float
    decision_rule: DecisionRule
    calibrated_on: CalibratedOn
    log_probabilities: Tensor  # (N, C) of train, each image's from a network that has not seen it


def write_out_of_fold(
    path: Path, classes: Sequence[str], result: OutOfFold, probabilities: Tensor
) -> None:
    """Write `out_of_fold.csv`: a row for each image, with its (N, C) calibrated probabilities."""
    with files.atomic_writer(path) as file:
        columns = ["path", "label", "source", "fold", *(f"prob_{each}" for each in classes)]
        file.write(csv_line(columns))
        rows = zip(result.paths, result.labels.tolist(), result.sources, result.folds.tolist(),
                   probabilities.tolist(), strict=True)  # fmt: skip
        for image, label, source, fold, row in rows:
            cells = [safe_cell(image), classes[label], source and safe_cell(source), str(fold)]
            file.write(csv_line([*cells, *(f"{each:.6f}" for each in row)]))


def config_digest(config: Config) -> str:
    """Return a hash of all keys that affect numbers; a run and its cross-validation share it."""
    ignored = {*RESUMABLE_CHANGES, "decision.cross_validation"}
    if config.model.pooling == "average":  # older ones do not have this key
        ignored.add("model.pooling")
    keys = {key: str(value) for key, value in flatten_config(config).items() if key not in ignored}
    return sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def read_calibration(config: Config, data: Dataset) -> Calibration | None:
    """Read the cross-validation that `decision.cross_validation` names; None if it names none.

    Raises:
        UsageError: if there is none in the folder, or its config is another.
        DataError: if it is of other images.
    """
    if config.decision.cross_validation is None:
        return None
    folder = Path(config.decision.cross_validation).expanduser()
    prefix = f"decision.cross_validation: {folder}:"
    remedy = "run scripts/cross_validate.py with this config"
    metrics = files.read_json(folder / "metrics.json")
    try:
        digest, fingerprint = metrics["config_digest"], metrics["data_fingerprint"]
        calibration = Calibration(
            float(metrics["temperature"]),
            TypeAdapter(DecisionRule).validate_python(metrics["decision_rule"]),
            TypeAdapter[CalibratedOn](CalibratedOn).validate_python(metrics["calibrated_on"]),
            _read_rows(folder / "out_of_fold.csv", data.train.paths, config.classes)
            if fingerprint == data.fingerprint
            else torch.zeros(0),
        )
        if not 0 < calibration.temperature < math.inf:
            raise ValueError("not a temperature")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"{prefix} no finished cross-validation; {remedy} first") from error
    if digest != config_digest(config):
        raise UsageError(f"{prefix} this cross-validation has another config; {remedy}")
    if fingerprint != data.fingerprint:
        raise DataError(
            f"{prefix} this cross-validation is of other images, or of other splits; {remedy} "
            "again, with --fresh"
        )
    return calibration


def _read_rows(path: Path, wanted: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Return the (N, C) log probabilities of these images."""
    columns = [f"prob_{each}" for each in classes]

    def parse(row: Mapping[str, Any]) -> list[float]:
        return [max(float(row[column]), _MIN_PROBABILITY) for column in columns]

    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = {row["path"].removeprefix("./"): parse(row) for row in csv.DictReader(file)}
    return torch.tensor([rows[image] for image in wanted], dtype=torch.float64).log()
