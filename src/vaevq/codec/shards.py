"""A whole data set to shards of tokens, in pieces: what is done stays, what was killed is done again."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from vaevq import distributed
from vaevq.codec.images import Progress, encode_images
from vaevq.config import EvalConfig
from vaevq.data.entries import ImageIndex
from vaevq.data.entry import ImageEntry
from vaevq.data.images import UnreadableImage
from vaevq.data.token_shards import ShardPlan, missing_shards, shard_path, unreadable_path
from vaevq.data.tokens import TokenFile, write_token_file
from vaevq.data.views import Views, index_of_views
from vaevq.errors import UserError
from vaevq.files import write_text
from vaevq.tokenizer import Tokenizer


@dataclass(frozen=True)
class ShardsEncoded:
    """What one call has done of a folder of shards.

    Attributes:
        shards: how many it made; the others were there, or are made by other processes.
        images: images it encoded, each of their views counted.
        unreadable: `name: reason` of each file that it skipped.
    """

    shards: int
    images: int
    unreadable: tuple[str, ...]


def encode_shards(
    tokenizer: Tokenizer,
    index: ImageIndex,
    folder: Path,
    plan: ShardPlan,
    device: torch.device,
    *,
    batch_size: int = 8,
    progress: Progress = lambda done: None,
) -> ShardsEncoded:
    """Encodes what is missing of the shards of a plan, deterministically; several processes share them.

    Args:
        tokenizer: in evaluation mode, on `device`.
        index: the images that the plan is of.
        folder: one that `claim_folder` has made ready.
        batch_size: views at a time, where they are of one size.
        progress: told how many views of this call's are done.

    Raises:
        UserError: an image is smaller than the crop, or a file cannot be written.
    """
    views = Views(plan.resize, plan.crop, plan.crops, plan.flips)
    config = EvalConfig(metrics=(), resize=None, crop=None, batch_size=batch_size)  # views come cut
    # By number, not by place among the missing ones: another process may have finished one since.
    mine = [n for n in missing_shards(folder, plan) if n % distributed.world_size() == distributed.rank()]
    done = encoded = 0
    unreadable: list[str] = []
    for number in mine:
        part = index_of_views(index[plan.part(number).start : plan.part(number).stop], views)
        before = done

        def reached(count: int, before: int = before) -> None:
            progress(before + count)

        content, skipped = _encoded(tokenizer, part, config, device, reached, latents=plan.latents)
        if skipped:
            write_text(unreadable_path(folder, number), json.dumps(skipped, indent=0) + "\n")
        if content is not None:  # last: it says that the shard is done
            write_token_file(shard_path(folder, number), content)
            encoded += len(content.names)
        unreadable += skipped
        done += len(part)
        progress(done)
    return ShardsEncoded(len(mine), encoded, tuple(unreadable))


def _encoded(
    tokenizer: Tokenizer,
    part: ImageIndex,
    config: EvalConfig,
    device: torch.device,
    progress: Progress,
    *,
    latents: bool,
) -> tuple[TokenFile | None, list[str]]:
    """A shard's content, None where none of its images can be read, and `name: reason` of each that cannot."""
    try:
        encoded = encode_images(tokenizer, part, config, device, progress, latents=latents)
    except UserError:
        reasons = [_why_unreadable(entry, tokenizer.config.autoencoder.image_channels) for entry in part]
        if None in reasons:  # then it is something that the user has to mend
            raise
        return None, list(dict.fromkeys(filter(None, reasons)))
    return encoded.file, list(dict.fromkeys(encoded.unreadable))  # an image once, not each of its views


def _why_unreadable(entry: ImageEntry, channels: int) -> str | None:
    try:
        entry.load(channels)
    except UnreadableImage as error:
        return str(error)
    return None
