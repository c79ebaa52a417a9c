"""Models on a hub: what is pushed, and the page that says what it is. The hub is a stand-in: nothing leaves."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from test_tokenizer import QUANTIZERS, tokenizer

from generators import write_generator
from vaevq import Generator, Tokenizer, __version__
from vaevq.card import weights_checksum


@dataclass
class FakeHub:
    """Keeps what is uploaded in a folder of its own."""

    root: Path
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, token: str | None = None) -> "FakeHub":
        return self

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        shutil.copytree(folder_path, self.root / repo_id)
        self.calls.append(options)
        return f"https://hub/{repo_id}"

    def download(self, name: str, *, allow_patterns: list[str], **options: Any) -> str:
        kept = self.root / "downloaded" / name
        kept.mkdir(parents=True)
        for file in (self.root / name).iterdir():
            if file.name in allow_patterns:
                shutil.copy(file, kept)
        return str(kept)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    made = FakeHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", made)
    monkeypatch.setattr("vaevq.saved.snapshot_download", made.download)
    return made


def test_what_is_pushed_comes_back_as_it_was(finished: Path, hub: FakeHub) -> None:
    saved = Tokenizer.from_pretrained(finished)
    url = saved.push_to_hub("someone/photos", commit_message="first", private=True, token="t")
    assert url == "https://hub/someone/photos"
    assert hub.calls[0]["commit_message"] == "first"
    names = {file.name for file in (hub.root / "someone/photos").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md", "lineage.json"} & names | {"README.md"}
    assert {"model.safetensors", "config.json"} <= names
    loaded = Tokenizer.from_pretrained("someone/photos")
    assert loaded.digest == saved.digest
    images = torch.rand(1, 3, 9, 12) * 2 - 1
    assert torch.equal(loaded.encode(images), saved.encode(images))


def test_the_card_of_a_run_says_what_was_measured_and_how_it_was_trained(finished: Path, hub: FakeHub) -> None:
    Tokenizer.from_pretrained(finished).push_to_hub("someone/photos")
    card = (hub.root / "someone/photos/README.md").read_text()
    evaluation = json.loads((finished / "eval.json").read_text())
    environment = json.loads((finished / "environment.json").read_text())
    assert card.startswith("---\nlibrary_name: vaevq\n") or "library_name: vaevq" in card.split("---")[1]
    for line in (
        "| codebook_size (K) | 16 |",
        "| code_dim (d) | 4 |",
        "| downsample_factor (f) | 2 |",
        "| bits a pixel | 1 |",
        f"| model digest | `{Tokenizer.from_pretrained(finished).digest}` |",
        f"| `psnr` | {evaluation['figures']['psnr']:.4g} |",
        f"| `usage` | {evaluation['figures']['usage']:.4g} |",
        f"Of {evaluation['images']} images, encoded deterministically:",
        "| seed | 3 |",
        "| images seen | 20 |",
        f"| command | `{environment['command']}` |",
        f"| vaevq | {__version__} |",
        "## Limits",
    ):
        assert line in card.splitlines(), line
    data = json.loads((finished / "config.json").read_text())["data"]["train"]
    assert f"| data | `{Path(data).name}` |" in card.splitlines(), "not the whole path, which is nobody's business"


def test_the_card_gives_no_figures_of_other_weights(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    evaluation = json.loads((run / "eval.json").read_text())
    evaluation["protocol"]["model_digest"] = "another"
    (run / "eval.json").write_text(json.dumps(evaluation))
    Tokenizer.from_pretrained(run).save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved/README.md").read_text()
    assert "of other weights" in card
    assert "`psnr`" not in card


@pytest.mark.parametrize("content", [None, "{", "[]", '{"figures": 3}'])
def test_the_card_of_a_model_alone_says_what_is_not_known(content: str | None, tmp_path: Path) -> None:
    several = tokenizer(QUANTIZERS[-3])
    several.save_pretrained(tmp_path / "model")
    if content is not None:
        (tmp_path / "eval.json").write_text(content)
    (tmp_path / "model/README.md").unlink()
    Tokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    card = (tmp_path / "again/README.md").read_text()
    assert "None lie beside the model" in card
    assert "there is no run beside the model" in card


def test_the_card_of_a_finished_run_has_its_figures(finished: Path) -> None:
    card = (finished / "model/README.md").read_text()
    evaluation = json.loads((finished / "eval.json").read_text())
    assert f"| `psnr` | {evaluation['figures']['psnr']:.4g} |" in card.splitlines()
    assert "| images seen | 20 |" in card.splitlines()


def test_a_card_is_renewed_until_somebody_edits_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tokenizer(QUANTIZERS[0]).save_pretrained(folder)
    first = (folder / "README.md").read_text()
    second = tokenizer(QUANTIZERS[-3])
    second.save_pretrained(folder)
    renewed = (folder / "README.md").read_text()
    assert first != renewed
    assert second.digest in renewed
    mine = "\n".join(line for line in renewed.splitlines() if not line.startswith("<!-- Written by vaevq")) + "Mine."
    (folder / "README.md").write_text(mine)
    tokenizer(QUANTIZERS[0]).save_pretrained(folder)
    second.renew_page(folder)
    assert (folder / "README.md").read_text() == mine


def test_the_card_of_a_generator_says_what_it_makes_and_how_well_it_predicts(finished: Path, tmp_path: Path) -> None:
    write_generator(finished, tmp_path / "run")
    for weights in ("of others", weights_checksum(tmp_path / "run/model")):
        (tmp_path / "run/eval.json").write_text(json.dumps({"figures": {"bits_per_token": 3.25}, "weights": weights}))
        Generator.from_pretrained(tmp_path / "run").renew_page(tmp_path / "run/model")
        assert ("3.25" in (tmp_path / "run/model/README.md").read_text()) == (weights != "of others")
    generator = Generator.from_pretrained(tmp_path / "run")
    generator.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved/README.md").read_text().splitlines()
    for line in (
        "# An image generator, ar",
        "| tokens an image | 8×8×1 |",
        "| classes | 10 |",
        f"| tokenizer digest | `{Tokenizer.from_pretrained(finished).digest}` |",
        "| `bits_per_token` | 3.25 |",
        'generator = vaevq.Generator.from_pretrained("OWNER/NAME")',
    ):
        assert line in card, line
