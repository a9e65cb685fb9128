from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neither.config.schema import Augmentation
from neither.data.augmentation import crop
from neither.data.batches import Batch, Batches, view_uniforms
from neither.data.dataset import Dataset, Split
from neither.data.fingerprints import FINGERPRINT
from neither.data.preprocessing import Preprocessing, normalize
from neither.runtime.distributed import World

SIZE = 8
OFF = Augmentation(
    crop_scale=(1.0, 1.0),
    horizontal_flip=False,
    rotation_degrees=0.0,
    color_jitter=0.0,
    grayscale=0.0,
    random_erasing=0.0,
)


def make(num: int = 100, pixels: Tensor | None = None, **changes: Any) -> Batches:  # noqa: ANN401
    """Make batches of `num` of the images of a dataset that has twice as many."""
    if pixels is None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (2 * num, SIZE, SIZE, 3), generator=generator,
                               dtype=torch.uint8)  # fmt: skip
    rows = torch.arange(2 * num - 1, 0, -2)
    split = Split([], rows, rows % 3)
    data = Dataset(pixels, split, split, ("a", "b", "c"), Preprocessing(SIZE), "")
    fields: dict[str, Any] = {
        "augmentation": Augmentation(), "batch_size": 32, "seed": 0, "device": torch.device("cpu"),
    }  # fmt: skip
    return Batches(data, **fields | changes)


def order(batches: Batches, epoch: int, start: int = 0) -> list[int]:
    return [
        number for batch in batches.iterate_epoch(epoch, start) for number in batch.indices.tolist()
    ]


def images(batches: Batches, epoch: int) -> Tensor:
    return torch.cat([batch.images for batch in batches.iterate_epoch(epoch)])


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name))
               for name in ("images", "labels", "targets", "indices"))  # fmt: skip


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 9))
def test_each_image_comes_once_an_epoch_in_batches_of_nearly_one_size(
    num: int, batch_size: int, epoch: int
) -> None:
    batches = make(num, batch_size=batch_size, augmentation=OFF)
    sizes = [len(batch.labels) for batch in batches.iterate_epoch(epoch)]
    assert len(sizes) == len(batches)
    assert 0 < min(sizes) <= max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= (1 if batch_size % 2 else 3)
    assert sum(sizes) == num
    # As few batches as the size allows.
    assert (len(sizes) - 1) * batch_size < num
    assert sorted(order(batches, epoch)) == list(range(num))


def test_pixels_and_labels_belong_to_their_index() -> None:
    batches = make(augmentation=OFF)
    for batch in batches.iterate_epoch(3):
        rows = batches.data.train.rows[batch.indices]
        plain = normalize(batches.data.pixels[rows], batches.data.preprocessing)
        assert torch.allclose(batch.images, plain, rtol=0, atol=1e-5)
        assert torch.equal(batch.labels, rows % 3)
        assert torch.equal(batch.targets, torch.eye(3)[batch.labels])


@pytest.mark.parametrize("start", range(5))
def test_starting_within_an_epoch_gives_the_rest_of_the_same_batches(start: int) -> None:
    whole, rest = list(make().iterate_epoch(2)), list(make().iterate_epoch(2, start))
    assert len(whole) == 4
    assert len(rest) == 4 - start
    assert all(equal(*pair) for pair in zip(whole[start:], rest, strict=True))


@pytest.mark.fault("R22")
@pytest.mark.parametrize("batch_size", [2, 6, 100])
def test_an_image_is_mixed_with_the_same_however_batches_are_cut(batch_size: int) -> None:
    mixed = Augmentation(cutmix=0.7)
    cut, whole = make(51, batch_size=batch_size, augmentation=mixed), make(51, augmentation=mixed)
    assert torch.allclose(images(cut, 4), images(whole, 4), rtol=0, atol=1e-5)
    targets = [
        torch.cat([batch.targets for batch in each.iterate_epoch(4)]) for each in (cut, whole)
    ]
    assert torch.equal(*targets)
    assert (targets[0].amax(dim=1) < 1).any()


def test_mixing_changes_no_other_number() -> None:
    plain, mixed = make(augmentation=OFF), make(augmentation=OFF.model_copy(update={"cutmix": 0.5}))
    for one, other in zip(plain.iterate_epoch(0), mixed.iterate_epoch(0), strict=True):
        assert torch.equal(one.labels, other.labels)
        same = (one.images == other.images).flatten(1).all(dim=1)
        assert 0 < same.sum() < len(same)
        assert torch.equal(one.targets[same], other.targets[same])


def test_training_images_may_be_smaller_than_those_of_the_store() -> None:
    pixels = torch.zeros((8, 12, 12, 3), dtype=torch.uint8)
    (batch,) = make(4, pixels=pixels, augmentation=Augmentation(train_scale=2 / 3)).iterate_epoch(0)
    assert batch.images.shape == (4, 3, 8, 8)


@pytest.mark.fault("R22")
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_an_image_is_changed_the_same_however_batches_are_cut(batch_size: int) -> None:
    cut, whole = make(batch_size=batch_size), make(batch_size=32)
    assert order(cut, 4) == order(whole, 4)
    assert torch.allclose(images(cut, 4), images(whole, 4), rtol=0, atol=1e-5)


