"""The average follows the network smoothly, and is a copy of its own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neither.training.state import EMA


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@torch.no_grad()
def fill(network: nn.Module, value: float) -> None:
    for tensor in network.state_dict().values():
        tensor.fill_(value)


def values(network: nn.Module, wanted: Callable[[Tensor], bool]) -> set[float]:
    tensors = [each for each in network.state_dict().values() if wanted(each)]
    assert tensors
    return {round(value, 6) for tensor in tensors for value in tensor.flatten().tolist()}


def test_the_average_begins_as_an_equal_copy() -> None:
    network = make_network()
    average = EMA(network, 0.9)
    copied = average.network.state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(copied[name], tensor)
        assert copied[name].data_ptr() != tensor.data_ptr()


def test_the_first_step_forgets_nearly_all_of_the_random_start() -> None:
    network = make_network()
    average = EMA(network, 0.98)
    fill(average.network, 0.0)
    fill(network, 1.0)
    average.update(1)
    assert values(average.network, Tensor.is_floating_point) == {0.9}


@pytest.mark.parametrize(("step", "share"), [(1, 0.1), (9, 0.5), (91, 0.9), (10_000, 0.9)])
def test_the_decay_rises_to_its_final_value(step: int, share: float) -> None:
    network = make_network()
    average = EMA(network, 0.9)
    fill(average.network, 1.0)
    fill(network, 0.0)
    average.update(step)
    assert values(average.network, Tensor.is_floating_point) == {share}


def test_the_average_converges_to_weights_that_rest() -> None:
    network = make_network()
    average = EMA(network, 0.9)
    fill(network, 3.0)
    for step in range(1, 200):
        average.update(step)
    for tensor in average.network.state_dict().values():
        torch.testing.assert_close(tensor.float(), torch.full_like(tensor.float(), 3.0))


def test_a_decay_of_zero_is_the_network_itself() -> None:
    network = make_network()
    average = EMA(network, 0.0)
    for step in (1, 50):
        fill(network, float(step))
        average.update(step)
        for name, tensor in average.network.state_dict().items():
            assert torch.equal(tensor, network.state_dict()[name])


def test_statistics_follow_and_counters_are_copied() -> None:
    network = make_network()
    average = EMA(network, 0.9)
    network.train()(5 + torch.randn(8, 3, 2, 2))
    average.update(9)  # half of each
    theirs, mine = network.state_dict(), average.network.state_dict()
    torch.testing.assert_close(mine["1.running_mean"], theirs["1.running_mean"] / 2)
    torch.testing.assert_close(mine["1.running_var"], (1 + theirs["1.running_var"]) / 2)
    assert mine["1.num_batches_tracked"] == theirs["1.num_batches_tracked"] == 1


def test_the_average_only_evaluates() -> None:
    network = make_network().train()
    average = EMA(network, 0.9)
    average.update(1)
    assert not any(module.training for module in average.network.modules())
    assert not any(weights.requires_grad for weights in average.network.parameters())
    assert all(module.training for module in network.modules())
    assert all(weights.requires_grad for weights in network.parameters())


def test_following_leaves_the_network_alone() -> None:
    network = make_network()
    average = EMA(network, 0.5)
    fill(average.network, 7.0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average.update(3)
    assert all(torch.equal(network.state_dict()[name], each) for name, each in before.items())


def test_the_average_follows_weights_that_were_loaded_later() -> None:
    """A resumed run puts its weights into the network after the average was made."""
    network = make_network()
    average = EMA(network, 0.0)
    network.load_state_dict({name: torch.full_like(each, 2) for name, each in
                             network.state_dict().items()})  # fmt: skip
    average.update(1)
    assert values(average.network, lambda _: True) == {2.0}
