"""Training steps of several ranks, run in threads: no process has to start."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from neither.config.schema import Config
from neither.data.batches import Batches
from neither.data.dataset import Dataset, Split
from neither.data.preprocessing import Preprocessing
from neither.runtime.devices import DeviceConfig
from neither.runtime.distributed import World
from neither.training.state import TrainState, build_state
from neither.training.step import train_step

CPU = torch.device("cpu")
COMPUTE = DeviceConfig(CPU, "float32")
NUM = 11  # images: two batches of 6 and 5, with uneven shards


def make_state(config: Config, world: World) -> TrainState:
    state = build_state(config, Preprocessing(32), COMPUTE, world=world)
    state.set_training_labels(torch.arange(NUM) % 3)
    return state


def take_steps(config: Config, state: TrainState) -> TrainState:
    """Take the steps of one epoch on noise."""
    world = state.world
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (NUM, 32, 32, 3), generator=generator, dtype=torch.uint8)
    split = Split([], torch.arange(NUM), torch.arange(NUM) % 3)
    data = Dataset(pixels, split, split, config.classes, state.preprocessing, "")
    batches = Batches(data, config.augmentation, config.train.batch_size, 0, CPU, world)
    for batch in batches.iterate_epoch(0):
        assert len(batch.images) == len(range(len(batch.labels))[world.shard(len(batch.labels))])
        assert train_step(state, batch, 1.0, COMPUTE)
    return state


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Config, int], list[TrainState]]:
    """Return a function that takes the steps by several ranks."""

    def run(config: Config, size: int) -> list[TrainState]:
        barrier = threading.Barrier(size, timeout=60)
        given: dict[int, Tensor] = {}

        def reduce(self: World, tensor: Tensor, how: object) -> None:
            assert how == dist.ReduceOp.SUM
            given[self.rank] = tensor.clone()
            barrier.wait()
            whole = torch.stack([given[rank] for rank in range(size)]).sum(dim=0)
            barrier.wait()
            tensor.copy_(whole)

        monkeypatch.setattr(World, "_reduce", reduce)
        # One after the other: first weights come from a generator that threads share.
        states = [make_state(config, World(rank, size)) for rank in range(size)]
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(partial(take_steps, config), states))

    return run


@pytest.mark.parametrize("size", [2, 4])  # of 4 ranks the last has no image of the batch of 5
def test_uneven_and_empty_parts_add_up_to_the_whole_batch(
    size: int,
    make_config: Callable[..., Config],
    in_threads: Callable[[Config, int], list[TrainState]],
) -> None:
    config = make_config(
        model={"name": "softmax_regression"},
        train={"batch_size": 6, "optimizer": "sgd", "lr": 0.01, "label_smoothing": 0.1},
        augmentation={"cutmix": 1.0},
    )
    alone = take_steps(config, make_state(config, World()))
    for state in in_threads(config, size):
        for one, other in zip(alone.network.parameters(), state.network.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-6, rtol=0)
        assert torch.equal(alone.epoch_metrics.confusion, state.epoch_metrics.confusion)
        assert torch.allclose(alone.epoch_metrics.loss_sum, state.epoch_metrics.loss_sum)
        assert torch.allclose(alone.epoch_metrics.grad_norm_sum, state.epoch_metrics.grad_norm_sum)


def test_all_ranks_hold_the_same_bits_with_statistics_of_all_images(
    make_config: Callable[..., Config], in_threads: Callable[[Config, int], list[TrainState]]
) -> None:
    config = make_config(train={"batch_size": 6})
    first, *others = in_threads(config, 4)
    for state in others:
        for network in ("network", "ema"):
            mine = getattr(first, network), getattr(state, network)
            dicts = [getattr(each, "network", each).state_dict() for each in mine]
            for name, tensor in dicts[0].items():
                assert torch.equal(tensor, dicts[1][name]), name
    # In the first step the mean over the ranks of the means that enter the first normalisation is
    # that of the whole batch, if weighted by images: what comes before is linear.
    one_step = make_config(train={"batch_size": NUM})
    alone, whole = take_steps(one_step, make_state(one_step, World())), in_threads(one_step, 4)[0]
    name = "stem.1.running_mean"
    assert torch.allclose(alone.network.state_dict()[name], whole.network.state_dict()[name],
                          atol=1e-6)  # fmt: skip