def test_another_epoch_has_another_order_and_other_changes() -> None:
    batches = make()
    orders = {tuple(order(batches, epoch)) for epoch in range(4)}
    assert len(orders) == 4
    one, other = (images(batches, epoch)[order(batches, epoch).index(0)] for epoch in (0, 1))
    assert not torch.allclose(one, other, atol=1e-2)


def test_another_seed_has_another_order_and_other_changes() -> None:
    batches = [make(seed=seed) for seed in (0, 1)]
    orders = [order(each, 0) for each in batches]
    assert orders[0] != orders[1]
    one, other = (images(each, 0)[at.index(0)] for each, at in zip(batches, orders, strict=True))
    assert not torch.allclose(one, other, atol=1e-2)


def test_images_of_one_batch_are_changed_each_in_its_own_way() -> None:
    batches = make(20)
    same = batches.data.pixels[torch.tensor([0])].expand(40, SIZE, SIZE, 3).contiguous()
    changed = images(make(20, pixels=same), 0)
    assert len({image.numpy().tobytes() for image in changed}) == 20


@pytest.mark.parametrize(("num", "size", "fewest"), [(3, 1, 1), (4, 1, 2), (5, 2, 1), (100, 1, 24)])
def test_the_fewest_images_at_once_are_known_beforehand(num: int, size: int, fewest: int) -> None:
    batch_size = 32 if num == 100 else num if size == 2 else 2
    ranks = [World(rank, size) for rank in range(size)]
    every = [make(num, batch_size=batch_size, world=each, augmentation=OFF) for each in ranks]
    parts = [len(batch.images) for batches in every for batch in batches.iterate_epoch(0)]
    assert every[0].min_shard_size() == min(part for part in parts if part) == fewest


def make_taught(weight: float, cutmix: float = 0.0, num_unlabelled: int = 30) -> Batches:
    """Make batches of 100 images with labels and some without, each with answers for three crops.

    The only change of images is the crop.
    """
    plain = make()
    rows = torch.arange(0, 2 * num_unlabelled, 2)
    fingerprints = np.zeros(200, FINGERPRINT)
    fingerprints["sha256"] = np.random.default_rng(0).integers(0, 256, (200, 32))
    data = replace(plain.data, image_fingerprints=fingerprints,
                   unlabelled=Split([], rows, torch.full_like(rows, -1)))  # fmt: skip
    answers = torch.rand(100 + num_unlabelled, 3, 3, generator=torch.Generator().manual_seed(0))
    crops = OFF.model_copy(update={"crop_scale": (0.25, 1.0), "cutmix": cutmix})
    return replace(plain, data=data, augmentation=crops, teacher_weight=weight,
                   teacher=answers / answers.sum(dim=2, keepdim=True))  # fmt: skip


def test_a_student_sees_the_crops_that_the_teacher_has_answered() -> None:
    batches = make_taught(0.75)
    data, teacher = batches.data, batches.teacher
    assert teacher is not None
    for epoch in (0, 2, 3):
        view = epoch % 3
        for batch in batches.iterate_epoch(epoch):
            rows = torch.cat([data.train.rows, data.unlabelled.rows])[batch.indices]
            hashes = data.image_fingerprints["sha256"][rows.numpy()]
            uniforms = torch.from_numpy(view_uniforms(0, view, hashes))
            seen = normalize(crop(data.pixels[rows], uniforms, batches.augmentation),
                             data.preprocessing)  # fmt: skip
            assert torch.allclose(batch.images, seen, rtol=0, atol=0.6 / 255 / 0.22)
            assert batch.teacher_targets is not None
            assert torch.equal(batch.teacher_targets, teacher[batch.indices, view])
    assert sorted(order(batches, 4)) == list(range(130))


def test_targets_are_the_labels_and_the_teachers_answers_by_weight() -> None:
    for batch in make_taught(0.75).iterate_epoch(1):
        labels, answers = batch.label_targets, batch.teacher_targets
        assert labels is not None
        assert answers is not None
        known = batch.labels >= 0
        assert torch.equal(known, batch.indices < 100)
        assert 0 < known.sum() < len(known)
        assert torch.equal(labels[known], torch.eye(3)[batch.labels[known]])
        assert not labels[~known].any()
        assert torch.allclose(batch.targets[known], (0.25 * labels + 0.75 * answers)[known])
        assert torch.equal(batch.targets[~known], answers[~known])


def test_cutmix_blends_both_parts_of_the_targets_alike() -> None:
    for plain, mixed in zip(make_taught(0.75, num_unlabelled=0).iterate_epoch(1),
                            make_taught(0.75, 0.8, num_unlabelled=0).iterate_epoch(1),
                            strict=True):  # fmt: skip
        labels, answers = mixed.label_targets, mixed.teacher_targets
        assert labels is not None
        assert answers is not None
        assert not torch.equal(mixed.targets, plain.targets)
        assert torch.allclose(mixed.targets, 0.25 * labels + 0.75 * answers, atol=1e-6)
        assert torch.allclose(mixed.targets.sum(dim=1), torch.ones(len(labels)), atol=1e-6)
