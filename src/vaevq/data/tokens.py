"""The token file: images as tokens, with what is needed to decode them and to refuse the wrong decoder.

One safetensors file. Tensors: `tokens`, all images' tokens one after another, row by row, in the smallest of uint8,
uint16 and int32 that holds K − 1; `grids`, int32 N×2 (h, w) or N×3 (h, w, q); `sizes`, int32 N×2, the original height
and width; optionally `labels`, int64 N; optionally `latents`, float16 (Σ h·w)×d, in the order of `tokens` the means of
the posteriors that these were made of; of volumes `headers`, uint8, what stood before the voxels of their files, one
after another. Metadata, all strings: `format` ("vaevq-tokens"), `format_version` ("1"; "2" with latents or of volumes),
`codebook_size`, `downsample_factor`, `codes_per_position` (q), where each of the q codes is of a codebook of its own
`codebooks` (q), of volumes `volumes` (JSON, see `data.volumes.record`), of slices `subjects` (a JSON list: whose each
is), `model_digest`, `names` (a JSON list) and
`checksum` (SHA-256, hexadecimal, over the other metadata as JSON with sorted keys, then for each tensor in alphabetical
order its name, its type, its shape as JSON and its little-endian bytes).
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vaevq.data.volumes.record import VolumeRecord
from vaevq.errors import UserError
from vaevq.files import make_folder, require_absent, written_aside

FORMAT = "vaevq-tokens"
FORMAT_VERSION = "1"
EXTENDED_VERSION = "2"
"""Of files with latents, and of files that volumes come back of: who cannot read it must not take slices for images."""

NAMES_LIMIT = 90_000_000
"""Bytes of names a file: safetensors refuses headers of more than 100 MB."""

_TYPES = {
    "tokens": ("U8", "U16", "I32"),
    "grids": ("I32",),
    "sizes": ("I32",),
    "labels": ("I64",),
    "latents": ("F16",),
    "headers": ("U8",),
}
_METADATA = {
    "format",
    "format_version",
    "codebook_size",
    "downsample_factor",
    "codes_per_position",
    "model_digest",
    "names",
    "checksum",
}


@dataclass(frozen=True, eq=False)
class TokenFile:
    """The tokens of N ≥ 1 images, checked against one another when it is made.

    Attributes:
        tokens: N integer arrays h×w, or all h×w×q, with values in [0, K).
        sizes: N original sizes (H, W) in pixels, with h = ⌈H/f⌉ and w = ⌈W/f⌉.
        names: N image names.
        codebook_size: K.
        downsample_factor: f.
        model_digest: `Tokenizer.digest` of the model that made the tokens.
        labels: N class numbers, or None.
        latents: N float16 arrays d×h×w, the means of the posteriors that the tokens were made of, or None.
        volumes: what brings volumes back, where the images are their slices; None of images.
        subjects: of slices of volumes, whose each of them is; None of images.
        codebooks: 1, which all codes are of, or q, where the i-th code of a position is of the i-th.
        source: what error messages call the file.

    Raises:
        UserError: the parts do not fit together.
    """

    tokens: tuple[npt.NDArray[np.int64], ...]
    sizes: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    codebook_size: int
    downsample_factor: int
    model_digest: str
    labels: tuple[int, ...] | None = None
    latents: tuple[npt.NDArray[np.float16], ...] | None = None
    codebooks: int = 1
    volumes: VolumeRecord | None = None
    subjects: tuple[str, ...] | None = None
    source: str = field(default="the token file", repr=False)

    def __post_init__(self) -> None:
        count = len(self.tokens)
        if count == 0:
            raise UserError("a token file holds at least one image")
        if not 2 <= self.codebook_size <= 2**31 or self.downsample_factor < 1:
            raise UserError(
                f"codebook size {self.codebook_size} and downsampling factor {self.downsample_factor} are no model's"
            )
        for what, values in (
            ("sizes", self.sizes),
            ("names", self.names),
            ("labels", self.labels),
            ("latents", self.latents),
            ("subjects", self.subjects),
        ):
            if values is not None and len(values) != count:
                raise UserError(f"{len(values)} {what} for the tokens of {count} images")
        for array, size, name in zip(self.tokens, self.sizes, self.names, strict=True):
            self._check_image(array, size, name)
        for latent, array, name in zip(self.latents or (), self.tokens, self.names, strict=False):
            self._check_latent(latent, array, name)
        if self.codebooks not in (1, self.codes_per_position):
            raise UserError(f"{self.codebooks} codebooks for {self.codes_per_position} codes a position")
        if self.volumes is not None:
            self.volumes.check_sizes(self.sizes)

    def _check_image(self, array: npt.NDArray[np.int64], size: tuple[int, int], name: str) -> None:
        expected = tuple(math.ceil(side / self.downsample_factor) for side in size)
        if min(size) < 1 or array.shape[:2] != expected or array.shape[2:] != self.tokens[0].shape[2:]:
            raise UserError(
                f"'{name}': a grid of {'×'.join(map(str, array.shape))} tokens does not fit an image of "
                f"{size[0]}×{size[1]} pixels at downsampling factor {self.downsample_factor}"
            )
        if array.ndim not in (2, 3) or array.dtype.kind not in "iu" or array.size == 0:
            raise UserError(f"'{name}': tokens are integers h×w or h×w×q, not {array.dtype} {array.shape}")
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self.codebook_size:
            outside = low if low < 0 else high
            raise UserError(f"'{name}': token {outside} is outside the codebook of {self.codebook_size} codewords")

    def _check_latent(self, latent: npt.NDArray[np.float16], array: npt.NDArray[np.int64], name: str) -> None:
        assert self.latents is not None
        if latent.dtype != np.float16 or latent.size == 0 or latent.shape != (len(self.latents[0]), *array.shape[:2]):
            raise UserError(
                f"'{name}': latents are float16 d×h×w of its grid {array.shape[0]}×{array.shape[1]}, not "
                f"{latent.dtype} {'×'.join(map(str, latent.shape))}"
            )
        if not np.isfinite(latent).all():
            raise UserError(f"'{name}': its latents are not all finite in float16")

    @property
    def codes_per_position(self) -> int:
        """q, 1 where tokens are h×w."""
        return self.tokens[0].shape[2] if self.tokens[0].ndim == 3 else 1

    def check_model(self, digest: str, codebook_size: int, codes_per_position: int = 1) -> None:
        """Passes if the model with this digest, codebook and number of codes made these tokens.

        Raises:
            UserError: it is another model.
        """
        mine = (self.model_digest, self.codebook_size, self.codes_per_position)
        if (digest, codebook_size, codes_per_position) != mine:
            theirs = _model(digest, codebook_size, codes_per_position)
            raise UserError(
                f"{self.source} was made by model {_model(*mine)}, this model is {theirs}: "
                "decode it with the model that made it"
            )


def _model(digest: str, codebook_size: int, codes_per_position: int) -> str:
    several = f", {codes_per_position} codes a position" if codes_per_position > 1 else ""
    return f"{digest} (K = {codebook_size}{several})"


def write_token_file(path: Path, content: TokenFile, *, force: bool = False) -> None:
    """Writes the file aside and moves it into place, so that a reader never sees half of one. Folders are made.

    Raises:
        UserError: the file exists and `force` is not set, or it cannot be written.
    """
    require_absent([path], force=force)
    dtype = token_type(content.codebook_size)
    tensors: dict[str, npt.NDArray[Any]] = {
        "tokens": np.concatenate([array.reshape(-1).astype(dtype) for array in content.tokens]),
        "grids": np.array([array.shape for array in content.tokens], dtype=np.int32),
        "sizes": np.array(content.sizes, dtype=np.int32),
    }
    if content.labels is not None:
        tensors["labels"] = np.array(content.labels, dtype=np.int64)
    if content.latents is not None:
        rows = [array.reshape(len(array), -1).T for array in content.latents]
        tensors["latents"] = np.ascontiguousarray(np.concatenate(rows))  # a transposed one would be written as it lies
    if content.volumes is not None:
        tensors["headers"] = np.frombuffer(b"".join(content.volumes.prefixes), dtype=np.uint8)
    is_extended = content.latents is not None or content.volumes is not None
    metadata = {
        "format": FORMAT,
        "format_version": EXTENDED_VERSION if is_extended else FORMAT_VERSION,
        "codebook_size": str(content.codebook_size),
        "downsample_factor": str(content.downsample_factor),
        "codes_per_position": str(content.codes_per_position),
        "model_digest": content.model_digest,
        # ASCII: file names that are no valid text carry lone surrogates, which only survive escaped.
        "names": json.dumps(content.names),
    }
    if content.codebooks > 1:
        metadata["codebooks"] = str(content.codebooks)
    if content.volumes is not None:
        metadata["volumes"] = content.volumes.to_json()
    if content.subjects is not None:
        metadata["subjects"] = json.dumps(content.subjects)
    if len(metadata["names"]) + len(metadata.get("subjects", "")) > NAMES_LIMIT:
        raise UserError(f"{path}: the names of {len(content.names)} images are too long for one file: write several")
    metadata["checksum"] = _checksum(metadata, tensors)
    make_folder(path.parent)
    with written_aside(path) as aside:
        # Not save_file: what goes wrong on a full disk would not be an OSError.
        aside.write_bytes(save(tensors, metadata))


def read_token_file(path: Path) -> TokenFile:
    """Reads a token file and checks all of it.

    Raises:
        UserError: the file is absent, no token file, of another format version, damaged, or inconsistent.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a token file")
    try:
        with safe_open(path, framework="np") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            _check_header(metadata, {name: opened.get_slice(name).get_dtype() for name in opened.keys()})  # noqa: SIM118
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if _checksum(metadata, tensors) != metadata["checksum"]:
            raise UserError("damaged: its checksum does not match its content")
        return _assemble(metadata, tensors, path.name)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except SafetensorError:
        raise UserError(f"{path}: not a safetensors file, or cut short") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_header(metadata: Mapping[str, str], types: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise UserError("a safetensors file, but not a vaevq token file")
    version = metadata.get("format_version")
    if version not in (FORMAT_VERSION, EXTENDED_VERSION):
        raise UserError(
            f"token format version {version}, this vaevq reads versions {FORMAT_VERSION} and {EXTENDED_VERSION}"
        )
    of_volumes = {"volumes"} & set(metadata)
    if set(metadata) - {"codebooks", "subjects"} != _METADATA | of_volumes:
        raise UserError(f"damaged: its metadata should hold {', '.join(sorted(_METADATA))}")
    needed = {"tokens", "grids", "sizes"} | ({"headers"} if of_volumes else set())
    if not needed <= set(types) <= needed | {"labels", "latents"}:
        raise UserError(f"damaged: it holds the tensors {', '.join(sorted(types))}")
    if bool(of_volumes or "latents" in types) != (version == EXTENDED_VERSION):
        raise UserError(f"damaged: version {version} with the tensors {', '.join(sorted(types))}")
    for name, dtype in types.items():
        if dtype not in _TYPES[name]:
            raise UserError(f"damaged: '{name}' is of type {dtype}")


def _assemble(metadata: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]], source: str) -> TokenFile:
    """The content of a file whose checksum is right; whoever wrote it may still have put nonsense into it."""
    codebook_size = _integer(metadata, "codebook_size")
    flat, grids, sizes = tensors["tokens"], tensors["grids"], tensors["sizes"]
    if flat.ndim != 1 or grids.ndim != 2 or grids.shape[1] not in (2, 3) or sizes.shape != (len(grids), 2):
        raise UserError(f"shapes of tokens, grids and sizes are {flat.shape}, {grids.shape} and {sizes.shape}")
    labels = tensors.get("labels")
    if labels is not None and labels.ndim != 1:
        raise UserError(f"labels are of shape {labels.shape}")
    latents = tensors.get("latents")
    if latents is not None and latents.ndim != 2:
        raise UserError(f"latents are of shape {latents.shape}")
    lengths = grids.astype(np.int64).prod(axis=1)
    # In floating point as well: products of nonsense grids could wrap around.
    nonsense = (grids < 1).any() or (grids.astype(np.float64).prod(axis=1) > flat.size).any()
    if len(grids) == 0 or nonsense or lengths.sum() != flat.size:
        raise UserError(f"its {len(grids)} grids do not add up to its {flat.size} tokens")
    positions = grids[:, :2].astype(np.int64).prod(axis=1)
    if latents is not None and len(latents) != positions.sum():
        raise UserError(f"latents of {len(latents)} positions for grids of {positions.sum()}")
    parts = np.split(flat.astype(np.int64), np.cumsum(lengths)[:-1])
    content = TokenFile(
        tokens=tuple(part.reshape(shape) for part, shape in zip(parts, grids.tolist(), strict=True)),
        sizes=tuple((height, width) for height, width in sizes.tolist()),
        names=_strings(metadata, "names"),
        codebook_size=codebook_size,
        downsample_factor=_integer(metadata, "downsample_factor"),
        model_digest=metadata["model_digest"],
        labels=None if labels is None else tuple(labels.tolist()),
        latents=None if latents is None else tuple(_grids_of(latents, positions, grids)),
        codebooks=_integer(metadata, "codebooks") if "codebooks" in metadata else 1,
        volumes=_volumes(metadata, tensors),
        subjects=_strings(metadata, "subjects") if "subjects" in metadata else None,
        source=source,
    )
    if content.codes_per_position != _integer(metadata, "codes_per_position"):
        raise UserError(f"codes_per_position is {metadata['codes_per_position']}, its grids say otherwise")
    return content


