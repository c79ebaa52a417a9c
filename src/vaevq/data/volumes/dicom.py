"""A DICOM series as a volume: the slices of one folder in the order in which they lie in space (extra `dicom`)."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from vaevq.data.images import UnreadableImage
from vaevq.data.volumes.source import VolumeFile, described, unreadable
from vaevq.errors import UserError

DICOM_EXTENSIONS = (".dcm", ".dicom", ".ima")

STEP_TOLERANCE = 0.01
"""By so much of their distance slices may lie off a regular grid."""


def open_series(folder: str) -> VolumeFile:
    """The series in a folder, as the NIfTI file that it would be: its header is made, so that it can be written.

    Stored values stay as they are; rescale slope and intercept become those of the header.

    Raises:
        UnreadableImage: no series, several, slices that do not lie evenly one behind the other or differ in shape,
            more than one sample a pixel.
        UserError: pydicom is not installed.
    """
    try:
        return _opened(folder)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # values that are empty, too few or 0 raise whatever their use runs into
        raise unreadable(folder, error) from None


def _opened(folder: str) -> VolumeFile:
    slices = _sorted(folder, [_read(file, pixels=False) for file in series_files(folder)])
    first = slices[0]
    affine = _affine(folder, slices)
    header = nib.Nifti1Header()
    header.set_data_shape((int(first.Columns), int(first.Rows), len(slices)))
    header.set_data_dtype(_type(first))
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = _scaling(folder, slices)
    header["magic"], header["vox_offset"] = b"n+1", 352
    prefix = bytes(header.binaryblock) + bytes(4)

    def read() -> npt.NDArray[Any]:
        planes = [_read(Path(s.filename), pixels=True).pixel_array.T for s in slices]
        return np.stack(planes, axis=-1).astype(_type(first), order="F")

    return described(folder, header, prefix, read)


def series_files(folder: str) -> list[Path]:
    """The files of a folder that are taken for slices, by their extension."""
    files = sorted(file for file in Path(folder).iterdir() if is_dicom_name(file.name))
    if not files:
        raise UnreadableImage(f"{folder}: no DICOM file (names that end in {' '.join(DICOM_EXTENSIONS)})")
    return files


def is_dicom_name(name: str) -> bool:
    """Whether a file name ends as a DICOM file's does and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(DICOM_EXTENSIONS)


def _read(file: Path, *, pixels: bool) -> Any:
    try:
        import pydicom
    except ImportError:
        raise UserError(f"{file}: DICOM files need pydicom: pip install 'vaevq[dicom]'") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # of values that are not to the letter of the standard
            return pydicom.dcmread(file, stop_before_pixels=not pixels)
    except Exception as error:  # its parsing raises whatever it runs into
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableImage(f"{file}: {reason[:200]}") from None


def _sorted(folder: str, slices: Sequence[Any]) -> list[Any]:
    """The slices along their normal, checked to be of one series and shape."""
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
    for part in slices:
        if absent := [name for name in needed if name not in part]:
            raise UnreadableImage(f"{part.filename}: without {absent[0]}, so no slice of a volume")
    for name in ("SeriesInstanceUID", "Rows", "Columns", "ImageOrientationPatient", "PixelSpacing", "BitsAllocated"):
        values = {str(part.get(name)) for part in slices}
        if len(values) > 1:
            raise UnreadableImage(
                f"{folder}: its {len(slices)} slices have {len(values)} different {name}; one folder holds one series"
            )
    if int(slices[0].get("SamplesPerPixel", 1)) != 1:
        raise UnreadableImage(f"{folder}: {slices[0].SamplesPerPixel} samples a pixel are no intensities")
    if (bits := int(slices[0].get("BitsAllocated") or 0)) not in (8, 16, 32, 64):
        raise UnreadableImage(f"{folder}: {bits} bits a voxel; 8, 16, 32 and 64 can be read")
    for part in slices:
        for name, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
            values = part.get(name)
            if values is None or isinstance(values, str) or len(values) != count:
                raise UnreadableImage(f"{folder}: {Path(part.filename).name} has no {count} numbers of {name}")
    if min(float(step) for step in slices[0].PixelSpacing) <= 0:
        raise UnreadableImage(f"{folder}: PixelSpacing must be above 0")
    normal = _normal(slices[0])
    return sorted(slices, key=lambda part: float(np.dot(normal, np.array(part.ImagePositionPatient, dtype=float))))


def _normal(part: Any) -> npt.NDArray[np.float64]:
    along, down = np.array(part.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal: npt.NDArray[np.float64] = np.cross(along, down)
    return normal


def _affine(folder: str, slices: Sequence[Any]) -> npt.NDArray[np.float64]:
    """From column, row and slice to millimetres in RAS+; DICOM's run to the left and to the back."""
    first = slices[0]
    along, down = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    row_step, column_step = (float(value) for value in first.PixelSpacing)
    positions = np.array([part.ImagePositionPatient for part in slices], dtype=float)
    steps = np.diff(positions, axis=0)
    step = steps.mean(axis=0) if len(steps) else _normal(first) * float(first.get("SliceThickness", 1) or 1)
    if len(steps) and np.abs(steps - step).max() > STEP_TOLERANCE * max(float(np.linalg.norm(step)), 1e-6):
        raise UnreadableImage(f"{folder}: its {len(slices)} slices do not lie evenly: one is missing, or there twice")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = (
        along * column_step,
        down * row_step,
        step,
        positions[0],
    )
    result: npt.NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return result


def _type(part: Any) -> np.dtype[Any]:
    return np.dtype(f"{'i' if int(part.get('PixelRepresentation', 0)) else 'u'}{int(part.BitsAllocated) // 8}")


def _number(part: Any, name: str, default: float) -> float:
    """A number of a slice; the default where it is absent or empty."""
    value = part.get(name)
    return default if value in (None, "") else float(value)


def _scaling(folder: str, slices: Sequence[Any]) -> tuple[float, float]:
    values = {(_number(part, "RescaleSlope", 1), _number(part, "RescaleIntercept", 0)) for part in slices}
    if len(values) > 1:
        raise UnreadableImage(f"{folder}: its slices are scaled differently, which one header cannot say")
    return values.pop()
