"""Writes a synthetic data set with the layout of BraTS24, made of one real brain template. It is no patient's data.

    python -m benchmarks.synthetic_brats brats --subjects 20 --spacing 2
    python -m benchmarks.synthetic_brats brats --subjects 8 --template FOLDER

The template is the MNI ICBM 152 brain (T1 and the maps of grey and white matter), fetched once. Every subject is it
after a smooth random deformation, with contrasts mixed of its tissues, with a lesion (necrotic core, enhancing rim,
oedema) in its white matter, and with the gain, contrast curve, bias field and noise of a scanner of its own.
Skull-stripped, 240×240×155 voxels of 1 mm (or coarser), int16, stored from left to right and back to front as BraTS is.
What can be learned from it: whether the whole path works, and how quantizers compare on brain-like slices. Tissue
borders are those of an averaged brain, and smoother than any patient's.

Subject and seed decide everything: a folder written again, or to more subjects, has the same files.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from vaevq.data.sources import fetch
from vaevq.seeding import stream_seed

Volume = npt.NDArray[np.float32]

FIELD_OF_VIEW = (240, 240, 155)
"""Millimetres."""

TISSUES = ("csf", "grey", "white")

# Brightness of cerebrospinal fluid, grey and white matter, then of oedema, rim and core of a lesion.
CONTRASTS = {
    "t1n": (0.18, 0.58, 0.88, 0.50, 0.48, 0.30),
    "t1c": (0.20, 0.60, 0.86, 0.52, 1.35, 0.30),
    "t2w": (1.00, 0.62, 0.42, 0.90, 0.75, 1.05),
    "t2f": (0.16, 0.66, 0.52, 1.10, 0.95, 0.45),
}

LABELS = {"core": 1, "oedema": 2, "rim": 3}


@dataclass(frozen=True)
class Template:
    """Shares of tissue in every voxel, x×y×z of 1 mm in RAS, and the texture of the real T1 about them."""

    tissues: tuple[Volume, Volume, Volume]
    texture: Volume


def read_template(folder: Path) -> Template:
    """The template's maps, on the field of view of BraTS."""
    t1, grey, white = (_read(folder, name) for name in ("t1", "gm", "wm"))
    solid = ndimage.gaussian_filter(grey + white, 1.0)
    brain = ndimage.binary_closing(solid > 0.25, iterations=8)
    brain = ndimage.binary_fill_holes(_largest(brain))
    csf = np.where(brain, np.clip(1 - grey - white, 0, 1), 0).astype(np.float32)
    mixed = csf * 0.2 + grey * 0.6 + white * 0.9
    texture = np.where(brain, np.clip(t1 / max(float(np.percentile(t1[brain], 99)), 1e-6) - mixed, -0.3, 0.3), 0)
    tissues = (csf, np.where(brain, grey, 0), np.where(brain, white, 0))
    return Template((_placed(tissues[0]), _placed(tissues[1]), _placed(tissues[2])), _placed(texture))


def write_subject(folder: Path, number: int, template: Template, seed: int, spacing: float) -> None:
    """Writes the visits of one subject: one, or for every fourth subject two, with a lesion that has grown."""
    patient = f"BraTS-GLI-{number:05}"
    rng = np.random.default_rng(stream_seed("synthetic brats", seed, patient))
    sampled = _deformed(template, rng, spacing)
    centre = _somewhere_in(ndimage.gaussian_filter(sampled.tissues[2], 4 / spacing), rng)
    size = rng.uniform(7, 16)
    for visit in range(2 if number % 4 == 0 else 1):
        lesion = _lesion(sampled, centre, size * (1 + 0.25 * visit), rng, spacing)
        name = f"{patient}-{100 + visit}"
        for contrast, brightness in CONTRASTS.items():
            _write(folder / name / f"{name}-{contrast}.nii.gz", _scanned(sampled, lesion, brightness, rng), spacing)
        labels = sum((lesion[part] > 0.5) * label for part, label in LABELS.items())
        _write(folder / name / f"{name}-seg.nii.gz", np.asarray(labels, dtype=np.float32), spacing)


def _deformed(template: Template, rng: np.random.Generator, spacing: float) -> Template:
    """The template under a small turn, another size, and a smooth displacement of up to some millimetres."""
    shape = tuple(round(side / spacing) for side in FIELD_OF_VIEW)
    grid = np.meshgrid(
        *(np.linspace(0, side - 1, n) for side, n in zip(FIELD_OF_VIEW, shape, strict=True)), indexing="ij"
    )
    middle = (np.array(FIELD_OF_VIEW) - 1) / 2
    matrix = (np.eye(3) + 0.04 * rng.standard_normal((3, 3))) / rng.uniform(0.93, 1.05)
    at = np.tensordot(matrix, np.stack([g - m for g, m in zip(grid, middle, strict=True)]), axes=1)
    for axis in range(3):
        knots = rng.standard_normal((6, 6, 5)) * 3.0
        shift = ndimage.zoom(knots, [n / k for n, k in zip(shape, knots.shape, strict=True)], order=3)
        at[axis] += middle[axis] + shift
    maps = [
        ndimage.map_coordinates(volume, at, order=1, output=np.float32)
        for volume in (*template.tissues, template.texture)
    ]
    return Template((maps[0], maps[1], maps[2]), maps[3])


