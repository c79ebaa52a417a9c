"""What a training run says while it runs: metrics.jsonl, log.txt, TensorBoard, W&B and the display in the terminal."""

import importlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from vaevq.errors import UserError
from vaevq.files import make_folder, write_text
from vaevq.training.display import Pace, choose_display, printable, queries_label

Split = Literal["train", "held_out", "diagnostics"]


class Tracker:
    """A run's log and display; used as a context manager, by the process that writes files.

    Args:
        run_dir: where metrics.jsonl, log.txt and tensorboard/ go; made if absent.
        total_images: images seen at the end of the run.
        start_images: images seen at the checkpoint that the run continues from, 0 for a new run. Metrics of later
            ones are dropped: the continued run writes them again.
        tensorboard: writes run_dir/tensorboard.
        wandb: logs to Weights & Biases.
        run_config: the run's configuration as JSON data.
        quiet: prints nothing; the files are written all the same.
        enabled: False on the processes that write no files: every method does nothing.

    Raises:
        UserError: on entering, where W&B is asked for and not installed, or metrics.jsonl cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        total_images: int,
        start_images: int,
        tensorboard: bool,
        wandb: bool,
        run_config: Mapping[str, Any],
        quiet: bool = False,
        enabled: bool = True,
    ) -> None:
        self.run_dir, self.enabled = run_dir, enabled
        self._start_images, self._run_config = start_images, run_config
        self._use_tensorboard, self._use_wandb = tensorboard, wandb
        self._pace = Pace(total_images, start_images)
        self._display = choose_display(self._pace, queries_label(run_config), quiet)
        self._tensorboard: Any = None
        self._wandb: Any = None

    def __enter__(self) -> Self:
        if not self.enabled:
            return self
        make_folder(self.run_dir)
        if self._use_wandb:
            self._wandb = _open_wandb(self.run_dir, self._run_config)
        metrics = self.run_dir / "metrics.jsonl"
        self._earlier_seconds = drop_metrics_after(metrics, self._start_images)
        self._metrics = metrics.open("a", encoding="utf-8")
        self._log = (self.run_dir / "log.txt").open("a", encoding="utf-8")
        if self._use_tensorboard:
            self._tensorboard = _open_tensorboard(self.run_dir / "tensorboard", self._start_images)
        self._pace.start()
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.enabled:
            return
        self._display.stop()
        with self._writing() if error is None else suppress(OSError):  # a full disk has been told of
            self._metrics.close()
            self._log.close()
            if self._tensorboard is not None:
                self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)

    def progress(self, images_seen: int) -> None:
        """Moves the progress bar; cheap enough for every step."""
        if self.enabled:
            self._pace.reach(images_seen)

    def train(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Logs a training interval: `loss/…`, `codebook/…` of the training queries, and others by any name."""
        if not self.enabled:
            return
        self._pace.reach(images_seen)
        self._write("train", images_seen, {**values, "images_per_second": self._pace.images_per_second})
        self._display.train(values)

    def held_out(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Logs an evaluation; the time since the last progress is taken as its own, not as training's."""
        if not self.enabled:
            return
        self._pace.skip_pause()
        self._write("held_out", images_seen, values)
        self._display.held_out(images_seen, values)

    def diagnostics(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Logs why the held-out figures are as they are; too much for the display. Its time is no time of training."""
        if not self.enabled:
            return
        self._pace.skip_pause()
        self._write("diagnostics", images_seen, values)

    def message(self, text: str) -> None:
        """Prints a line above the display and appends it to log.txt with the time."""
        if not self.enabled:
            return
        text = printable(text)
        with self._writing():
            self._log.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {text}\n")
            self._log.flush()
        self._display.message(text)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What fails in here is the log; the run stops with it, and can be continued."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.run_dir}: the log could not be written ({error.strerror or error}); the last checkpoint is "
                "kept: make room, and the same command goes on from there"
            ) from None

    def _write(self, split: Split, images_seen: int, values: Mapping[str, float]) -> None:
        seconds = round(self._earlier_seconds + self._pace.elapsed, 3)
        # JSON knows no NaN and no infinity (the PSNR of equal images): null, which readers take as a gap.
        numbers = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"images_seen": images_seen, "split": split, "seconds": seconds, **numbers})
        tags = {name if "/" in name else f"{split}/{name}": value for name, value in values.items()}
        with self._writing():
            self._metrics.write(line + "\n")
            self._metrics.flush()
            if self._tensorboard is not None:
                for tag, value in tags.items():
                    self._tensorboard.add_scalar(tag, value, images_seen)
        if self._wandb is not None:
            self._wandb.log({"images_seen": images_seen, **tags})


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, in order; empty where there is no file.

    A line that is no JSON object is left out: a kill can tear the last one. A value that was not finite is None.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for line in lines if (row := _parse(line)) is not None]


def drop_metrics_after(path: Path, images_seen: int) -> float:
    """Takes the lines of later images out of a metrics.jsonl, whole or not at all; all of them for 0 images seen.

    Returns:
        The seconds that the run had taken at the last line kept.
    """
    rows = [row for row in read_metrics(path) if 0 < images_seen >= row["images_seen"]]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.exists() and path.read_bytes() != text.encode():
        write_text(path, text)
    return float(rows[-1]["seconds"]) if rows else 0.0


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("images_seen"), int) else None


def _open_tensorboard(folder: Path, start_images: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Steps from purge_step on, of a part of the run that is done again, are hidden.
    return SummaryWriter(str(folder), purge_step=start_images + 1)


def _open_wandb(run_dir: Path, run_config: Mapping[str, Any]) -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise UserError(
            'train.wandb: Weights & Biases is not installed; pip install "vaevq[wandb]", or set train.wandb=false'
        ) from None
    id_file = run_dir / "wandb_id.txt"  # a continued run is one run there too
    if not id_file.exists():
        write_text(id_file, uuid.uuid4().hex[:12])
    try:
        run = wandb.init(
            project="vaevq",
            name=run_dir.name,
            dir=str(run_dir),
            id=id_file.read_text().strip(),
            resume="allow",
            config=dict(run_config),
        )
    except wandb.Error as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"train.wandb: {reason}; set WANDB_MODE=offline, or train.wandb=false") from None
    run.define_metric("*", step_metric="images_seen")
    return run
