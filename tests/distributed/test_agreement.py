"""Processes that hold the same are told from those that do not; what is not finite on one is passed over by all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from generators import small_generator_run, write_tokens
from runs import largest_difference, on_two_processes, small_run, step, step_batches, tensors, trainer
from vaevq.data.token_set import token_batches
from vaevq.distributed import rank
from vaevq.errors import UserError
from vaevq.training.agreement import check_agreement, digest
from vaevq.training.engine import Engine
from vaevq.training.generator_loop import model_config, run_tokens
from vaevq.training.generator_step import GeneratorTrainer
from vaevq.training.nonfinite import NotFiniteError

CPU = torch.device("cpu")


def message(state: dict[str, object]) -> str:
    """What the comparison of a state of this process says; empty where it says nothing."""
    try:
        check_agreement(state, CPU, "at 8 images")
    except UserError as error:
        return str(error)
    return ""


def work(photos: Path, folder: Path) -> None:
    """What each of two processes does."""
    told: dict[str, str] = {}
    made = trainer(small_run(photos))
    first, second, third = step_batches(made.config, 3)
    step(made, first)
    told["same"] = message(made.state_dict())
    if rank() == 1:  # a machine with another codebook
        made.averaged.quantizer.codebook.embedding[3, 1] += 1e-6
    told["averaged codebook"] = message(made.state_dict())
    if rank() == 1:
        made.averaged.quantizer.codebook.embedding.copy_(
            made.averaged.quantizer.codebook.embedding[torch.arange(15, -1, -1)]
        )
    told["order"] = message({"codebook": torch.arange(4.0) if rank() else torch.tensor([1.0, 0.0, 2.0, 3.0])})
    told["several"] = message({name: torch.full((2,), float(rank())) for name in "abc"} | {"d": torch.ones(2)})
    told["shapes"] = message({"a": torch.zeros(2 + rank())})

    before = {name: tensor.clone() for name, tensor in tensors(made.state_dict()).items()}
    bad = [replace(batch, images=batch.images * torch.nan) for batch in second] if rank() == 1 else second
    try:
        step(made, bad)
    except NotFiniteError as error:
        told["not finite"] = str(error)
    assert largest_difference(tensors(made.state_dict()), before) == 0
    step(made, third)
    torch.save((told, tensors(made.state_dict())), folder / f"{rank()}.pt")


def work_generators(tokens: Path, folder: Path) -> None:
    """The same of a generator."""
    config = small_generator_run(tokens, network={"dropout": 0.0})
    given = run_tokens(config)
    made = GeneratorTrainer(config, model_config(config, given.train), Engine(CPU, torch.float32, None, rank(), 2))
    batches = token_batches(
        given.train, given.train_items, seed=3, start=0, stop=8, batch_size=4, rank=rank(), world_size=2
    )
    made.step([next(batches)])
    told = {"same": message(made.state_dict())}
    head = made.network.transformer.head
    assert isinstance(head, nn.Parameter | Tensor)
    with torch.no_grad():
        head[0, 0] += rank()
    told["one weight"] = message(made.state_dict())
    torch.save(told, folder / f"generator-{rank()}.pt")


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agreement")
    on_two_processes(work, photos, folder)
    on_two_processes(work_generators, write_tokens(folder / "t.safetensors"), folder)
    return folder


def test_what_differs_is_named_on_every_process(folder: Path) -> None:
    (told, first), (others, second) = (torch.load(folder / f"{number}.pt") for number in range(2))
    assert told == others
    assert told["same"] == ""
    assert told["averaged codebook"].startswith(
        "'average.quantizer.codebook.embedding' differs between process 0 and process 1 at 8 images; the last"
    )
    assert told["order"].startswith("'codebook' differs")
    assert told["several"].startswith("'a' and 2 more of 4 differs")
    assert told["shapes"].startswith("networks of the processes have different shapes at 8 images")
    assert "docs/scale.md" in told["order"]
    tokenizers = [
        {name: value for name, value in state.items() if name.startswith("tokenizer.")} for state in (first, second)
    ]
    assert largest_difference(*tokenizers) == 0, "the step that one process could not make was made by none"


def test_what_is_not_finite_on_one_process_is_passed_over_by_both(folder: Path) -> None:
    for number in range(2):
        told, _ = torch.load(folder / f"{number}.pt")
        assert told["not finite"] == "loss term 'pixel' is not finite in step 2 (after 4 images)"


def test_a_generators_weights_are_compared_likewise(folder: Path) -> None:
    for number in range(2):
        told = torch.load(folder / f"generator-{number}.pt")
        assert told["same"] == ""
        assert told["one weight"].startswith("'network.transformer.head' differs between process 0 and process 1")


def test_a_digest_is_of_every_bit_and_of_the_order() -> None:
    plain = torch.arange(12.0).view(3, 4)
    assert int(digest(plain)) == int(digest(plain.clone()))
    others = [plain.flip(0), plain.double(), -plain, plain.bfloat16(), torch.nextafter(plain, plain + 1)]
    assert int(digest(plain)) not in [int(digest(other)) for other in others]
    for odd in (torch.zeros(0, 3), torch.tensor(True), torch.tensor([1, 2]), torch.zeros(2, 0)):
        assert digest(odd).shape == ()
