"""A feature network that nothing is fetched for."""

import torch
from torch import Tensor, nn


class Means(nn.Module):
    """Nine features: the means of a third of an image's rows, of each channel."""

    dim, name, checksum, preprocessing = 9, "means", "00", "none"

    def __init__(self, standard: bool = False) -> None:
        super().__init__()
        self.is_standard_inception = standard
        self.network = nn.Module()
        torch.manual_seed(0)
        self.network.fc = nn.Linear(9, 4)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([part.mean(dim=(2, 3)) for part in images.chunk(3, dim=2)], dim=1)
