"""What a generator learns from: the tokens of a data set in memory, its two sides, and batches of a shuffled stream.

The stream is that of the image loader, so that a run can be entered anywhere and nothing depends on the number of
processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaevq.data.token_shards import TOKENIZER_FOLDER, is_token_folder, read_plan, token_files
from vaevq.data.tokens import TokenFile, read_token_file, token_type
from vaevq.data.views import image_of_view
from vaevq.errors import UserError
from vaevq.seeding import shuffled, stream_seed

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenSet:
    """The tokens of N images of one size.

    Attributes:
        tokens: N×h×w or N×h×w×q in the smallest type that holds them, values in [0, K).
        labels: int64 N, or None.
        images: int64 N: which image each item is a view of, numbered in the order in which they come.
        names: of these images.
        unchanged: bool N: whether an item is the image itself, neither a further crop nor mirrored.
        size: (H, W) of the images in pixels.
        codebook_size: K.
        downsample_factor: f.
        model_digest: of the tokenizer.
        classes: names by label; empty where they are not known.
        source: where it was read.
        tokenizer: folder of the tokenizer, where it lies beside the tokens.
        latents: float16 N×d×h×w, the means that the tokens were made of, where they were asked for; otherwise None.
        subjects: of slices of volumes, whose each of `names` is; otherwise None.
        made_of: the location of the images, where it is known.
    """

    tokens: npt.NDArray[np.integer]
    labels: Integers | None
    images: Integers
    names: tuple[str, ...]
    unchanged: npt.NDArray[np.bool_]
    size: tuple[int, int]
    codebook_size: int
    downsample_factor: int
    model_digest: str
    classes: tuple[str, ...]
    source: str
    tokenizer: Path | None
    latents: npt.NDArray[np.float16] | None = None
    subjects: tuple[str, ...] | None = None
    made_of: str | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.tokens.shape[1], self.tokens.shape[2]

    @property
    def codes_per_position(self) -> int:
        """q, 1 where tokens are h×w."""
        return self.tokens.shape[3] if self.tokens.ndim == 4 else 1

    @property
    def class_count(self) -> int:
        """How many classes there are, 0 without labels."""
        return 0 if self.labels is None else max(len(self.classes), int(self.labels.max()) + 1)

    def check_like(self, other: "TokenSet") -> None:
        """Makes sure that another set is of the same tokenizer, grid and classes.

        Raises:
            UserError: it is not.
        """
        for what in ("model_digest", "codebook_size", "grid", "codes_per_position", "size", "classes"):
            here, there = getattr(self, what), getattr(other, what)
            unknown = what == "classes" and not (here and there)  # a single file does not know their names
            if here != there and not unknown:
                raise UserError(f"{other.source} and {self.source} are of different {what}: {there}, {here}")

    def check_apart_from(self, other: "TokenSet") -> None:
        """Makes sure that what is measured on another set was not learned from this one.

        Names alone tell nothing: images of different folders are often called alike.

        Raises:
            UserError: it is the same set, one of the same images, or of the same subjects.
        """
        if Path(self.source).expanduser().resolve() == Path(other.source).expanduser().resolve():
            raise UserError(f"data.held_out: {other.source} is data.tokens as well; leave it out to hold out a share")
        of_subjects = self.subjects is not None and other.subjects is not None
        if of_subjects or (self.made_of is not None and self.made_of == other.made_of):
            shared = set(self.subjects or self.names) & set(other.subjects or other.names)
            if shared:
                what = "subjects" if of_subjects else "images"
                both = f"{len(shared)} {what} of {other.source} are in {self.source} too"
                raise UserError(f"data.held_out: {both}, {min(shared)} first")

    def split(self, share: float, seed: int) -> tuple[Integers, Integers]:
        """Items to learn from, and items to measure on: `share` of the images, chosen by a hash of seed and name.

        All views of an image stand on one side, and of slices of volumes all of a subject,
        of which it is a share then; and of a held-out image only itself is measured, not its other views.

        Raises:
            UserError: there is one image or subject only.
        """
        groups = self.subjects or self.names
        order = sorted(set(groups), key=lambda group: (stream_seed("split", seed, group), group))
        if len(order) < 2:
            what = "subject" if self.subjects else "image"
            raise UserError(f"{self.source}: one {what} alone, so none can be held out; name others in data.held_out")
        held_out = set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
        of_item = np.array([group in held_out for group in groups])[self.images]
        measured = np.flatnonzero(of_item & self.unchanged)
        if len(measured) == 0:  # none was encoded as it is
            measured = np.flatnonzero(of_item)
        return np.flatnonzero(~of_item), measured

    def batch(self, items: Integers, positions: Integers) -> "TokenBatch":
        """Some items as tensors."""
        return TokenBatch(
            tokens=torch.from_numpy(self.tokens[items].astype(np.int64)),
            labels=None if self.labels is None else torch.from_numpy(self.labels[items]),
            latents=None if self.latents is None else torch.from_numpy(self.latents[items]),
            positions=torch.from_numpy(positions),
        )


@dataclass(frozen=True)
class TokenBatch:
    """Tokens of some images.

    Attributes:
        tokens: int64 B×h×w or B×h×w×q.
        labels: int64 B, or None.
        positions: int64 B, place in the run's stream; in evaluation, place among the held-out items.
        latents: float16 B×d×h×w, or None.
    """

    tokens: Tensor
    labels: Tensor | None
    positions: Tensor
    latents: Tensor | None = None


def read_token_set(
    location: str | Path, *, latents: Literal["auto", "codewords", "continuous"] = "codewords"
) -> TokenSet:
    """Reads and checks all tokens of a folder of shards or of one token file.

    Args:
        location: the folder or file.
        latents: whether the continuous latents beside the tokens are kept: `codewords`, never; `auto`, where they are;
            `continuous`, they have to be there.

    Raises:
        UserError: a file is damaged, a shard is missing, files are of different models, images of different sizes, or
            some have labels or latents and others none.
    """
    place = Path(location).expanduser()
    parts: list[npt.NDArray[np.integer]] = []
    continuous: list[npt.NDArray[np.float16]] = []
    labels: list[int] = []
    numbers: dict[str, int] = {}
    subjects: dict[str, str] = {}
    images: list[int] = []
    unchanged: list[bool] = []
    first: TokenFile | None = None
    for path in token_files(place):
        file = read_token_file(path)
        first = first or file
        _check_one_kind(first, file, path)
        parts.append(np.stack(file.tokens).astype(token_type(file.codebook_size)))
        if file.latents is not None and latents != "codewords":
            continuous.append(np.stack(file.latents))
        labels += file.labels or ()
        for name, subject in zip(file.names, file.subjects or file.names, strict=True):
            image = image_of_view(name)
            if file.subjects is not None:
                subjects[image] = subject
            images.append(numbers.setdefault(image, len(numbers)))
            unchanged.append(image == name)
    assert first is not None
    if latents == "continuous" and not continuous:
        raise UserError(f"{location}: no continuous latents beside the tokens; vaevq encode --latents writes them")
    plan = read_plan(place) if is_token_folder(place) else None
    folder = place / TOKENIZER_FOLDER
    found = TokenSet(
        tokens=np.concatenate(parts),
        labels=np.array(labels, dtype=np.int64) if first.labels is not None else None,
        latents=np.concatenate(continuous) if continuous else None,
        images=np.array(images, dtype=np.int64),
        names=tuple(numbers),
        unchanged=np.array(unchanged),
        size=first.sizes[0],
        codebook_size=first.codebook_size,
        downsample_factor=first.downsample_factor,
        model_digest=first.model_digest,
        classes=plan.classes if plan else (),
        source=str(location),
        tokenizer=folder if folder.is_dir() else None,
        subjects=tuple(subjects.get(image, image) for image in numbers) if subjects else None,
        made_of=plan.source if plan else None,
    )
    if found.labels is not None and int(found.labels.min()) < 0:
        raise UserError(f"{location}: label {int(found.labels.min())} is below 0")
    return found


def token_batches(
    tokens: TokenSet,
    items: Integers,
    *,
    seed: int,
    start: int,
    stop: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[TokenBatch]:
    """The training stream over `items` from position `start` on, in whole batches, until `stop` is reached or passed.

    Args:
        batch_size: items a batch over all processes, of which this rank gets its contiguous share.
    """
    assert batch_size % world_size == 0
    share, place_at = batch_size // world_size, shuffled(len(items), seed)
    for first in range(start + rank * share, stop + rank * share, batch_size):
        positions = np.arange(first, first + share)
        yield tokens.batch(items[[place_at(p) for p in positions.tolist()]], positions)


def _check_one_kind(first: TokenFile, file: TokenFile, path: Path) -> None:
    """Passes if all images of `file` are like the first one of `first`."""
    file.check_model(first.model_digest, first.codebook_size, first.codes_per_position)
    if (file.labels is None) != (first.labels is None):
        raise UserError(f"{path}: some shards have labels and others none")
    if (file.latents is None) != (first.latents is None):
        raise UserError(f"{path}: some shards have latents and others none")
    for size, name in zip(file.sizes, file.names, strict=True):
        if size != first.sizes[0]:
            raise UserError(
                f"{path}: '{name}' is of {size[0]}×{size[1]} pixels, '{first.names[0]}' of "
                f"{first.sizes[0][0]}×{first.sizes[0][1]}: a generator takes one size; encode with --resize and --crop"
            )
