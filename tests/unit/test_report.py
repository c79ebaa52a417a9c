"""The report: complete, self-contained, safe with any file name, and made of whatever the run folder holds."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pages import Page
from vaevq.config import AutoencoderConfig, EvalConfig, RunConfig, TokenizerConfig, VariationalConfig
from vaevq.data.index import ImageIndex, find_images
from vaevq.errors import UserError
from vaevq.metrics.codebook import TokenHistogram
from vaevq.metrics.evaluation import evaluate
from vaevq.report import report_run, write_pictures, write_report
from vaevq.report.codebook_plots import histogram_chart
from vaevq.report.examples import EXTREMES
from vaevq.report.pictures import error_map, read_pictures, shown, token_colours, token_map
from vaevq.report.plots import Line, line_chart
from vaevq.tokenizer import Tokenizer

HOSTILE = """"><script>alert('x')</script>&amp;.png"""


def picture_arrays(channels: int = 3, size: int = 32) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (size, size, channels), dtype=np.uint8) for _ in range(2)]


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    config = RunConfig.model_validate({"model": {"quantizer": {"codebook_size": 64}}, "seed": 7})
    run_dir = tmp_path / "my run"
    run_dir.mkdir()
    (run_dir / "config.json").write_text(config.model_dump_json())
    environment = {"command": "vaevq train --data <mine>", "commit": "abc123", "packages": {"torch": "2.9"}}
    (run_dir / "environment.json").write_text(json.dumps(environment))
    split = {"description": "photos, split by shoot", "train": ["a.png", "b.png"], "held_out": [HOSTILE]}
    (run_dir / "split.json").write_text(json.dumps(split))
    rows: list[dict[str, Any]] = []
    for images_seen in (100, 200, 300):
        losses = {"loss/total": 30 / images_seen, "loss/rcs": 1.0, "codebook/usage_training_queries": 0.9}
        rows.append({"images_seen": images_seen, "split": "train", "seconds": 1.0, **losses})
        quick = {"psnr": 20.0, "usage": 0.5, "usage_ceiling": 0.9, "perplexity": 12.0}
        rows.append({"images_seen": images_seen, "split": "held_out", "seconds": 1.0, **quick})
    lines = [json.dumps(row) for row in rows]
    (run_dir / "metrics.jsonl").write_text("\n".join([*lines, '{"images_seen": 400, "spl']))
    return run_dir


@pytest.fixture
def finished(unfinished: Path) -> Path:
    counts = [0] * 4 + list(range(1, 61))
    figures = {"psnr": 24.87, "psnr_deviation": 3.125, "fd_some_network": 12.345, "usage": 0.9375, "perplexity": 51.5}
    evaluation = {
        "figures": {**figures, "usage_ceiling": 0.97, "tokens_per_codeword": 28.6},
        "protocol": {"resize": 256, "crop": 192, "lpips": {"network": "alexnet"}, "rounding": "to nearest"},
        "histogram": counts,
        "images": 1,
        "notes": ["a <note> of the evaluation"],
        "best": [{"name": HOSTILE, "psnr": 30.5}],
    }
    (unfinished / "eval.json").write_text(json.dumps(evaluation))
    grids = [np.arange(16).reshape(4, 4), np.zeros((4, 4), np.int64)]
    original, other = picture_arrays()
    write_pictures(unfinished / "images", [original, other], [other, other], grids, [f"photos/{HOSTILE}", "b.png"], 64)
    return unfinished


def read(run_dir: Path) -> Page:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_report_asks_nothing_of_the_network(finished: Path) -> None:
    read(finished).assert_self_contained()


def test_the_report_shows_every_figure_with_its_protocol_and_notes(finished: Path) -> None:
    text = read(finished).text
    for part in ("24.87 dB", "± 3.12 dB", "12.345", "93.75%", "51.5 codewords", "97.00%", "28.60"):
        assert part in text
    for part in ("resize 256", "crop 192", "lpips.network alexnet", "rounding to nearest"):
        assert part in text
    assert "a <note> of the evaluation" in text
    assert "held-out tokens (T) 1,830" in text
    assert "below 30 tokens a codeword" in text  # T/K = 28.6
    assert "4 never do" in (finished / "report.html").read_text()


