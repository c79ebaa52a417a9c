"""Weight files: only arrays come out of them, and nothing of a hostile, damaged or wrong one is run or half loaded."""

import hashlib
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vaevq.errors import UserError
from vaevq.nn.weights import checksum, load_strictly, read_array_pickle, read_state_dict, save_weights

TREE = {"Net_0": {"Conv_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2)}}}


def written(folder: Path, content: bytes) -> Path:
    file = folder / "weights.ckpt"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("spelling", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_are_read_as_numpy_1_and_as_numpy_2_wrote_them(tmp_path: Path, spelling: bytes) -> None:
    content = re.sub(rb"numpy\._?core\.multiarray", spelling, pickle.dumps(TREE, protocol=3))
    assert spelling in content
    arrays = read_array_pickle(written(tmp_path, content))
    assert arrays.keys() == {"Net_0/Conv_0/kernel", "Net_0/Conv_0/bias"}
    np.testing.assert_array_equal(arrays["Net_0/Conv_0/kernel"], TREE["Net_0"]["Conv_0"]["kernel"])


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    file = written(tmp_path, pickle.dumps({**TREE, "more": Hostile(trace)}))
    with pytest.raises(UserError, match=r"weights\.ckpt: not a pickle of plain arrays: it asks for \w+\.mkdir"):
        read_array_pickle(file)
    assert not trace.exists()


@pytest.mark.parametrize("leaf", ["text", 1.5, [np.ones(2)], np.array([1, 2]), np.array([None, "x"])])
def test_pickle_of_other_things_than_float_arrays_is_refused(tmp_path: Path, leaf: object) -> None:
    with pytest.raises(UserError, match=r"weights\.ckpt: not a pickle of plain arrays: 'Net_0/x' is"):
        read_array_pickle(written(tmp_path, pickle.dumps({"Net_0": {"x": leaf}})))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_file_cut_short_anywhere_is_refused_in_one_line(tmp_path: Path, share: float) -> None:
    whole = pickle.dumps({"x": np.random.default_rng(0).normal(size=1000)}, protocol=3)
    file = written(tmp_path, whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"weights\.ckpt: ") as refusal:
        read_array_pickle(file)
    assert "\n" not in str(refusal.value)


def test_absent_file_is_named(tmp_path: Path) -> None:
    for read in (checksum, read_array_pickle, read_state_dict):
        with pytest.raises(UserError, match=r"absent\.ckpt: No such file"):
            read(tmp_path / "absent.ckpt")


def test_checksum_is_sha256(tmp_path: Path) -> None:
    assert checksum(written(tmp_path, b"weights")) == hashlib.sha256(b"weights").hexdigest()


def test_state_dict_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    file, trace = tmp_path / "weights.ckpt", tmp_path / "trace"
    contents = [{"a": 1}, [torch.ones(1)], {"a": Hostile(trace)}, nn.Linear(1, 1)]
    for content in contents:
        torch.save(content, file)
        with pytest.raises(UserError, match=r"weights\.ckpt: no state dict of tensors") as refusal:
            read_state_dict(file)
        assert "\n" not in str(refusal.value)
    assert not trace.exists()
    torch.save({"a": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_state_dict(file)


def test_every_name_and_shape_must_agree() -> None:
    file = Path("weights.pth")
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {name: torch.full_like(value, 2) for name, value in network.state_dict().items()}
    without_counter = {name: value for name, value in state.items() if "num_batches" not in name}
    for given in (state, without_counter):  # files of before 2018 have no counters
        load_strictly(network, given, file, "a net")
        assert all((p == 2).all() for p in network.parameters())
        assert network[1].num_batches_tracked == 0
    wrong = {
        "'0.bias' is missing": {name: v for name, v in state.items() if name != "0.bias"},
        "'9.bias' is too much": {**state, "9.bias": torch.ones(1)},
        r"'1.weight' has shape \(5,\), not \(4,\)": {**state, "1.weight": torch.ones(5)},
    }
    for message, given in wrong.items():
        with pytest.raises(UserError, match=rf"weights\.pth: not the weights of a net: {message}"):
            load_strictly(network, given, file, "a net")


def test_weights_are_readable_by_whom_other_files_are(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", {"a": torch.ones(2)})
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode
