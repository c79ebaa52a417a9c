"""One file's voxels as they are stored, and what is needed to write them again: NIfTI-1 and NIfTI-2, packed or not."""

import gzip
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.imageglobals import logger as nibabel_logger

from vaevq.data.images import UnreadableImage
from vaevq.data.volumes.orientation import Matrix, Orientation
from vaevq.errors import UserError

MOST_HEADER = 16 << 20
"""Bytes before the voxels, extensions among them, that are taken along."""

MOST_VOXELS = 2**33
"""A header that asks for more is damaged, or a trap."""

_LONGEST_HEADER = 540
"""Bytes of NIfTI-2's; NIfTI-1's is shorter."""

_MOST_PACKED = 1032
"""Bytes that one byte of a gzip file can unpack to, by the format."""

GZIP_LEVEL = 6


@dataclass(frozen=True, eq=False)
class VolumeFile:
    """A volume's header.

    Attributes:
        path: of the file, or of the folder of a DICOM series.
        shape: three axes as they are stored, or four.
        dtype: of the stored voxels, with their byte order.
        slope, inter: intensities are slope · stored + inter.
        affine: from indices to millimetres in RAS+.
        prefix: what stands before the voxels, header and extensions.
        read: gives the stored voxels; of an unpacked file without reading them all.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    slope: float
    inter: float
    affine: Matrix
    prefix: bytes
    read: Callable[[], npt.NDArray[Any]]

    @cached_property
    def orientation(self) -> Orientation:
        """Of the first three axes."""
        try:
            return Orientation.of(self.affine)
        except ValueError as error:
            raise UnreadableImage(f"{self.path}: {error}") from None

    @property
    def ras_shape(self) -> tuple[int, int, int]:
        """Of the first three axes in RAS."""
        x, y, z = (self.shape[self.orientation.axes.index(axis)] for axis in range(3))
        return x, y, z

    @property
    def ras_affine(self) -> Matrix:
        """Of the voxels in RAS."""
        return self.orientation.affine_of_ras(self.affine, self.shape)

    @property
    def voxel_sizes(self) -> tuple[float, float, float]:
        """Millimetres along the axes of RAS."""
        x, y, z = np.sqrt((self.ras_affine[:3, :3] ** 2).sum(axis=0)).tolist()
        return x, y, z

    @property
    def frames(self) -> int:
        """Length of the fourth axis, 1 where there is none."""
        return self.shape[3] if len(self.shape) == 4 else 1

    @property
    def is_packed(self) -> bool:
        """Whether a slice costs reading all of it."""
        return not self.path.lower().endswith(".nii")


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without a line for each thing in a header that nibabel mends; what it cannot mend it raises."""
    was = nibabel_logger.disabled
    nibabel_logger.disabled = True
    try:
        yield
    finally:
        nibabel_logger.disabled = was


def open_nifti(path: str) -> VolumeFile:
    """The header of a NIfTI file, checked before anything is read, or memory taken, that it asks for.

    Raises:
        UnreadableImage: absent, damaged, no NIfTI, cut short, or voxels that are no intensities.
    """
    try:
        size = Path(path).stat().st_size
        if not size:
            raise ValueError("the file is empty")
        with _opened(Path(path)) as file:
            prefix = file.read(_LONGEST_HEADER)
            header = parse_prefix(prefix, path)
            offset = _voxels_begin(header)
            prefix = prefix[:offset] + file.read(max(0, offset - len(prefix)))
        proxy = nib.arrayproxy.ArrayProxy(path, header, mmap="r")
    except MemoryError:
        raise
    except Exception as error:  # whatever the unpacking of a damaged file runs into
        raise unreadable(path, error) from None
    opened = described(path, header, prefix, proxy.get_unscaled)
    needed = offset + math.prod(opened.shape) * opened.dtype.itemsize
    if needed > (size * _MOST_PACKED if opened.is_packed else size):
        raise UnreadableImage(f"{path}: {_times(opened.shape)} voxels cannot be in a file of {size:,} bytes")
    return opened


def _voxels_begin(header: nib.Nifti1Header) -> int:
    """At which byte. ValueError where that is inside the header, or too far behind it."""
    offset = float(header["vox_offset"])
    if not offset <= MOST_HEADER:  # or not a number
        raise ValueError(f"more than {MOST_HEADER >> 20} MiB of header extensions")
    if offset < (least := header.template_dtype.itemsize):
        raise ValueError(f"its voxels begin at byte {offset:.0f}, inside a header of {least}")
    return int(offset)


def parse_prefix(prefix: bytes, name: str) -> nib.Nifti1Header:
    """The header at the start of a NIfTI file. UnreadableImage where it is none."""
    kind = nib.Nifti2Header if prefix[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Header
    try:
        with _unlogged():
            return kind(prefix[: kind.template_dtype.itemsize])
    except Exception as error:
        raise unreadable(name, error) from None


def described(path: str, header: nib.Nifti1Header, prefix: bytes, read: Callable[[], npt.NDArray[Any]]) -> VolumeFile:
    """A volume of a header, checked.

    Raises:
        UnreadableImage: axes or voxels that no volume has.
    """
    try:
        shape = tuple(int(side) for side in header.get_data_shape())
        dtype = header.get_data_dtype()
        slope, inter = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except Exception as error:
        raise unreadable(path, error) from None
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if min(shape, default=1) < 1:
        raise UnreadableImage(f"{path}: {_times(shape)} voxels, a side of {min(shape)}: there is nothing in it")
    if math.prod(shape) > MOST_VOXELS:
        raise UnreadableImage(f"{path}: {_times(shape)} voxels are more than there can be")
    if len(shape) not in (3, 4):
        raise UnreadableImage(f"{path}: {_times(shape)} voxels; a volume has three axes, or four")
    if dtype.kind not in "iuf":
        raise UnreadableImage(f"{path}: voxels of type {dtype.name} are no intensities")

    def shaped() -> npt.NDArray[Any]:
        try:
            return read().reshape(shape, order="F")
        except MemoryError:
            raise
        except Exception as error:  # as above, of unpacking as well
            raise unreadable(path, error) from None

    return VolumeFile(
        path=path,
        shape=shape,
        dtype=dtype,
        slope=1.0 if slope is None else float(slope),
        inter=0.0 if inter is None else float(inter),
        affine=affine,
        prefix=prefix,
        read=shaped,
    )


def write_nifti(path: Path, prefix: bytes, stored: npt.NDArray[Any], *, packed: bool) -> None:
    """Writes a file: what stood before the voxels, byte by byte, and voxels of the type that it names.

    Raises:
        OSError: it cannot be written.
    """
    voxels = np.asfortranarray(stored)
    with ExitStack() as stack:
        file: Any = stack.enter_context(path.open("wb"))
        if packed:  # without name and time, equal volumes are equal files
            file = stack.enter_context(gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0))
        file.write(prefix)
        for part in voxels.T:  # the first axis changes fastest
            file.write(np.ascontiguousarray(part).tobytes())


def unreadable(path: str, error: Exception) -> UnreadableImage:
    """An error of a reader as one line that names the file."""
    if isinstance(error, UserError):
        return UnreadableImage(str(error))
    if isinstance(error, OSError) and error.strerror:
        return UnreadableImage(f"{path}: {error.strerror.lower()}")
    lines = str(error).strip().splitlines()
    return UnreadableImage(f"{path}: {lines[0][:200] if lines else type(error).__name__}")


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
