"""Devices, number formats and what is raised on every process."""

import pytest
import torch

from vaevq.errors import UserError
from vaevq.training.engine import choose_device, engine


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
