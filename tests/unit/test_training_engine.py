"""Devices, number formats and what is raised on every process."""

from datetime import timedelta

import pytest
import torch

from vaevq.errors import UserError
from vaevq.training.engine import Engine, choose_device, engine


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with CUDA, as far as choosing a device goes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda shape, device: torch.ones(shape))


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    ("name", "local_rank", "device"),
    [
        ("auto", None, "cuda:0"),
        ("auto", "1", "cuda:1"),
        ("cuda", None, "cuda:0"),
        ("cuda", "1", "cuda:1"),
        ("cuda:2", "1", "cuda:2"),
        ("cpu", "1", "cpu"),
    ],
)
def test_each_process_of_a_machine_has_its_own_device_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, local_rank: str | None, device: str
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert choose_device(name) == torch.device(device)


@pytest.mark.usefixtures("cuda")
def test_on_cuda_float32_is_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")  # as NVIDIA's containers ask for
    try:
        choose_device("cpu")
        assert torch.backends.cudnn.allow_tf32
        choose_device("cuda")
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", ["cuda:0", "cuda:1"])
def test_one_gpu_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(variable, value)
    message = f"device '{name}' would be shared by 2 processes; auto or cuda gives each its own"
    with pytest.raises(UserError, match=message), engine(name, "float32"):
        pass


def test_processes_wait_an_hour_for_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which fits, diagnoses and saves alone; NCCL by itself would wait ten minutes."""
    waits = []

    def joined(backend: str, timeout: timedelta) -> None:
        waits.append((backend, timeout))
        raise UserError("that is all")

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "init_process_group", joined)
    with pytest.raises(UserError, match="that is all"), engine("cpu", "float32"):
        pass
    assert waits == [("gloo", timedelta(hours=1))]


@pytest.mark.parametrize(("device", "tried"), [("cuda", True), ("cpu", False)])
def test_ways_of_convolving_are_tried_in_steps_on_cuda_alone(device: str, tried: bool) -> None:
    with Engine(torch.device(device), torch.float32, None, 0, 1).training_step():
        assert torch.backends.cudnn.benchmark == tried
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps:7", "cpu cpu", "", "meta"])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert str(caught.value).startswith(f"device '{name}' is not available here")
    assert "\n" not in str(caught.value)


def test_number_formats() -> None:
    expected = {
        "auto": (torch.float32, None),
        "float32": (torch.float32, None),
        "bfloat16": (torch.float32, torch.bfloat16),
        "float64": (torch.float64, None),
    }
    for precision, (dtype, autocast) in expected.items():
        with engine("cpu", precision) as place:  # type: ignore[arg-type]
            assert (place.dtype, place.autocast_dtype) == (dtype, autocast)
            assert (place.rank, place.world_size, place.is_main) == (0, 1, True)
            with place.autocast():
                product = torch.ones(2, 2) @ torch.ones(2, 2)
            assert product.dtype == (autocast or torch.float32)


def test_without_a_mistake_nothing_is_raised() -> None:
    with engine("cpu", "float32") as place:
        place.raise_together(None)
        with pytest.raises(UserError, match="mine"):
            place.raise_together(UserError("mine"))
