"""Images to a token file and back: the model's own reconstructions, in files of the right names and sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runs import files_below
from vaevq.codec import decode_tokens, encode_images
from vaevq.config import (
    AnyQuantizerConfig,
    AutoencoderConfig,
    EvalConfig,
    MoVQConfig,
    PlainConfig,
    ResidualConfig,
    TokenizerConfig,
    VariationalConfig,
)
from vaevq.data.images import load_image, to_tensor, to_uint8
from vaevq.data.index import ImageIndex, find_images
from vaevq.data.tokens import TokenFile, read_token_file, write_token_file
from vaevq.errors import UserError
from vaevq.tokenizer import Tokenizer

CPU = torch.device("cpu")
WHOLE = EvalConfig(metrics=(), resize=None, crop=None, batch_size=3)


def tokenizer(channels: int = 3, kind: str = "vaevq", seed: int = 0) -> Tokenizer:
    torch.manual_seed(seed)
    shape = AutoencoderConfig(base_width=8, multipliers=(1, 1, 2), blocks=1, image_channels=channels)
    quantizers: dict[str, AnyQuantizerConfig] = {
        "vaevq": VariationalConfig(code_dim=4, codebook_size=300, initial_logvar=-5.0),
        "vq": PlainConfig(code_dim=4, codebook_size=300),
        "residual": ResidualConfig(code_dim=4, codebook_size=300, codes_per_position=3),
        "movq": MoVQConfig(code_dim=4, codebook_size=300, codes_per_position=2),
    }
    return Tokenizer(TokenizerConfig(autoencoder=shape, quantizer=quantizers[kind])).eval()


def noise(folder: Path, name: str, height: int, width: int, mode: str = "RGB") -> None:
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    pixels = np.random.default_rng(height * width).integers(0, 256, shape, dtype=np.uint8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode if mode == "LA" else None).save(folder / name)


def token_file(model: Tokenizer, names: tuple[str, ...]) -> TokenFile:
    """A file of small images of one colour or another."""
    return TokenFile(
        tokens=tuple(np.full((1, 1), i) for i in range(len(names))),
        sizes=((4, 4),) * len(names),
        names=names,
        codebook_size=300,
        downsample_factor=4,
        model_digest=model.digest,
    )


@pytest.fixture
def pictures(tmp_path: Path) -> ImageIndex:
    """Five images whose sides are no multiples of 4, two of one size, two names that differ in their suffix alone."""
    folder = tmp_path / "pictures"
    noise(folder, "a.png", 9, 14)
    noise(folder, "a.bmp", 1, 1)
    noise(folder, "b/c.png", 33, 7)
    noise(folder, "b/d.png", 10, 6)
    noise(folder, "b/e.png", 10, 6)
    return find_images(folder)


@pytest.mark.parametrize("kind", ["vaevq", "vq", "residual", "movq"])
def test_decoded_pictures_are_the_reconstructions_pixel_for_pixel(
    pictures: ImageIndex, tmp_path: Path, kind: str
) -> None:
    model = tokenizer(kind=kind)
    write_token_file(tmp_path / "t.safetensors", encode_images(model, pictures, WHOLE, CPU).file)
    model.save_pretrained(tmp_path / "model")
    again = Tokenizer.from_pretrained(tmp_path / "model")
    paths = decode_tokens(again, read_token_file(tmp_path / "t.safetensors"), tmp_path / "out", CPU)
    assert files_below(tmp_path / "out") == {"a.png", "a-2.png", "b/c.png", "b/d.png", "b/e.png"}
    shades = set()
    for path, entry in zip(paths, pictures, strict=True):
        original = to_tensor(entry.load(3))[None]
        with torch.no_grad():
            reconstruction = to_uint8(model(original).reconstruction)[0].permute(1, 2, 0).numpy()
        decoded = np.asarray(Image.open(path))
        assert decoded.shape == entry.load(3).shape
        assert np.array_equal(decoded, reconstruction), entry.name
        shades |= set(decoded.flatten().tolist())
    assert len(shades) > 20, "there is something to compare"


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (4, "RGBA")])
def test_other_numbers_of_channels_round_trip(tmp_path: Path, channels: int, mode: str) -> None:
    noise(tmp_path / "in", "x.png", 7, 9, mode)
    model, index = tokenizer(channels), find_images(tmp_path / "in")
    (path,) = decode_tokens(model, encode_images(model, index, WHOLE, CPU).file, tmp_path / "out", CPU)
    with torch.no_grad():
        expected = to_uint8(model(to_tensor(index[0].load(channels))[None]).reconstruction)[0]
    assert np.array_equal(load_image(path, channels), expected.permute(1, 2, 0).numpy())


def test_a_token_file_states_its_model_names_sizes_and_labels(tmp_path: Path) -> None:
    for name in ("cat/x.png", "dog/y.png"):
        noise(tmp_path / "in", name, 10, 6)
    model, done = tokenizer(), list[int]()
    file = encode_images(model, find_images(tmp_path / "in"), WHOLE, CPU, progress=done.append).file
    assert (file.names, file.labels, file.sizes) == (("cat/x.png", "dog/y.png"), (0, 1), ((10, 6), (10, 6)))
    assert (file.codebook_size, file.downsample_factor, file.model_digest) == (300, 4, model.digest)
    assert [grid.shape for grid in file.tokens] == [(3, 2), (3, 2)]
    assert done == [2]


def test_images_are_resized_and_cropped_as_asked(pictures: ImageIndex) -> None:
    config = EvalConfig(metrics=(), resize=24, crop=16)
    assert encode_images(tokenizer(), pictures, config, CPU).file.sizes == ((16, 16),) * 5


def test_unreadable_images_are_passed_over_and_named(pictures: ImageIndex, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "b" / "d.png").write_bytes(b"no image")
    done = list[int]()
    encoded = encode_images(tokenizer(), find_images(tmp_path / "pictures"), WHOLE, CPU, done.append)
    assert done[-1] == 5, "they count as done"
    assert "b/d.png" not in encoded.file.names
    assert len(encoded.file.names) == 4
    assert [line.partition(":")[0] for line in encoded.unreadable] == ["b/d.png"]


def test_without_one_readable_image_there_is_no_token_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of 2 images can be read; a.png: not an image"):
        encode_images(tokenizer(), find_images(tmp_path), WHOLE, CPU)


def test_another_model_refuses_and_says_which_is_which(pictures: ImageIndex, tmp_path: Path) -> None:
    model, other = tokenizer(), tokenizer(seed=1)
    file = encode_images(model, pictures, WHOLE, CPU).file
    with pytest.raises(UserError) as caught:
        decode_tokens(other, file, tmp_path / "out", CPU)
    assert all(part in str(caught.value) for part in (model.digest, other.digest, "K = 300"))
    assert not (tmp_path / "out").exists()


def test_a_token_file_of_several_codes_says_so_and_another_number_is_refused_by_name(
    pictures: ImageIndex, tmp_path: Path
) -> None:
    residual, movq = tokenizer(kind="residual"), tokenizer(kind="movq")
    for model, codes, codebooks in ((residual, 3, 3), (movq, 2, 1)):
        path = tmp_path / f"{codes}.safetensors"
        write_token_file(path, encode_images(model, pictures, WHOLE, CPU).file)
        file = read_token_file(path)
        assert (file.codes_per_position, file.codebooks, file.codebook_size) == (codes, codebooks, 300)
        assert {grid.shape for grid in file.tokens} == {(1, 1, codes), (3, 4, codes), (9, 2, codes), (3, 2, codes)}
    with pytest.raises(UserError) as caught:
        decode_tokens(residual, read_token_file(tmp_path / "2.safetensors"), tmp_path / "out", CPU)
    assert "(K = 300, 2 codes a position), this model is" in str(caught.value)
    assert "(K = 300, 3 codes a position): decode it with the model that made it" in str(caught.value)


def test_pictures_are_overwritten_by_force_alone(pictures: ImageIndex, tmp_path: Path) -> None:
    model = tokenizer()
    file = encode_images(model, pictures, WHOLE, CPU).file
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "e.png").write_text("mine")
    with pytest.raises(UserError, match=r"e\.png already there; --force overwrites"):
        decode_tokens(model, file, tmp_path, CPU)
    assert (tmp_path / "b" / "e.png").read_text() == "mine"
    assert not (tmp_path / "a.png").exists(), "refused before the first picture is written"
    decode_tokens(model, file, tmp_path, CPU, force=True)
    assert Image.open(tmp_path / "b" / "e.png").size == (6, 10)


def test_names_from_a_file_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = ("/etc/x.png", "../../up.png", "..", "", ".", "/")
    names = (*outside, "a/../b.jpeg", "nul\0.png", "x.tar.gz", ".hidden", "a.png")
    model, out = tokenizer(), tmp_path / "out"
    paths = decode_tokens(model, token_file(model, names), out, CPU)
    assert [path.relative_to(out).as_posix() for path in paths] == [
        *("etc/x.png", "up.png", "image.png", "image-2.png", "image-3.png", "image-4.png"),
        *("a/b.png", "nul_.png", "x.tar.png", ".hidden.png", "a.png"),
    ]
    assert files_below(tmp_path) == {path.relative_to(tmp_path).as_posix() for path in paths}


@pytest.mark.parametrize("names", [("n" * 300 + ".png",), ("x/y.png", "x.png/z.png", "x.jpg")])
def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path, names: tuple[str, ...]) -> None:
    model = tokenizer()
    (tmp_path / "x.png").write_text("a file where a folder is wanted")
    with pytest.raises(UserError) as caught:
        decode_tokens(model, token_file(model, names), tmp_path, CPU, force=True)
    assert "could not be written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [name for name in files_below(tmp_path) if name.endswith(".part")]
