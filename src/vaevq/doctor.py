"""Whether everything works here: versions, devices, what is in the cache, and a tiny tokenizer trained and used."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch

import vaevq
from vaevq.config import TokenizerConfig
from vaevq.data.sources import SOURCES, cache_dir, is_fetched, source_folder
from vaevq.errors import UserError
from vaevq.tokenizer import Tokenizer
from vaevq.training.engine import choose_device


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: what it belongs to.
        name: of it.
        value: what was found.
        broken: whether something does not work.
    """

    section: str
    name: str
    value: str
    broken: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """All that was found."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What does not work."""
        return tuple(finding for finding in self.findings if finding.broken)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"ok": not self.broken, "findings": [asdict(finding) for finding in self.findings]}


def examine(device: str) -> Diagnosis:
    """Looks at everything; what cannot be had is a finding, not an error. Takes seconds, fetches nothing."""
    return Diagnosis((*_versions(), *_devices(), *_cache(), *_self_test(device)))


def _versions() -> list[Finding]:
    found = [Finding("versions", "vaevq", vaevq.__version__), Finding("versions", "python", platform.python_version())]
    found.append(Finding("versions", "platform", platform.platform()))
    for requirement in requires("vaevq") or []:
        needed, _, marker = requirement.partition(";")
        name = needed.split("[")[0].split("<")[0].split(">")[0].split("=")[0].split("!")[0].split("~")[0].strip()
        if "extra ==" not in marker:
            found.append(_version("versions", name, needed.strip(), is_needed=True))
        elif name != "vaevq" and not any(f'"{group}"' in marker.replace("'", '"') for group in ("dev", "benchmarks")):
            group = marker.replace("'", '"').split('"')[1]
            found.append(_version(f"extra {group}", name, needed.strip(), is_needed=False))
    return found


def _version(section: str, name: str, requirement: str, *, is_needed: bool) -> Finding:
    try:
        there = version(name)
    except PackageNotFoundError:
        return Finding(section, name, f"not there, {requirement} is needed", is_needed)
    return Finding(section, name, there)


def _devices() -> list[Finding]:
    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    return [
        Finding("devices", "accelerators", ", ".join(names) or "none"),
        Finding("devices", "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        Finding("devices", "device: auto", str(choose_device("auto"))),
    ]


def _cache() -> list[Finding]:
    folder = cache_dir()
    above = next(place for place in (folder, *folder.parents) if place.exists())
    can_write = above.is_dir() and os.access(above, os.W_OK)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    where = f"{folder}, {size / 1e6:.1f} MB" + ("" if can_write else ": cannot be written; set VAEVQ_CACHE")
    found = [Finding("cache", "folder", where, not can_write)]
    for name, source in SOURCES.items():
        there = f"there, in {source_folder(name)}"
        absent = f"not fetched yet, {source.size / 1e6:.0f} MB"
        found.append(Finding("cache", name, there if is_fetched(name) else absent))
    return found


def _self_test(device: str) -> list[Finding]:
    """A tiny tokenizer: made, trained, saved, loaded, used."""
    try:
        place = choose_device(device)
    except UserError as error:
        return [Finding("self-test", "device", str(error), broken=True)]
    with tempfile.TemporaryDirectory(prefix="vaevq-doctor-") as folder:
        test = _SelfTest(place, Path(folder))
        steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("train", test.train),
            ("save and load", test.save_and_load),
            ("encode and decode", test.encode_and_decode),
        )
        found = list[Finding]()
        for name, step in steps:
            start = time.perf_counter()
            try:
                said = step()
            except Exception as error:  # whatever it is, it is what the user wants to know
                reason = str(error).splitlines()[0] if str(error) else "no reason given"
                return [*found, Finding("self-test", name, f"{type(error).__name__}: {reason}", broken=True)]
            found.append(Finding("self-test", name, f"{said}, {time.perf_counter() - start:.1f} s on {place}"))
        return found


class _SelfTest:
    """The steps of the self-test, one after another."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device, self.folder = device, folder
        networks = {"base_width": 8, "multipliers": (1, 2), "blocks": 1}
        tree = {"autoencoder": networks, "quantizer": {"code_dim": 4, "codebook_size": 16}}
        self.config = TokenizerConfig.model_validate(tree)
        # Stripes of four brightnesses: something that a few steps bring a tokenizer nearer to.
        rows = torch.linspace(-0.8, 0.8, 4).repeat_interleave(4)
        self.images = rows.view(1, 1, 16, 1).expand(4, 3, 16, 16).contiguous().to(device)

    def train(self) -> str:
        """Twenty steps; the squared error has to fall."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.tokenizer = Tokenizer(self.config).to(self.device).train()
            errors = list[float]()
            for _ in range(20):
                output = self.tokenizer(self.images)
                error = (output.reconstruction - self.images).square().mean()
                self.tokenizer.zero_grad()
                error.backward()
                with torch.no_grad():  # torch's optimizers load a compiler first: ten times the rest
                    for parameter in self.tokenizer.parameters():
                        if parameter.grad is not None:
                            parameter.sub_(0.02 * parameter.grad)
                self.tokenizer.quantizer.finish_step()
                errors.append(float(error.detach()))
        if not errors[-1] < errors[0]:
            raise RuntimeError(f"the error did not fall: {errors[0]:.3g} before, {errors[-1]:.3g} after 20 steps")
        return f"error {errors[0]:.3g} → {errors[-1]:.3g} in 20 steps"

    def save_and_load(self) -> str:
        """Through the disk; the digest has to stay."""
        self.tokenizer.eval().save_pretrained(self.folder / "model")
        loaded = Tokenizer.from_pretrained(self.folder / "model").to(self.device)
        if loaded.digest != self.tokenizer.digest:
            raise RuntimeError("a saved model is another one when it is loaded")
        self.tokenizer = loaded
        return f"model {loaded.digest}"

    @torch.no_grad()
    def encode_and_decode(self) -> str:
        """Tokens and back have to be what one pass reconstructs."""
        tokens = self.tokenizer.encode(self.images)
        decoded = self.tokenizer.decode(tokens, (16, 16))
        difference = float((decoded - self.tokenizer(self.images).reconstruction).abs().max())
        if not difference <= 1e-4:
            raise RuntimeError(f"decoded tokens differ from the reconstruction by {difference:.2g}")
        return f"{tokens.numel()} tokens"
