import pytest
import torch

from neither.runtime import devices
from neither.runtime.devices import choose_device, choose_device_config
from neither.runtime.distributed import World
from neither.runtime.errors import OutputError

Patch = pytest.MonkeyPatch


def test_auto_is_a_gpu_where_there_is_one() -> None:
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert (choose_device_config("auto", "auto").device.type != "cpu") == has_gpu


def test_auto_is_bfloat16_where_the_cpu_multiplies_it(monkeypatch: Patch) -> None:
    for avx512, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=avx512: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=amx: has)
        expected = "bfloat16" if avx512 or amx else "float32"
        assert choose_device_config("cpu", "auto").precision == expected


@pytest.mark.parametrize(("cores", "environment", "expected"), [
    (2, None, [2]), (1, None, [1]), (64, None, []), (65, None, []), (2, "48", []),
])  # fmt: skip
def test_torch_starts_no_more_threads_than_there_are_cores(
    monkeypatch: Patch, cores: int, environment: str | None, expected: list[int]
) -> None:
    """Unless the user asks for them."""
    chosen: list[int] = []
    monkeypatch.setattr(devices, "num_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    choose_device("cpu")
    assert chosen == []
    choose_device_config("cpu", "float32")
    assert chosen == expected


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_several_processes_cannot_use_one_device(device: str) -> None:
    with pytest.raises(OutputError, match=f"device: {device} .* 2 "):
        choose_device_config(device, "auto", World(0, 2))


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: Patch) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert choose_device_config("cuda", "float32", World(3, 4, 1)).device == torch.device("cuda:1")
    assert taken == [torch.device("cuda:1")]
    with pytest.raises(OutputError, match="2 CUDA devices"):
        choose_device_config("cuda", "float32", World(3, 4, 3))


def test_a_missing_device_is_an_error_with_a_remedy() -> None:
    with pytest.raises(OutputError, match=r"device: cuda:99: .* \d+ CUDA devices; choose"):
        choose_device_config("cuda:99", "auto")
    if not torch.cuda.is_available():
        with pytest.raises(OutputError, match=r"device: cuda: .* 0 CUDA devices"):
            choose_device_config("cuda", "float32")
    if not torch.backends.mps.is_available():
        with pytest.raises(OutputError, match=r"device: mps: "):
            choose_device_config("mps", "auto")


def test_autocast_computes_in_bfloat16_only_if_chosen() -> None:
    left = torch.ones(2, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        device_config = choose_device_config("cpu", precision)  # type: ignore[arg-type]
        assert device_config.device == torch.device("cpu")
        with device_config.autocast():
            assert (left @ left).dtype == device_config.dtype == dtype
    assert (left @ left).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_set_to_deterministic_kernels() -> None:
    choose_device_config("cuda", "auto")
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
