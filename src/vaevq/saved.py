"""Models that stand in a folder or on a hub, and come back from there: what tokenizer and generator share."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vaevq.card import PAGE, edited_pages
from vaevq.config.section import Section
from vaevq.errors import UserError
from vaevq.files import folder_aside, write_json, write_text
from vaevq.nn.weights import check_extent, save_weights

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MODEL_FILES = (WEIGHTS_FILE, CONFIG_FILE)


class SavedModel(nn.Module, PyTorchModelHubMixin, library_name="vaevq", repo_url="https://arxiv.org/abs/2511.06863"):
    """A network that its configuration and its weights bring back.

    Attributes:
        config: what it takes to build it again, the constructor's first argument.
        origin: the folder that it was loaded from, if it was; what lies beside it there goes into the model card.
    """

    config: Section
    origin: Path | None = None

    def renew_page(self, folder: Path) -> None:
        """Writes the page in a run's model folder with what lies in that run now, unless it is somebody's own.

        Raises:
            UserError: it cannot be written.
        """
        self.origin = folder
        if not edited_pages(folder):
            write_text(folder / PAGE, str(self.generate_model_card()))

    def save_pretrained(self, save_directory: str | Path, **hub_options: Any) -> str | None:
        """Writes a model folder, each file whole or not at all. What stood there is replaced, but an edited README.md.

        Args:
            save_directory: the folder; made if absent.
            hub_options: as `huggingface_hub.ModelHubMixin.save_pretrained` takes them (`push_to_hub`, `repo_id`, ...).

        Raises:
            UserError: it cannot be written.
        """
        folder = Path(save_directory)
        if hub_options.get("push_to_hub"):
            hub_options = {"repo_id": folder.name, **hub_options}
        # huggingface_hub begins with removing config.json: a kill after that would leave a folder that is no model.
        with folder_aside(folder, keep=edited_pages(folder)) as aside:
            return super().save_pretrained(aside, **hub_options)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes model.safetensors and config.json, each whole or not at all."""
        save_weights(save_directory / WEIGHTS_FILE, self.state_dict())
        write_json(save_directory / CONFIG_FILE, self.config.model_dump(mode="json"))

    @classmethod
    def _of_folder(cls, folder: Path, config: Section, extent: tuple[int, int]) -> Self:
        """The model of a folder in evaluation mode.

        Args:
            folder: with its weights.
            config: what stands beside them.
            extent: how many layers that describes, and numbers that the largest of their tensors has at least.

        Raises:
            UserError: the weights are damaged, or not of the configuration.
        """
        path = folder / WEIGHTS_FILE
        check_extent(path, lambda: cls(config), *extent)
        model = cls(config)
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: damaged, or no safetensors file ({error})") from None
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            first = textwrap.shorten(first, 300, placeholder=" …")
            raise UserError(f"{path}: weights do not belong to {folder / CONFIG_FILE}: {first}") from None
        model.origin = folder
        return model.eval()


def hub_folder(name: str, files: Sequence[str], hub_options: dict[str, Any]) -> Path:
    """Where the hub puts the files of a model.

    Args:
        name: `owner/name`.
        files: those that are wanted.
        hub_options: what `huggingface_hub.snapshot_download` takes.

    Raises:
        UserError: there is none of that name, or no way to it.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(files), **hub_options))
    except HFValidationError:
        raise UserError(f"{name}: no such folder, and no hub name (owner/name)") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name}: no such folder, and the hub does not give it ({reason})") from None