def _somewhere_in(tissue: Volume, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    inside = np.argwhere(tissue > min(0.7, 0.9 * float(tissue.max())))
    return inside[rng.integers(len(inside))].astype(float)


def _lesion(
    sampled: Template, centre: npt.NDArray[np.float64], size: float, rng: np.random.Generator, spacing: float
) -> dict[str, Volume]:
    """Shares of core, rim and oedema: nested blobs with an uneven border, `size` millimetres wide at the core."""
    shape = sampled.texture.shape
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
    stretch = rng.uniform(0.7, 1.3, 3)
    distance = np.sqrt(sum(((g - c) * spacing * s) ** 2 for g, c, s in zip(grid, centre, stretch, strict=True)))
    uneven = ndimage.zoom(
        rng.standard_normal((10, 10, 8)), [n / k for n, k in zip(shape, (10, 10, 8), strict=True)], order=3
    )
    distance = distance + 0.25 * size * uneven
    brain = np.clip(sum(sampled.tissues), 0, 1)

    def within(radius: float) -> Volume:
        blob: Volume = (brain / (1 + np.exp((distance - radius) / 0.8))).astype(np.float32)
        return blob

    core, enhancing, oedema = within(0.6 * size), within(size), within(2.0 * size)
    return {"core": core, "rim": enhancing - core, "oedema": oedema - enhancing}


def _scanned(
    sampled: Template, lesion: dict[str, Volume], brightness: tuple[float, ...], rng: np.random.Generator
) -> Volume:
    """One contrast as a scanner of its own would give it, 0 outside the brain."""
    shape = sampled.texture.shape
    parts = (lesion["oedema"], lesion["rim"], lesion["core"])
    healthy = np.clip(1 - sum(parts), 0, 1)
    signal = healthy * sum(share * level for share, level in zip(sampled.tissues, brightness[:3], strict=True))
    signal = signal + 0.5 * sampled.texture * healthy
    signal = signal + sum(part * level for part, level in zip(parts, brightness[3:], strict=True))
    bias = ndimage.zoom(rng.standard_normal((3, 3, 3)), [n / 3 for n in shape], order=3)
    signal = np.clip(signal, 0, None) ** rng.uniform(0.85, 1.15) * (1 + 0.06 * bias)
    noise = 0.015 * rng.standard_normal((2, *shape))
    measured = np.hypot(signal + noise[0], noise[1])
    brain = sum(sampled.tissues) > 0.5
    return np.where(brain, np.rint(measured * rng.uniform(300, 1500)).clip(1), 0)


def _read(folder: Path, name: str) -> Volume:
    image = nib.as_closest_canonical(nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"))
    values = np.asarray(image.dataobj, dtype=np.float32)
    return values if name == "t1" else values / max(float(values.max()), 1e-6)


def _placed(volume: npt.NDArray[np.float32]) -> Volume:
    """A volume of 1 mm in the middle of the field of view."""
    room = np.zeros(FIELD_OF_VIEW, dtype=np.float32)
    inside, own = [], []
    for there, here in zip(FIELD_OF_VIEW, volume.shape, strict=True):
        side = min(there, here)
        inside.append(slice((there - side) // 2, (there - side) // 2 + side))
        own.append(slice((here - side) // 2, (here - side) // 2 + side))
    room[tuple(inside)] = volume[tuple(own)]
    return room


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    labels, count = ndimage.label(mask)
    return np.asarray(labels == 1 + int(np.argmax(ndimage.sum_labels(mask, labels, range(1, count + 1)))))


def _write(path: Path, volume: Volume, spacing: float) -> None:
    """Stored as BraTS stores: the first axis to the left, the second to the back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.ascontiguousarray(volume[::-1, ::-1]).astype(np.int16)
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = [0, 239, 0]
    image = nib.Nifti1Image(stored, affine, dtype=np.int16)
    image.header["descrip"] = b"synthetic: no patient"
    image.to_filename(path)


def main() -> None:
    """Writes the data set that the words of the command line ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--spacing", type=float, default=1.0, help="millimetres a voxel")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--template", type=Path, help="a folder with the template's files; fetched where left out")
    given = parser.parse_args()
    template = read_template(given.template or fetch("brain-template"))
    for number in range(1, given.subjects + 1):
        write_subject(given.folder, number, template, given.seed, given.spacing)
        print(f"{number} of {given.subjects}", flush=True)


if __name__ == "__main__":
    main()