def _grids_of(
    latents: npt.NDArray[np.float16], positions: npt.NDArray[np.int64], grids: npt.NDArray[np.int32]
) -> Iterator[npt.NDArray[np.float16]]:
    """Rows of d numbers as an array d×h×w for each image."""
    parts = np.split(latents, np.cumsum(positions)[:-1])
    for part, (height, width) in zip(parts, grids[:, :2].tolist(), strict=True):
        yield part.T.reshape(-1, height, width)


def _volumes(metadata: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]]) -> VolumeRecord | None:
    if "volumes" not in metadata:
        return None
    return VolumeRecord.from_json(metadata["volumes"], tensors["headers"].tobytes())


def _strings(metadata: Mapping[str, str], key: str) -> tuple[str, ...]:
    try:
        found = json.loads(metadata[key])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise UserError(f"its {key} are no JSON list of strings")
    return tuple(found)


def _integer(metadata: Mapping[str, str], key: str) -> int:
    text = metadata[key]
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise UserError(f"its {key} is '{text[:40]}', not a number")
    return int(text)


def token_type(codebook_size: int) -> type[np.uint8] | type[np.uint16] | type[np.int32]:
    """The smallest type that holds K − 1."""
    if codebook_size <= 2**8:
        return np.uint8
    return np.uint16 if codebook_size <= 2**16 else np.int32


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    stated = {key: value for key, value in metadata.items() if key != "checksum"}
    digest.update(json.dumps(stated, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype.name}{json.dumps(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
