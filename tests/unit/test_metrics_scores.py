"""Figures per image: their mean, and the lists of the best and the worst."""

import pytest
import torch

from vaevq import distributed
from vaevq.metrics.scores import ImageScores


def test_mean_and_deviation_equal_plain_ones() -> None:
    values = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 30
    scores = ImageScores(("psnr", "ssim"))
    for part in torch.arange(40).split(7):
        scores.update(part, values[part])
    mean, deviation = values.mean(0).tolist(), values.std(0).tolist()
    expected = {"psnr": mean[0], "psnr_deviation": deviation[0], "ssim": mean[1], "ssim_deviation": deviation[1]}
    assert scores.figures() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "best", "worst"), [("psnr", 11, 0), ("lpips_vgg16", 0, 11)])
def test_low_is_good_for_lpips_alone(name: str, best: int, worst: int) -> None:
    scores = ImageScores((name,))
    scores.update(torch.arange(12), torch.arange(12.0)[:, None])
    assert (len(scores.best()), scores.best()[0].position) == (8, best)
    assert (len(scores.worst()), scores.worst()[0].position) == (8, worst)


def test_ties_go_to_the_earlier_image_whatever_the_order() -> None:
    scores = ImageScores(("psnr",))
    for position in (9, 3, 7, 1):
        scores.update(torch.tensor([position]), torch.tensor([[30.0]]))
    assert [image.position for image in scores.best()] == [1, 3, 7, 9]
    assert [image.position for image in scores.worst()] == [1, 3, 7, 9]


def test_a_single_image_has_no_deviation() -> None:
    scores = ImageScores(("psnr",))
    scores.update(torch.tensor([0]), torch.tensor([[30.0]]))
    scores.all_reduce()
    assert scores.figures() == {"psnr": 30.0, "psnr_deviation": 0.0}
    assert [image.position for image in scores.best()] == [0]


def test_processes_with_few_images_add_no_empty_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    scores = ImageScores(("psnr",))
    scores.update(torch.tensor([0, 5]), torch.tensor([[-3.0], [2.0]]))
    scores.all_reduce()
    assert [(image.position, image.figures) for image in scores.worst()] == [(0, {"psnr": -3.0}), (5, {"psnr": 2.0})]


def test_without_figures_of_images_there_is_nothing_to_list() -> None:
    scores = ImageScores(())
    scores.all_reduce()
    assert (scores.figures(), scores.best(), scores.worst()) == ({}, [], [])
