"""What a run folder holds, read for its report; whatever is not there yet is empty."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vaevq.errors import UserError
from vaevq.metrics.result import Evaluation
from vaevq.report.pictures import Picture, read_pictures
from vaevq.report.projection import Projection, read_projection
from vaevq.training.tracking import read_metrics

ENDS = ("worst", "best")
"""The folders below images/ of the images at either end of the ranking."""


@dataclass(frozen=True)
class RunFolder:
    """A run's files as plain data, so that a report can be made of a run of another version too.

    Attributes:
        path: the folder.
        config, environment, split: config.json, environment.json and split.json.
        metrics: the lines of metrics.jsonl.
        evaluation: eval.json; None where the run has not got that far.
        diagnosis: diagnosis.json; empty where there is none.
        pictures: of its images folder.
        extremes: the pictures of the `worst` and the `best` held-out images, in its images folder.
        projection: projection.safetensors; None where there is none.
        comparison: comparison.json, a list of `{"name": …, "figures": {…}}`.
    """

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    split: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    evaluation: Evaluation | None
    diagnosis: Mapping[str, Any]
    pictures: list[Picture]
    extremes: Mapping[str, list[Picture]]
    projection: Projection | None
    comparison: list[Mapping[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a run folder.

        Raises:
            UserError: it has no config.json, or a file is damaged.
        """
        if not (path / "config.json").exists():
            raise UserError(f"{path}: no config.json, so this is no run folder of vaevq train")
        evaluation, diagnosis = _json(path / "eval.json", None), _json(path / "diagnosis.json", {})
        if not isinstance(diagnosis, Mapping):
            raise UserError(f"{path / 'diagnosis.json'}: no diagnosis; delete it, or run the same command again")
        return cls(
            path=path,
            config=_json(path / "config.json", {}),
            environment=_json(path / "environment.json", {}),
            split=_json(path / "split.json", {}),
            metrics=read_metrics(path / "metrics.jsonl"),
            evaluation=Evaluation.from_json(evaluation, str(path / "eval.json")) if evaluation else None,
            diagnosis=diagnosis,
            pictures=read_pictures(path / "images"),
            extremes={end: read_pictures(path / "images" / end) for end in ENDS},
            projection=read_projection(path),
            comparison=_json(path / "comparison.json", []),
        )

    def setting(self, dotted: str, default: Any = None) -> Any:
        """A value of the configuration, or `default` where this run's has no such field."""
        tree: Any = self.config
        for key in dotted.split("."):
            if not isinstance(tree, Mapping) or key not in tree:
                return default
            tree = tree[key]
        return tree

    @property
    def codebook_size(self) -> Any:
        """K, where the run searched for it as far as it was found; None where the configuration has no such field."""
        if self.evaluation is not None:
            return len(self.evaluation.histogram) // self.evaluation.protocol.get("codebooks", 1)
        found = [row["codebook/size"] for row in self.metrics if row.get("codebook/size")]
        return int(found[-1]) if found else self.setting("model.quantizer.codebook_size")

    @property
    def codes_per_position(self) -> int:
        """q."""
        codes: int = self.setting("model.quantizer.codes_per_position", 1)
        return codes

    def rows(self, split: str) -> list[dict[str, Any]]:
        """The metrics of one split: `train`, `held_out` or `diagnostics`."""
        return [row for row in self.metrics if row.get("split") == split]

    @property
    def images_seen(self) -> int:
        """How far training has come."""
        return int(self.metrics[-1]["images_seen"]) if self.metrics else 0

    @property
    def seconds(self) -> float:
        """How long training has taken, evaluations on the way and all sittings included."""
        return float(self.metrics[-1].get("seconds", 0.0)) if self.metrics else 0.0


def _json(path: Path, absent: Any) -> Any:
    if not path.exists():
        return absent
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: not valid JSON; delete it, or run the same command again to write it anew") from None
