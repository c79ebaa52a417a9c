"""A data set as tokens: a folder of token files of equal numbers of images, and what they were made of.

`shards.json` says what belongs into the folder and is written first; `shard-00000.safetensors` and so on are token
files (`vaevq.data.tokens`), each whole or not there. Images of a shard that could not be read are listed in
`shard-00000.unreadable.json`. `tokenizer/` holds the model that made the tokens.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from vaevq.config import Section, VolumesConfig, read_json
from vaevq.data.entries import ImageIndex
from vaevq.data.views import Views, check_names
from vaevq.data.volumes.entries import sliced_volumes
from vaevq.errors import UserError
from vaevq.files import make_folder, remove_leftovers, write_json

MANIFEST = "shards.json"
TOKENIZER_FOLDER = "tokenizer"
MOST_SHARDS = 100_000
"""As many as their names have digits for."""


class ShardPlan(Section):
    """What a folder of shards is made of: the content of shards.json."""

    format: Literal["vaevq-token-shards"] = "vaevq-token-shards"
    format_version: Literal["1"] = "1"
    source: str  # location of the images
    images: int = Field(ge=1)
    images_digest: str  # of their names
    classes: tuple[str, ...]  # names by label; empty where the images have none
    model_digest: str
    shard_size: int = Field(ge=1)  # images a shard, not counting their views
    resize: int | None
    crop: int | None
    crops: int
    flips: bool
    volumes: VolumesConfig | None = None  # how slices of volumes were made; None of images
    latents: bool = False  # whether continuous latents stand beside the tokens

    @classmethod
    def of(
        cls, index: ImageIndex, model_digest: str, shard_size: int, views: Views, *, latents: bool = False
    ) -> "ShardPlan":
        """The plan for some images. UserError where they cannot be shared out so, or for their names."""
        check_names(index, views)
        if shard_size < 1:
            raise UserError(f"a shard holds at least 1 image, not {shard_size}")
        if -(-len(index) // shard_size) > MOST_SHARDS:
            raise UserError(f"{len(index)} images in shards of {shard_size} are more than {MOST_SHARDS} shards")
        return cls(
            source=index.location,
            images=len(index),
            images_digest=index.digest,
            classes=index.classes if index.labelled else (),
            model_digest=model_digest,
            shard_size=shard_size,
            resize=views.resize,
            crop=views.crop,
            crops=views.crops,
            flips=views.flips,
            volumes=next((volume.config for volume in sliced_volumes(index)), None),
            latents=latents,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shards > MOST_SHARDS:
            raise ValueError(
                f"{self.images} images are {self.shards} shards of {self.shard_size}, more than {MOST_SHARDS}"
            )
        return self

    @property
    def shards(self) -> int:
        """How many there are when all is done."""
        return -(-self.images // self.shard_size)

    def part(self, number: int) -> range:
        """Positions of a shard's images."""
        return range(number * self.shard_size, min(self.images, (number + 1) * self.shard_size))


def shard_path(folder: Path, number: int) -> Path:
    """The token file of a shard."""
    return folder / f"shard-{number:05d}.safetensors"


def unreadable_path(folder: Path, number: int) -> Path:
    """The list of a shard's images that could not be read."""
    return folder / f"shard-{number:05d}.unreadable.json"


def is_token_folder(path: Path) -> bool:
    """Whether a folder is one of shards."""
    return (path / MANIFEST).is_file()


def read_plan(folder: Path) -> ShardPlan:
    """What a folder of shards is made of.

    Raises:
        UserError: it is none, or its shards.json is damaged.
    """
    if not is_token_folder(folder):
        raise UserError(f"{folder}: no folder of tokens ({MANIFEST} is not in it); vaevq encode --shard-size makes one")
    return read_json(ShardPlan, folder / MANIFEST)


def claim_folder(folder: Path, plan: ShardPlan, *, force: bool) -> None:
    """Makes a folder ready for the shards of a plan: a new one, or one in which the same plan was begun.

    Raises:
        UserError: the folder holds shards of another plan (unless `force`, which removes them), or files of others.
    """
    if is_token_folder(folder):
        stands = read_plan(folder)
        if stands != plan and not force:
            there, here = stands.model_dump(mode="json"), plan.model_dump(mode="json")
            key = next(name for name in here if there[name] != here[name])
            one, other = there[key], here[key]
            if isinstance(one, dict) and isinstance(other, dict):  # a section
                within = next(name for name in other if one[name] != other[name])
                key, one, other = f"{key}.{within}", one[within], other[within]
            raise UserError(
                f"{folder} holds tokens made otherwise ({key}: {_short(one)} there, {_short(other)} here); "
                "name another folder, or begin anew with --force"
            )
    elif folder.is_dir() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder}: neither empty nor a folder of tokens; name another one, or add to it with --force")
    make_folder(folder)
    remove_leftovers(folder)
    if force:
        for path in folder.glob("shard-*"):
            path.unlink()
    write_json(folder / MANIFEST, plan.model_dump(mode="json"))


def missing_shards(folder: Path, plan: ShardPlan) -> Sequence[int]:
    """The numbers of the shards that are still to be made."""
    return [number for number in range(plan.shards) if not _is_done(folder, plan, number)]


def token_files(location: Path) -> list[Path]:
    """The token files of a location: of a finished folder of shards, or the one file itself.

    Raises:
        UserError: the folder is none of shards, or not finished.
    """
    if not location.exists():
        raise UserError(f"{location}: no such file or folder")
    if not location.is_dir():
        return [location]
    plan = read_plan(location)
    missing = missing_shards(location, plan)
    if missing:
        raise UserError(
            f"{location}: {len(missing)} of {plan.shards} shards are not there, the first is "
            f"{shard_path(location, missing[0]).name}; run the same vaevq encode again to finish"
        )
    files = [path for number in range(plan.shards) if (path := shard_path(location, number)).is_file()]
    if not files:
        raise UserError(f"{location}: none of its {plan.images} images could be read")
    return files


def _is_done(folder: Path, plan: ShardPlan, number: int) -> bool:
    if shard_path(folder, number).is_file():
        return True
    try:
        listed = json.loads(unreadable_path(folder, number).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a damaged list says nothing: the shard is made again
        return False
    return isinstance(listed, list) and len(listed) == len(plan.part(number))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
