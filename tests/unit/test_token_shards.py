"""A data set as shards of tokens: the tokens of a single file, pieces that are finished later, views with names."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from runs import files_below, on_two_processes, start_vaevq, vaevq
from vaevq.codec import encode_images, encode_shards
from vaevq.config import AutoencoderConfig, EvalConfig, PlainConfig, TokenizerConfig, VolumesConfig
from vaevq.data.images import load_image
from vaevq.data.index import VolumeOptions, find_images
from vaevq.data.token_set import read_token_set
from vaevq.data.token_shards import ShardPlan, claim_folder, missing_shards, read_plan, shard_path
from vaevq.data.tokens import read_token_file
from vaevq.data.views import Views, image_of_view, index_of_views
from vaevq.errors import UserError
from vaevq.tokenizer import Tokenizer
from volumes import ball, write_volume

CPU = torch.device("cpu")
WHOLE = Views()


def tokenizer(seed: int = 0) -> Tokenizer:
    torch.manual_seed(seed)
    shape = AutoencoderConfig(base_width=8, multipliers=(1, 1), blocks=1)
    return Tokenizer(TokenizerConfig(autoencoder=shape, quantizer=PlainConfig(code_dim=4, codebook_size=50))).eval()


def contents(folder: Path) -> dict[str, str]:
    """The shards of a folder by the checksum of what they hold; the order of their metadata is no matter of ours."""
    found = {}
    for path in folder.glob("shard-*.safetensors"):
        with safe_open(path, framework="np") as opened:
            found[path.name] = opened.metadata()["checksum"]
    return found


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes, seven images of 12×16 pixels."""
    folder = tmp_path / "classes"
    for name in ("cat/1.png", "cat/2.png", "cat/10.png", "dog/1.png", "dog/2.png", "dog/3.png", "dog/4.png"):
        pixels = np.random.default_rng(len(files_below(folder))).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def encoded(images: Path, folder: Path, shard_size: int = 3, views: Views = WHOLE, force: bool = False) -> ShardPlan:
    model, index = tokenizer(), find_images(images)
    plan = ShardPlan.of(index, model.digest, shard_size, views)
    claim_folder(folder, plan, force=force)
    encode_shards(model, index, folder, plan, CPU, batch_size=2)
    return plan


def test_shards_hold_what_one_file_holds_in_its_order(classes: Path, tmp_path: Path) -> None:
    plan = encoded(classes, tmp_path / "tokens")
    whole = encode_images(tokenizer(), find_images(classes), EvalConfig(resize=None, crop=None), CPU).file
    shards = [read_token_file(shard_path(tmp_path / "tokens", n)) for n in range(3)]
    assert [len(shard.names) for shard in shards] == [3, 3, 1]
    assert [name for shard in shards for name in shard.names] == list(whole.names)
    assert [label for shard in shards for label in shard.labels or ()] == [0, 0, 0, 1, 1, 1, 1]
    found = [grid for shard in shards for grid in shard.tokens]
    assert all(np.array_equal(a, b) for a, b in zip(found, whole.tokens, strict=True))
    assert read_plan(tmp_path / "tokens") == plan
    assert (plan.classes, plan.images, plan.shards) == (("cat", "dog"), 7, 3)


