"""How volumes become slices: section `data.volumes`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from vaevq.config.section import Section

Axis = Literal["sagittal", "coronal", "axial"]
"""The axis that slices follow one another along, by the plane they lie in."""


class VolumesConfig(Section):
    """Which slices of which volumes there are, and how their intensities become [-1, 1]."""

    axis: Axis = "axial"
    contrasts: tuple[str, ...] | None = None  # of a layout that names them (BraTS); None: all that it has
    stack: Literal["separate", "channels"] = "separate"  # a contrast: a volume of its own, or a channel
    fourth: Literal["volumes", "channels"] = "volumes"  # what a fourth axis is: volumes of one subject, or channels
    percentiles: tuple[float, float] = (0.5, 99.5)  # the window: low of all voxels, high of those above low
    foreground: float = Field(default=0.0, ge=0, lt=1)  # a voxel is foreground above so much of the window
    empty_below: float = Field(default=0.01, ge=0, le=1)  # a slice with a smaller share of foreground is left out
    size: int | None = Field(default=256, ge=8)  # slices are brought to size×size; None: as they are
    fit: Literal["pad", "resize"] = "pad"  # pad: the middle, cut where it is larger; resize: the whole slice

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must be 0 <= low < high <= 100, not {low:g}, {high:g}")
        if self.fit == "resize" and self.size is None:
            raise ValueError("fit: resize needs a size; without one slices stay as they are")
        if self.contrasts is not None and len(set(self.contrasts)) < max(1, len(self.contrasts)):
            raise ValueError("contrasts: name each once, and at least one")
        return self
