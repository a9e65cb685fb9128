from typing import Literal

import pytest
import torch

from neither.runtime.devices import Compute, choose_compute
from neither.runtime.distributed import World
from neither.runtime.errors import OutputError


def test_the_processor_is_always_there() -> None:
    assert choose_compute("cpu", "float32") == Compute(torch.device("cpu"), "float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_taken(
    precision: Literal["float32", "bfloat16"],
) -> None:
    assert choose_compute("cpu", precision).precision == precision


def test_auto_chooses_the_same_each_time() -> None:
    first = choose_compute("auto", "auto")
    assert first == choose_compute("auto", "auto")
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert (first.device.type != "cpu") == accelerated


def test_auto_takes_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for avx512, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=avx512: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=amx: has)
        wanted = "bfloat16" if avx512 or amx else "float32"
        assert choose_compute("cpu", "auto").precision == wanted


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_several_processes_do_not_share_a_device_made_for_one(device: str) -> None:
    with pytest.raises(OutputError, match=r"is for one process, but 2 train together"):
        choose_compute(device, "auto", World(0, 2))


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert choose_compute("cuda", "float32", World(3, 4, 1)).device == torch.device("cuda:1")
    assert taken == [torch.device("cuda:1")]
    with pytest.raises(OutputError, match="2 CUDA devices are here"):
        choose_compute("cuda", "float32", World(3, 4, 3))


def test_a_device_that_is_not_there_is_an_error_with_a_remedy() -> None:
    with pytest.raises(OutputError, match=r"device: cuda:99: \d+ CUDA devices are here; choose"):
        choose_compute("cuda:99", "auto")
    if not torch.cuda.is_available():
        with pytest.raises(OutputError, match="device: cuda: 0 CUDA devices are here"):
            choose_compute("cuda", "float32")
    if not torch.backends.mps.is_available():
        with pytest.raises(OutputError, match="device: mps: no MPS device is here"):
            choose_compute("mps", "auto")


def test_autocast_computes_in_bfloat16_only_where_that_was_chosen() -> None:
    left = torch.ones(2, 2)
    with Compute(torch.device("cpu"), "float32").autocast():
        assert (left @ left).dtype == torch.float32
    with Compute(torch.device("cpu"), "bfloat16").autocast():
        assert (left @ left).dtype == torch.bfloat16
    assert (left @ left).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_is_told_to_compute_the_same_bits_each_time() -> None:
    choose_compute("cuda", "auto")
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