def test_shards_that_are_there_are_left_and_missing_ones_made(classes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    plan = encoded(classes, folder)
    before = contents(folder)
    old = shard_path(folder, 0).stat().st_mtime_ns
    shard_path(folder, 1).unlink()
    (folder / ".shard-00001.safetensors.99.part").write_bytes(b"half")
    assert missing_shards(folder, plan) == [1]
    model, index = tokenizer(), find_images(classes)
    claim_folder(folder, plan, force=False)
    done = encode_shards(model, index, folder, plan, CPU)
    assert (done.shards, done.images, done.unreadable) == (1, 3, ())
    assert contents(folder) == before
    assert shard_path(folder, 0).stat().st_mtime_ns == old


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shard_size": 2}, r"shard_size: 3 there, 2 here"),
        ({"views": Views(flips=True)}, r"flips: False there, True here"),
        ({"views": Views(crop=8)}, r"crop: None there, 8 here"),
    ],
)
def test_a_folder_of_other_tokens_is_refused_and_made_anew_by_force(
    classes: Path, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    encoded(classes, tmp_path / "tokens")
    with pytest.raises(UserError, match=named):
        encoded(classes, tmp_path / "tokens", **change)  # type: ignore[arg-type]
    plan = encoded(classes, tmp_path / "tokens", force=True, **change)  # type: ignore[arg-type]
    assert missing_shards(tmp_path / "tokens", plan) == []
    expected = {"shards.json", *(shard_path(tmp_path, n).name for n in range(plan.shards))}
    assert files_below(tmp_path / "tokens") == expected, "none of the old shards is left"


def test_a_folder_of_other_files_is_refused(classes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="classes: neither empty nor a folder of tokens"):
        encoded(classes, classes)


def test_unreadable_images_are_listed_and_a_shard_of_them_alone_is_done(classes: Path, tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/4.png"):
        (classes / name).write_bytes(b"no image")
    folder = tmp_path / "tokens"
    model, index = tokenizer(), find_images(classes)
    plan = ShardPlan.of(index, model.digest, 3, Views(flips=True))
    claim_folder(folder, plan, force=False)
    done = encode_shards(model, index, folder, plan, CPU)
    assert [line.partition(":")[0] for line in done.unreadable] == ["cat/1.png", "dog/4.png"], "an image is named once"
    assert done.images == 2 * 5
    assert files_below(folder) == {
        *("shards.json", "shard-00000.safetensors", "shard-00001.safetensors"),
        *("shard-00000.unreadable.json", "shard-00002.unreadable.json"),
    }
    assert json.loads((folder / "shard-00002.unreadable.json").read_text()) == [done.unreadable[1]]
    assert missing_shards(folder, plan) == []
    for damaged in ("{not", '{"a": 1}', "\udcff"):
        (folder / "shard-00002.unreadable.json").write_bytes(damaged.encode("utf-8", "surrogateescape"))
        assert missing_shards(folder, plan) == [2], "what a damaged list says of is made again"
    encode_shards(model, index, folder, plan, CPU)
    assert missing_shards(folder, plan) == []


def test_what_the_user_has_to_mend_is_not_taken_for_an_unreadable_image(classes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cat/1\.png: 16×12 pixels, smaller than the 13×13 crop; set resize to 13"):
        encoded(classes, tmp_path / "tokens", views=Views(crop=13))


def test_views_are_named_cut_and_mirrored(classes: Path) -> None:
    index = find_images(classes)
    views = index_of_views(index.subset([2]), Views(crop=8, crops=7, flips=True))
    names = [f"cat/10{crop}{flip}.png" for crop in ("", *(f"@crop{n}" for n in range(1, 7))) for flip in ("", "@flip")]
    assert [view.name for view in views] == names
    assert {image_of_view(name) for name in names} == {"cat/10.png"}
    assert views.classes == index.classes
    assert {view.label for view in views} == {0}
    whole = load_image(classes / "cat/10.png", 3)
    corners = {"": (2, 4), "@crop1": (0, 0), "@crop2": (0, 8), "@crop3": (4, 0), "@crop4": (4, 8)}
    for mark, (top, left) in corners.items():
        at = names.index(f"cat/10{mark}.png")
        assert np.array_equal(views[at].load(3), whole[top : top + 8, left : left + 8]), mark
        assert np.array_equal(views[at + 1].load(3), whole[top : top + 8, left : left + 8][:, ::-1]), mark
    drawn = [views[names.index(f"cat/10@crop{n}.png")].load(3) for n in (5, 6)]
    assert not np.array_equal(*drawn)
    again = index_of_views(index, Views(crop=8, crops=7, flips=True))[2 * 14 + 10]
    assert np.array_equal(again.load(3), drawn[0]), "a crop depends on its name alone"


@pytest.mark.parametrize(
    ("name", "image"),
    [("a.b@x/c", "a.b@x/c"), ("a/c@flip", "a/c"), ("t.tar/k@crop12@flip.jpg", "t.tar/k.jpg"), ("a@flip/b.png",) * 2],
)
def test_an_image_is_found_by_the_name_of_its_view(name: str, image: str) -> None:
    assert image_of_view(name) == image


def test_views_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="several crops need their side: name it with --crop"):
        Views(crops=2)
    with pytest.raises(UserError, match="crops must be at least 1, not 0"):
        Views(crop=8, crops=0)


@pytest.mark.parametrize("name", ["10@flip.png", "z@crop3.png"])
def test_an_image_that_is_called_like_a_view_is_refused_beside_views(name: str, classes: Path, tmp_path: Path) -> None:
    shutil.copy(classes / "cat/1.png", classes / "cat" / name)
    index, folder = find_images(classes), tmp_path / "tokens"
    for views in (Views(flips=True), Views(crop=8, crops=2)):
        with pytest.raises(UserError, match=rf"'cat/{name}' is called like a view of 'cat/(10|z)\.png': rename it"):
            index_of_views(index, views)
        with pytest.raises(UserError, match="is called like a view of"):
            encoded(classes, folder, shard_size=1, views=views)
        assert not folder.exists(), "it is said before the first shard"
    encoded(classes, folder)  # without views no name is made
    assert len(read_token_set(folder)) == len(index)


def test_the_command_goes_on_after_a_kill(finished: Path, photos: Path, tmp_path: Path) -> None:
    words = ["encode", photos, "--model", finished, "--shard-size", "2", "--crop", "64", "--flips", "--device", "cpu"]
    assert vaevq(*words, "-o", tmp_path / "whole").code == 0
    folder, log = tmp_path / "killed", tmp_path / "log.txt"
    process = start_vaevq(*words, "-o", folder, log=log)
    while process.is_alive() and not list(folder.glob("shard-*")):
        time.sleep(0.002)
    process.kill()
    process.join()
    assert len(list(folder.glob("shard-*.safetensors"))) < 6, log.read_text()
    outcome = vaevq(*words, "-o", folder)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("12 images × 2 views, 6 shards, ")
    assert files_below(folder) == files_below(tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")
    assert vaevq(*words, "-o", folder).out.endswith(f"6 shards, 0 of them made now: {folder}\n")
    assert Tokenizer.from_pretrained(folder / "tokenizer").digest == Tokenizer.from_pretrained(finished).digest
    assert read_token_file(shard_path(folder, 0)).names[1].endswith("@flip.png")


def share(classes: Path, folder: Path) -> None:
    """What each of two processes does."""
    model, index = tokenizer(), find_images(classes)
    plan = ShardPlan.of(index, model.digest, 2, Views())
    done = encode_shards(model, index, folder, plan, CPU)
    (folder / f"{os.getpid()}.count").write_text(str(done.shards))


def test_two_processes_share_the_shards(classes: Path, tmp_path: Path) -> None:
    encoded(classes, tmp_path / "alone", shard_size=2)
    model, folder = tokenizer(), tmp_path / "both"
    claim_folder(folder, ShardPlan.of(find_images(classes), model.digest, 2, Views()), force=False)
    on_two_processes(share, classes, folder)
    assert sorted(path.read_text() for path in folder.glob("*.count")) == ["2", "2"]
    assert contents(folder) == contents(tmp_path / "alone")


def test_flips_and_crops_of_a_single_file_are_items_of_it(finished: Path, photos: Path, tmp_path: Path) -> None:
    outcome = vaevq(
        *("encode", photos / "cat-0.png", "-m", finished, "-o", tmp_path / "t.safetensors"),
        *("--crop", "64", "--crops", "2", "--flips", "--device", "cpu"),
    )
    assert (outcome.code, outcome.err) == (0, "")
    file = read_token_file(tmp_path / "t.safetensors")
    assert file.names == ("cat-0.png", "cat-0@flip.png", "cat-0@crop1.png", "cat-0@crop1@flip.png")
    assert len({grid.tobytes() for grid in file.tokens}) == 4


def test_slices_taken_otherwise_are_not_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))
    path = write_volume(tmp_path / "a.nii", ball((9, 9, 9)))
    plans = [
        ShardPlan.of(find_images(path, VolumeOptions(VolumesConfig(size=8, fit=fit))), "d", 2, Views())
        for fit in ("pad", "resize")
    ]
    claim_folder(tmp_path / "t", plans[0], force=False)
    assert read_plan(tmp_path / "t") == plans[0]
    with pytest.raises(UserError, match=r"tokens made otherwise \(volumes\.fit: 'pad' there, 'resize' here"):
        claim_folder(tmp_path / "t", plans[1], force=False)
