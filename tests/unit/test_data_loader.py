"""The training stream is a function of seed and position, evaluation a walk; bad files are told plainly."""

import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vaevq import distributed
from vaevq.config import DataConfig, EvalConfig
from vaevq.data import loader
from vaevq.data.augment import augment
from vaevq.data.entry import ImageEntry
from vaevq.data.images import from_uint8, load_image, resize, to_tensor
from vaevq.data.index import ImageIndex, find_images
from vaevq.data.loader import ImageBatch, evaluation_batches, training_batches
from vaevq.data.unreadable import UnreadableLog
from vaevq.errors import UserError

SMALL = DataConfig(image_size=8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """Seven noise images in two classes, of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate([(12, 16), (16, 12), (9, 9), (20, 10), (8, 30), (11, 13), (8, 8)]):
        file = folder / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(file)
    return find_images(folder)


def stream(index: ImageIndex, config: DataConfig = SMALL, **options: int) -> list[ImageBatch]:
    given_options = {"seed": 0, "start": 0, "stop": 24, "batch_size": 6} | options
    return list(training_batches(index, config, 3, **given_options))


def images_of(batches: list[ImageBatch]) -> torch.Tensor:
    return torch.cat([b.images for b in batches])


def test_a_batch_says_what_it_holds(photos: ImageIndex) -> None:
    batches = stream(photos)
    assert [b.positions.tolist() for b in batches] == [list(range(i, i + 6)) for i in (0, 6, 12, 18)]
    for batch in batches:
        assert batch.images.shape == (6, 3, 8, 8)
        assert batch.images.dtype == torch.float32
        assert batch.images.min() >= -1
        assert batch.images.max() <= 1
        assert batch.labels is not None
        assert [f"class{label}" for label in batch.labels.tolist()] == [n.split("/")[0] for n in batch.names]
        assert batch.unreadable == ()


def test_one_epoch_shows_each_image_once_and_the_next_in_another_order(photos: ImageIndex) -> None:
    shown = [name for batch in stream(photos, stop=70, batch_size=5) for name in batch.names]
    epochs = [tuple(shown[i : i + 7]) for i in range(0, 70, 7)]
    assert all(sorted(epoch) == sorted(e.name for e in photos) for epoch in epochs)
    assert len(set(epochs)) > 5


def test_a_batch_larger_than_the_data_set_spans_epochs(photos: ImageIndex) -> None:
    (batch,) = stream(photos, stop=30, batch_size=30)
    assert sorted(batch.names[:28]) == sorted(4 * [e.name for e in photos])
    assert len({tuple(image.flatten().tolist()) for image in batch.images}) > 20  # cut anew every time


def test_batches_are_whole_and_the_last_one_reaches_stop(photos: ImageIndex) -> None:
    assert [len(b.names) for b in stream(photos, stop=7, batch_size=3)] == [3, 3, 3]
    assert stream(photos, start=6, stop=6) == []


@pytest.mark.parametrize("crop", ["random", "random_resized"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_shares_of_all_processes_make_the_batch_of_one(photos: ImageIndex, crop: str, world_size: int) -> None:
    config = DataConfig(image_size=8, crop=crop)
    whole = stream(photos, config)
    shares = [stream(photos, config, rank=rank, world_size=world_size) for rank in range(world_size)]
    for j, batch in enumerate(whole):
        torch.testing.assert_close(images_of([share[j] for share in shares]), batch.images, rtol=0, atol=0)
        assert torch.cat([share[j].positions for share in shares]).tolist() == batch.positions.tolist()
        assert sum((share[j].names for share in shares), ()) == batch.names


@settings(max_examples=15, deadline=None)
@given(batches=st.integers(1, 5), skipped=st.integers(0, 5), size=st.integers(1, 10), seed=st.integers(0, 3))
def test_a_stream_entered_later_is_the_tail_of_the_whole(batches: int, skipped: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(0, 256, (9, 10, 3), dtype=np.uint8) for _ in range(5)]
    index = ImageIndex("memory", tuple(_InMemory(str(i), array) for i, array in enumerate(arrays)))  # type: ignore[misc]
    stop = (skipped + batches) * size
    whole = stream(index, seed=seed, stop=stop, batch_size=size)
    tail = stream(index, seed=seed, start=skipped * size, stop=stop, batch_size=size)
    assert len(tail) == batches
    torch.testing.assert_close(images_of(tail), images_of(whole[skipped:]), rtol=0, atol=0)
    assert [b.names for b in tail] == [b.names for b in whole[skipped:]]


class _InMemory:
    label = None

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self._array = name, array

    def load(self, channels: int, shorter: int | None = None) -> np.ndarray:
        assert (channels, shorter) == (3, None)
        return self._array


def test_workers_change_nothing_and_leave_the_global_randomness_alone(photos: ImageIndex) -> None:
    alone = stream(photos)
    before = torch.get_rng_state()
    helped = stream(photos, DataConfig(image_size=8, workers=2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(images_of(alone), images_of(helped))
    assert [b.names for b in alone] == [b.names for b in helped]
    assert [b.positions.tolist() for b in alone] == [b.positions.tolist() for b in helped]


@pytest.mark.parametrize("cache_mib", [0, 1024])
def test_the_cache_changes_nothing(photos: ImageIndex, cache_mib: int) -> None:
    cached = stream(photos, DataConfig(image_size=8, cache_mib=cache_mib))
    assert torch.equal(images_of(cached), images_of(stream(photos)))


def test_the_cache_decodes_each_image_once_and_stays_within_its_size(
    photos: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    load = ImageEntry.load

    def counting(entry: ImageEntry, channels: int, shorter: int | None) -> np.ndarray:
        decoded.append(entry.name)
        return load(entry, channels, shorter)

    monkeypatch.setattr(ImageEntry, "load", counting)
    stream(photos, DataConfig(image_size=8, cache_mib=1), stop=42)
    assert sorted(decoded) == sorted(e.name for e in photos)
    images = loader._TrainingImages(photos, SMALL, 3, 0)
    images._room = 1_000  # the first image, 12×16×3 bytes, fits; a second such one does not
    for _ in range(2):
        for i in range(len(photos)):
            images._load(i)
    assert 0 < sum(array.nbytes for array in images._kept.values()) <= 1_000


def test_a_random_crop_is_a_piece_of_the_image_or_its_mirror_image() -> None:
    array = np.random.default_rng(0).integers(0, 256, (10, 12, 1), dtype=np.uint8)
    pieces = {array[y : y + 8, x : x + 8].tobytes(): (y, x, False) for y in range(3) for x in range(5)}
    pieces |= {array[y : y + 8, x : x + 8][:, ::-1].tobytes(): (y, x, True) for y in range(3) for x in range(5)}
    seen = {pieces[augment(array, SMALL, "a", 0, p).tobytes()] for p in range(400)}
    assert seen == set(pieces.values())


def test_without_flip_no_crop_is_mirrored_and_the_crops_stay_where_they_were() -> None:
    array = np.random.default_rng(0).integers(0, 256, (10, 12, 1), dtype=np.uint8)
    plain = DataConfig(image_size=8, flip=False)
    mirrored = 0
    for p in range(100):
        with_flip, without = augment(array, SMALL, "a", 0, p), augment(array, plain, "a", 0, p)
        mirrored += not np.array_equal(with_flip, without)
        assert np.array_equal(with_flip, without) or np.array_equal(with_flip[:, ::-1], without)
    assert 30 < mirrored < 70


def test_a_random_resized_crop_keeps_to_its_share_of_the_shorter_side(monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[tuple[int, ...]] = []

    def noting(array: np.ndarray, height: int, width: int) -> np.ndarray:
        sides.append(array.shape[:2])
        return resize(array, height, width)

    monkeypatch.setattr("vaevq.data.augment.resize", noting)
    config = DataConfig(image_size=8, crop="random_resized", crop_scale=(0.25, 0.75))
    array = np.zeros((100, 140, 3), np.uint8)
    shapes = {augment(array, config, "a", 0, p).shape for p in range(300)}
    assert shapes == {(8, 8, 3)}
    assert all(h == w for h, w in sides)
    assert 25 <= min(sides)[0] < 30
    assert 70 < max(sides)[0] <= 75


@settings(deadline=None)
@given(h=st.integers(1, 40), w=st.integers(1, 40), position=st.integers(0, 10**9), channels=st.integers(1, 4))
def test_a_random_resized_crop_works_at_every_size(h: int, w: int, position: int, channels: int) -> None:
    config = DataConfig(image_size=8, crop="random_resized", crop_scale=(0.1, 1.0))
    array = np.full((h, w, channels), 77, np.uint8)
    assert (augment(array, config, "a", 0, position) == 77).all()


def test_images_are_resized_before_the_crop(photos: ImageIndex) -> None:
    config = DataConfig(image_size=8, resize=8, flip=False)
    small = photos.subset([i for i, e in enumerate(photos) if e.load(3).shape[:2] == (9, 9)])
    (batch,) = stream(small, config, stop=1, batch_size=1)
    expected = to_tensor(resize(small[0].load(3), 8, 8))
    torch.testing.assert_close(batch.images[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_smaller_than_the_crop_names_itself_and_the_option_that_mends_it(
    photos: ImageIndex, workers: int
) -> None:
    with pytest.raises(
        UserError, match=r"^class\d/\d\.png: \d+×\d+ pixels, smaller than the 16×16 crop; set data\.resize to"
    ):
        stream(photos, DataConfig(image_size=16, workers=workers))
    stream(photos, DataConfig(image_size=16, resize=16, workers=workers))
    stream(photos, DataConfig(image_size=16, crop="random_resized", workers=workers))


def test_options_that_contradict_each_other_are_refused_before_anything_is_read(photos: ImageIndex) -> None:
    with pytest.raises(UserError, match=r"data\.resize 8 is smaller than the crop, data\.image_size 16"):
        training_batches(photos, DataConfig(image_size=16, resize=8), 3, seed=0, start=0, stop=4, batch_size=4)
    with pytest.raises(UserError, match="a batch of 4 images cannot be shared evenly by 3 processes"):
        training_batches(photos, SMALL, 3, seed=0, start=0, stop=4, batch_size=4, world_size=3)


@pytest.fixture
def damaged(tmp_path: Path) -> ImageIndex:
    """Six images, of which 1, 2 and 5 cannot be decoded; the value of the others is their number."""
    for i in range(6):
        if i in (1, 2, 5):
            (tmp_path / f"{i}.png").write_bytes(b"damaged")
        else:
            Image.new("L", (9, 9), i).save(tmp_path / f"{i}.png")
    return find_images(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_readable_image_stands_in_for_a_damaged_one_which_is_reported(
    damaged: ImageIndex, workers: int
) -> None:
    whole = stream(damaged, stop=6)
    batch = stream(damaged, DataConfig(image_size=8, workers=workers), stop=6)[0]
    shown = sorted(batch.names)
    assert shown == ["0.png", "0.png", "3.png", "3.png", "3.png", "4.png"]
    assert sorted(batch.unreadable) == [f"{i}.png: not an image, or of an unknown format" for i in (1, 2, 5)]
    for image, name in zip(batch.images, batch.names, strict=True):
        assert torch.equal(image, from_uint8(torch.full((3, 8, 8), int(name[0]), dtype=torch.uint8)))
    assert batch.names == whole[0].names


@pytest.mark.parametrize("workers", [0, 2])
def test_images_none_of_which_can_be_read_end_in_one_line(damaged: ImageIndex, workers: int) -> None:
    with pytest.raises(UserError, match=r"2 images in a row cannot be read; [12]\.png: not an image"):
        stream(damaged.subset([1, 2]), DataConfig(image_size=8, workers=workers))


def test_the_log_counts_distinct_images_and_stops_at_the_share() -> None:
    log = UnreadableLog()
    assert log.add(["a: x", "b: y", "a: x"]) == ("a: x", "b: y")
    assert log.add(["b: y"]) == ()
    assert list(log) == ["a: x", "b: y"]
    log.check(total=4, max_share=0.5)
    with pytest.raises(
        UserError, match=r"^2 of 5 images cannot be read, .*max_unreadable_share 0\.3 allows: a: x; b: y$"
    ):
        log.check(total=5, max_share=0.3)
    log.add(["c: z", "d: z"])
    with pytest.raises(UserError, match=r"a: x; b: y; c: z; …$"):
        log.check(total=4, max_share=0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="only a forked worker sees what the test has replaced")
def test_a_worker_that_is_killed_ends_in_one_line(photos: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageEntry, "load", lambda *_: os._exit(9))
    monkeypatch.setattr(loader, "DataLoader", partial(loader.DataLoader, multiprocessing_context="fork"))
    with pytest.raises(UserError, match=r"^a data worker was killed.*lower data\.workers \(now 1\)"):
        stream(photos, DataConfig(image_size=8, workers=1))


def data_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("vaevq-data")]


def test_a_stream_that_is_closed_early_leaves_no_thread_behind(photos: ImageIndex) -> None:
    batches = training_batches(photos, SMALL, 3, seed=0, start=0, stop=10**9, batch_size=4)
    next(batches)
    assert data_threads()
    batches.close()  # type: ignore[attr-defined]
    assert not data_threads()


def test_an_interrupt_in_the_loop_leaves_no_thread_behind(photos: ImageIndex) -> None:
    def train() -> None:
        for _ in training_batches(photos, SMALL, 3, seed=0, start=0, stop=10**9, batch_size=4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not data_threads()


def test_the_next_batch_is_made_while_the_caller_works(photos: ImageIndex) -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    ahead = loader._one_ahead(items())
    assert next(ahead) == 1
    assert made.wait(timeout=10)
    assert list(ahead) == [2]


def evaluated(index: ImageIndex, rank: int = 0, world_size: int = 1, **options: object) -> list[ImageBatch]:
    config = EvalConfig.model_validate({"resize": None, "crop": None} | options)
    return list(evaluation_batches(index, config, 3, rank=rank, world_size=world_size))


def test_whole_images_come_in_order_in_runs_of_one_size(photos: ImageIndex) -> None:
    doubled = photos.subset([0, 0, 0, 1, 0])
    batches = evaluated(doubled, batch_size=2)
    assert [b.positions.tolist() for b in batches] == [[0, 1], [2], [3], [4]]
    for batch in batches:
        for image, name in zip(batch.images, batch.names, strict=True):
            file = next(e.file for e in photos if e.name == name)
            torch.testing.assert_close(image, to_tensor(load_image(Path(file), 3)), rtol=0, atol=0)


def test_images_are_resized_and_their_centre_is_cropped(photos: ImageIndex) -> None:
    batches = evaluated(photos, resize=10, crop=8, batch_size=4)
    assert [b.images.shape for b in batches] == [(4, 3, 8, 8), (3, 3, 8, 8)]
    assert [n for b in batches for n in b.names] == [e.name for e in photos]


def test_every_image_belongs_to_one_process_block_by_block(photos: ImageIndex) -> None:
    whole = evaluated(photos, resize=8, crop=8, batch_size=8)
    shares = [evaluated(photos, rank, 2, resize=8, crop=8, batch_size=2, kid_block=3) for rank in range(2)]
    positions = [torch.cat([b.positions for b in share]).tolist() for share in shares]
    assert positions == [[0, 1, 2, 6], [3, 4, 5]]
    both = torch.cat([images_of(share) for share in shares])
    assert torch.equal(both[torch.tensor([0, 1, 2, 4, 5, 6, 3])], images_of(whole))


def test_a_number_of_images_is_taken_evenly_from_the_whole_index(photos: ImageIndex) -> None:
    (batch,) = evaluated(photos, resize=8, crop=8, images=3)
    assert batch.names == tuple(photos[i].name for i in (0, 2, 4))
    assert batch.positions.tolist() == [0, 1, 2]
    assert sum(len(b.names) for b in evaluated(photos, images=100)) == 7


def test_damaged_images_are_passed_over_and_reported_wherever_they_stand(damaged: ImageIndex) -> None:
    batches = evaluated(damaged, batch_size=2)
    assert [b.positions.tolist() for b in batches] == [[0, 3], [4]]
    reported = [line.split(":")[0] for b in batches for line in b.unreadable]
    assert sorted(reported) == ["1.png", "2.png", "5.png"]


def test_a_killed_worker_is_one_line_on_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with pytest.raises(UserError, match=r"lower data\.workers \(now 3\)"), loader.killed_workers_named(3):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_evaluation_without_a_readable_image_ends_in_one_line(damaged: ImageIndex) -> None:
    with pytest.raises(UserError, match=r"none of 2 images can be read; 1\.png: not an image"):
        evaluated(damaged.subset([1, 2]))


def test_an_evaluation_crop_larger_than_an_image_names_it_and_the_remedy(photos: ImageIndex) -> None:
    with pytest.raises(UserError, match=r"^class0/0\.png: 16×12 pixels, smaller than the 16×16 crop; set resize to 16"):
        evaluated(photos, crop=16)
