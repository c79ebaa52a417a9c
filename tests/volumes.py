"""Small volumes that the tests write: noise in a ball, in any orientation, with the names that data sets have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

EXAMPLE_4D = Path(nib.__file__).parent / "tests" / "data" / "example4d.nii.gz"
"""A real 4-D volume that comes with nibabel: int16, 128×96×24×2, oblique, with two header extensions."""

CONTRASTS = ("t1c", "t1n", "t2f", "t2w")


def ball(shape: tuple[int, int, int], seed: int = 0, top: float = 900.0) -> npt.NDArray[np.int16]:
    """Zero outside an ellipsoid, smooth intensities with a texture inside."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.7
    wave = np.cos(3 * axes[0] + seed) + np.sin(4 * axes[1]) + axes[2]
    values = top * (0.5 + 0.12 * wave) + top * 0.02 * rng.standard_normal(shape)
    return np.where(inside, values.clip(1), 0).astype(np.int16)


def write_volume(path: Path, voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64] | None = None) -> Path:
    """Voxels as a NIfTI-1 file of their own type, 1 mm RAS where no affine is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine, dtype=voxels.dtype)
    image.to_filename(path)
    return path


def write_brats(
    folder: Path, patients: int = 4, visits: int = 1, shape: tuple[int, int, int] = (20, 24, 16), seed: int = 0
) -> Path:
    """A folder with the layout of BraTS24: each visit four contrasts and a segmentation."""
    for patient in range(patients):
        for visit in range(visits):
            name = f"BraTS-GLI-{patient + 5:05}-{100 + visit}"
            for number, contrast in enumerate(CONTRASTS):
                voxels = ball(shape, seed=seed + 100 * patient + 10 * visit + number, top=400.0 + 300 * number)
                write_volume(folder / name / f"{name}-{contrast}.nii.gz", voxels)
            write_volume(folder / name / f"{name}-seg.nii.gz", (ball(shape) > 500).astype(np.uint8))
    return folder


def write_series(folder: Path, voxels: Any, change: Callable[[Any, int], None] = lambda part, number: None) -> Path:
    """x×y×z voxels as axial CT slices, 0.5 mm from column to column, 0.75 from row to row, 2 apart, head first."""
    import pydicom

    folder.mkdir(parents=True)
    columns, rows, count = voxels.shape
    for number in range(count):
        part = pydicom.Dataset()
        part.file_meta = pydicom.dataset.FileMetaDataset()
        part.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        part.SOPClassUID = part.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}"
        part.SeriesInstanceUID, part.Modality, part.PatientID = "1.2.3", "CT", "nobody"
        part.Rows, part.Columns, part.SamplesPerPixel = rows, columns, 1
        part.PhotometricInterpretation = "MONOCHROME2"
        part.BitsAllocated, part.BitsStored, part.HighBit, part.PixelRepresentation = 16, 16, 15, 1
        part.PixelSpacing, part.ImageOrientationPatient = [0.75, 0.5], [1, 0, 0, 0, 1, 0]
        part.ImagePositionPatient = [-10.0, -20.0, 30.0 + 2 * number]
        part.RescaleSlope, part.RescaleIntercept = 2, -1024
        part.PixelData = np.ascontiguousarray(voxels[:, :, number].T).tobytes()
        change(part, number)
        # The names run against the direction of the slices.
        part.save_as(folder / f"{count - number:03}.dcm", enforce_file_format=True)
    return folder