def test_the_report_says_what_was_trained_on_and_how_to_do_it_again(finished: Path) -> None:
    text = read(finished).text
    for part in (
        "VAEVQ tokenizer: my run",
        "photos, split by shoot",
        "training images 2",
        "vaevq train --data <mine>",
        "commit abc123",
        "quantizer.codebook_size 64",
        "--model '",  # the folder's name has a space
    ):
        assert part in text


def test_names_cannot_bring_markup_into_the_page(finished: Path) -> None:
    page = read(finished)
    source = (finished / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source
    assert page.text.count(HOSTILE) >= 2  # as text: in the captions and in the split
    assert all("onerror" not in attributes for _, attributes in page.tags)
    alts = [attributes["alt"] for attributes in page.all("img")]
    assert alts[0] == f"original of photos/{HOSTILE}"
    assert not any(re.search(r"[<>\"'&]", path.name) for path in (finished / "images").iterdir())


def test_every_picture_and_chart_has_a_text(finished: Path) -> None:
    page = read(finished)
    assert len(page.all("img")) == 2 * 4
    assert all(attributes["alt"] for attributes in page.all("img"))
    charts = page.all("svg")
    labels = [attributes["aria-label"] for attributes in charts]
    for start in ("PSNR, held-out", "codebook usage, held-out", "perplexity, held-out", "total", "rcs (weight 0.001)"):
        assert any(label and label.startswith(start) for label in labels), start
    assert any(label and "usage, training queries" in label for label in labels)


def test_charts_take_their_colours_from_the_page(finished: Path) -> None:
    read(finished)
    source = (finished / "report.html").read_text(encoding="utf-8")
    charts = "".join(re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", charts)) <= {"#ffffff", "#000000"}
    style = source[: source.index("</style>")]
    assert "prefers-color-scheme: dark" in style
    assert all(f"{variable}:" in style for variable in set(re.findall(r"var\((--\w+)\)", charts)))
    assert charts.count("<style") == 0  # it would hold for the whole page


def test_every_table_has_headings_and_every_section_one(finished: Path) -> None:
    page = read(finished)
    assert len(page.all("table")) == len(page.all("thead")) > 8
    heads = [attributes for attributes in page.all("th") if attributes.get("scope") == "col"]
    assert len(heads) >= 2 * len(page.all("table"))
    assert len(page.all("h2")) == len(page.all("section"))


def test_loss_terms_are_drawn_in_their_units(unfinished: Path) -> None:
    log = unfinished / "metrics.jsonl"
    config = RunConfig.model_validate(
        {"loss": {"pixel": "l1", "pixel_reduction": "image"}, "model": {"quantizer": {"kl_reduction": "element"}}}
    )
    (unfinished / "config.json").write_text(config.model_dump_json())
    terms = {"loss/pixel": 0.5, "loss/kl": 2.0, "loss/dcr": 3.0, "loss/perceptual": 0.4, "loss/rcs": 1.0}
    log.write_text(
        json.dumps({"images_seen": 100, "split": "train", "seconds": 1.0, "loss/total": 9.0, **terms}) + "\n"
    )
    said = " ".join(svg["aria-label"] or "" for svg in read(unfinished).all("svg"))
    for part in (
        *("In weighted sum.", "In |x̂ − x|, an image.", "In nats a dimension.", "In W₂², latent units²."),
        *("In LPIPS distance.", "In ½ (Δ/σ)², a position."),
    ):
        assert part in said, part


def test_a_report_is_the_same_every_time(finished: Path) -> None:
    first = write_report(finished).read_bytes()
    assert write_report(finished).read_bytes() == first


def test_a_run_that_is_not_finished_gets_a_report_that_says_so(unfinished: Path) -> None:
    text = read(unfinished).text
    assert "This run is not finished: 300 of 100,000 images are seen" in text
    assert "No pictures are in this run folder." in text
    assert "it continues from the last checkpoint: vaevq train --data <mine>" in text


def test_a_configuration_alone_makes_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(RunConfig().model_dump_json())
    assert "Nothing is logged yet." in read(tmp_path).text


def test_why_is_shown_with_its_charts_and_claims_where_it_was_measured(finished: Path) -> None:
    assert "Why: latents" not in read(finished).text, "an older run folder has nothing of it"
    diagnosis = {
        "images": 5,
        "probed": 4,
        "latents": {
            "posterior_variance": [0.5, 0.01],
            "posterior_kl": [1.5, 0.0],
            "mean_eigenvalues": [2.0, 0.5],
            "sample_eigenvalues": [2.5, 0.51],
            "codebook_eigenvalues": [1.0, 0.0],
        },
        "distortion": {"quantization_error_share": 0.125, "token_bits": 4.5},
        "hubs": {"hub_skewness": 2.25},
        "smoothness": {"random_gain": 3.5, "interpolation_gain": None},
        "stability": None,
        "overfitting": {"generalization_gap": 0.75},
        "gradients": [{"term": "pixel, quantized", "rms": 0.002, "share": 0.5, "along": None}],
    }
    (finished / "diagnosis.json").write_text(json.dumps(diagnosis))
    text, labels = read(finished).text, [svg["aria-label"] or "" for svg in read(finished).all("svg")]
    for part in ("random_gain smoothness 3.5", "generalization_gap overfitting +0.75 dB", "hub_skewness 2.25"):
        assert part in text
    assert "pixel, quantized 0.002 50.0% –" in text
    assert "interpolation_gain" not in text
    assert any("samples from 2.5 to 0.51; codebook from 1 to 0" in label for label in labels)
    assert any("12.5 % of the means' variance at 6.00 bits a position, 4.50 bits by" in label for label in labels)


def test_what_was_logged_of_the_diagnostics_is_drawn(unfinished: Path) -> None:
    sigma = {"sigma_q05": 0.01, "sigma_median": 0.25, "sigma_q95": 4.0, "sigma_mean": 1.0}
    rows = [
        {"images_seen": seen, "split": "diagnostics", **sigma, "mean_dimension": 2.0, "codebook_dimension": 3.0, **more}
        for seen, more in ((100, {"gradient/kl": 0.0, "gradient/total": 1e-3}), (200, {"changed_tokens": 0.25}))
    ]
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write("\n" + "\n".join(map(json.dumps, rows)))
    labels = [svg["aria-label"] or "" for svg in read(unfinished).all("svg")]
    assert any("Effective dimension. means: From 2 dimensions at 100" in label for label in labels)
    assert any("Changed tokens. changed tokens: From 25 %" in label for label in labels)
    assert any("Gradient of each term, RMS" in label and "total 0.001" in label for label in labels)
    assert any("Posterior deviation σ. Median: From 0.25 at 100 images seen" in label for label in labels)
    assert any("From 0.01 (5 %) to 4 (95 %) at the end." in label for label in labels)
    assert not any("Posterior variance" in label for label in labels), "it was not logged"


def test_a_comparison_is_shown_where_there_is_one(finished: Path) -> None:
    entries = [{"name": "plain <vq>", "figures": {"psnr": 21.5}}, {"name": "vaevq", "figures": {"usage": 0.5}}]
    (finished / "comparison.json").write_text(json.dumps(entries))
    text = read(finished).text
    assert "plain <vq> 21.50 dB –" in text
    assert "vaevq – 50.00%" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no config.json"),
        ("eval.json", "{", "eval.json: not valid JSON"),
        ("eval.json", '{"figures": 1}', "not the result of vaevq eval"),
        ("diagnosis.json", "[]", "diagnosis.json: no diagnosis"),
    ],
)
def test_no_run_folder_or_a_damaged_one_is_one_clear_line(
    unfinished: Path, name: str, content: str | None, message: str
) -> None:
    if content is None:
        (unfinished / name).unlink()
    else:
        (unfinished / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        write_report(unfinished)
    assert str(unfinished) in str(error.value)
    assert "\n" not in str(error.value)


def test_pictures_are_what_was_given_and_replace_those_of_before(tmp_path: Path) -> None:
    original, reconstruction = picture_arrays()
    grid = np.arange(16).reshape(4, 4)
    write_pictures(tmp_path / "images", [original], [reconstruction], [grid], ["old.png"], 64)
    write_pictures(tmp_path / "images", [original], [reconstruction], [grid], ["folder/new one.jpg"], 64)
    names = {path.name for path in (tmp_path / "images").iterdir()}
    parts = {f"00_new-one_{part}.png" for part in ("original", "reconstruction", "tokens", "error")}
    assert names == parts | {"reconstructions.png", "pictures.json"}
    assert (np.asarray(Image.open(tmp_path / "images" / "00_new-one_original.png")) == original).all()
    assert (np.asarray(Image.open(tmp_path / "images" / "00_new-one_reconstruction.png")) == reconstruction).all()
    (picture,) = read_pictures(tmp_path / "images")
    assert (picture.name, picture.grid, picture.distinct_tokens) == ("folder/new one.jpg", (4, 4), 16)
    error = np.mean((original.astype(float) - reconstruction) ** 2)
    assert picture.psnr == pytest.approx(10 * np.log10(255**2 / error))


@pytest.mark.parametrize(("channels", "size"), [(1, (32, 32)), (2, (64, 32)), (3, (32, 32)), (4, (128, 32))])
def test_two_and_four_channels_stand_side_by_side(channels: int, size: tuple[int, int]) -> None:
    array = picture_arrays(channels)[0]
    image = shown(array)
    assert image.size == size
    assert image.mode == ("RGB" if channels == 3 else "L")
    if channels in (2, 4):
        assert (np.asarray(image)[:, 32:64] == array[:, :, 1]).all()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_and_report_of_other_than_three_channels(unfinished: Path, channels: int) -> None:
    original, reconstruction = picture_arrays(channels)
    write_pictures(unfinished / "images", [original], [reconstruction], [np.zeros((4, 4), np.int64)], ["a.png"], 64)
    assert len(read(unfinished).all("img")) == 4


def test_a_token_map_covers_the_padded_image_and_is_cropped_like_it() -> None:
    tokens = np.array([[0, 1, 2], [3, 4, 5]])
    image = np.asarray(token_map(tokens, 13, 20))  # f = 8: padded to 16×24
    colours = token_colours(tokens)
    assert image.shape == (13, 20, 3)
    for y, x in [(0, 0), (7, 7), (7, 8), (8, 15), (12, 16), (12, 19)]:
        assert (image[y, x] == colours[y // 8, x // 8]).all()


def test_token_colours_tell_tokens_apart() -> None:
    colours = token_colours(np.arange(1024)).astype(float)
    assert len(np.unique(colours, axis=0)) > 1000
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 40  # consecutive tokens
    assert (token_colours(np.array([[5]])) == token_colours(np.arange(10))[5]).all()
    spread = colours.std(axis=0)
    assert spread.min() > 45  # of at most 127, the spread of pure black and white


def test_the_error_map_is_black_where_there_is_no_error() -> None:
    original = np.zeros((8, 8, 3), np.uint8)
    changed = original.copy()
    changed[:4] = 64
    error = np.asarray(error_map(original, changed)).sum(axis=2)
    assert (error[4:] < 10).all()
    assert (error[:4] > 600).all()


def test_what_never_changes_is_a_level_line_with_plain_numbers() -> None:
    chart = line_chart("usage", "%", [Line("a", [1, 2], [100.0, 100.0 - 1e-12])], "words")
    assert ">100<" in chart
    assert not re.search(r">\d+\.\d{4,}<", chart)


def test_a_chart_of_any_length_stays_small_and_knows_gaps() -> None:
    x = list(range(1, 20_001))
    assert len(line_chart("title", "dB", [Line("a", x, [1 / v for v in x])], "words", by_ratio=True)) < 40_000
    assert "words" in line_chart("title", "", [Line("a", [1, 2, 3], [1.0, float("nan"), 2.0])], "words")
    assert "words" in line_chart("title", "", [Line("a", [1], [float("nan")])], "words")


def test_a_large_codebook_makes_a_small_histogram() -> None:
    histogram = TokenHistogram(262_144)
    histogram.update((torch.rand(400_000, generator=torch.Generator().manual_seed(0)) ** 2 * 262_144).long())
    chart = histogram_chart(histogram.counts.tolist(), "words")
    assert len(chart) < 60_000
    assert "dead (shaded)" in chart


@pytest.fixture
def evaluated(unfinished: Path, tmp_path: Path) -> tuple[Path, Tokenizer, ImageIndex]:
    """A run folder with the evaluation of an untrained tokenizer on six images, the last of the coarsest grain."""
    photos = tmp_path / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for i in range(6):
        side = 40 >> (i // 2)
        grains = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        grains.resize((40, 40)).save(photos / f"{i}.png")
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(base_width=8, multipliers=(1, 1, 1), blocks=1)
    config = TokenizerConfig(autoencoder=autoencoder, quantizer=VariationalConfig(codebook_size=16))
    tokenizer, index = Tokenizer(config).eval(), find_images(str(photos))
    evaluation = evaluate(tokenizer, index, EVALUATION, device="cpu")
    (unfinished / "eval.json").write_text(json.dumps(evaluation.to_json()))
    return unfinished, tokenizer, index


EVALUATION = EvalConfig(resize=None, crop=None, metrics=("psnr", "ssim"))


def test_report_run_shows_what_the_tokenizer_gives_for_held_out_images(
    evaluated: tuple[Path, Tokenizer, ImageIndex],
) -> None:
    run_dir, tokenizer, index = evaluated
    path = report_run(run_dir, tokenizer, index, EVALUATION)
    assert path.exists()
    pictures = read_pictures(run_dir / "images")
    assert [(p.name, p.height, p.grid, p.codebook_size) for p in pictures] == [
        (f"{i}.png", 40, (10, 10), 16) for i in range(6)
    ]
    original = Image.open(run_dir / "images" / f"{pictures[0].stem}_original.png")
    assert (np.asarray(original) == np.asarray(Image.open(index[0].file))).all()


def test_the_worst_and_the_best_are_shown_with_their_figures(evaluated: tuple[Path, Tokenizer, ImageIndex]) -> None:
    run_dir, tokenizer, index = evaluated
    page = Page(report_run(run_dir, tokenizer, index, EVALUATION).read_text(encoding="utf-8"))
    figures = json.loads((run_dir / "eval.json").read_text())
    section = page.text[page.text.index("Of all 6 held-out images those with the worst and the best PSNR") :]
    worst, _, best = section[: section.index("How often each codeword")].partition("The best")
    for words, ranked in ((worst, figures["worst"]), (best, figures["best"])):
        captions = [f"PSNR {row['psnr']:.2f} dB · SSIM {row['ssim']:.4f}" for row in ranked[:EXTREMES]]
        places = [words.index(caption) for caption in captions]
        assert places == sorted(places)
        assert f"PSNR {ranked[EXTREMES]['psnr']:.2f} dB · SSIM" not in words
    alts = [attributes["alt"] for attributes in page.all("img")]
    assert alts.count(f"original of {figures['worst'][0]['name']}") == 2, "among the examples and among the worst"
    worst_file = next((run_dir / "images" / "worst").glob(f"*_{figures['worst'][0]['name'][0]}_original.png"))
    assert (
        np.asarray(Image.open(worst_file)) == np.asarray(Image.open(index.location + f"/{figures['worst'][0]['name']}"))
    ).all()


def test_the_plane_of_the_codebook_is_shown_where_the_evaluation_counted_it(
    evaluated: tuple[Path, Tokenizer, ImageIndex],
) -> None:
    run_dir, tokenizer, index = evaluated
    labels = [
        svg["aria-label"] or ""
        for svg in Page(report_run(run_dir, tokenizer, index, EVALUATION).read_text()).all("svg")
    ]
    assert any(label.startswith("Codewords in a plane that holds") for label in labels)
    tree = json.loads((run_dir / "eval.json").read_text())
    (run_dir / "eval.json").write_text(json.dumps({**tree, "histogram": [*tree["histogram"], 0]}))
    labels = [svg["aria-label"] or "" for svg in read(run_dir).all("svg")]
    assert not any("plane" in label for label in labels), "the counts are of another codebook"
