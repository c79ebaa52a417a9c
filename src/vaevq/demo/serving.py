"""What the tabs share: the models, the photo, and how a function answers a visitor."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import torch
from gradio.context import LocalContext

from vaevq.demo.limits import Limits, Rate
from vaevq.demo.models import Models
from vaevq.demo.photo import Photo
from vaevq.errors import UserError

KEPT_SECONDS = 3600
"""Uploaded files and photos are deleted after so long."""

PRIVATE = {"api_visibility": "private"}
"""Of events that are none of the page's programming interface."""


@dataclass(frozen=True)
class Page:
    """What a tab is built from.

    Attributes:
        models: what is shown.
        limits: what a visitor may ask for.
        rate: counts what he asks.
        photo: the state that holds the visitor's `Photo`, None before there is one.
        arrivals: what tabs do with a new photo, by `on_photo`.
    """

    models: Models
    limits: Limits
    rate: Rate
    photo: gr.State
    arrivals: list[tuple[Callable[..., Any], Sequence[Any]]] = field(default_factory=list)

    def on_photo(self, function: Callable[[Photo], Any], outputs: Sequence[Any]) -> None:
        """Calls the function with every new photo, in the order of the tabs; what it returns goes to the outputs."""
        self.arrivals.append((function, outputs))

    def answer(self, function: Callable[..., Any], *, counted: bool = True) -> Callable[..., Any]:
        """The function as an event calls it: counted unless it is cheap, no gradients, a UserError as one message."""

        @functools.wraps(function)
        def answered(*arguments: Any) -> Any:
            try:
                if counted:
                    self.rate.count(_address())
                with torch.inference_mode():
                    return function(*arguments)
            except UserError as error:
                raise one_message(error) from None

        return answered


def there(photo: Photo | None) -> Photo:
    """The photo. UserError where a visitor has not dropped one, or so long ago that it has been let go."""
    if photo is None:
        raise UserError("drop a photo first")
    return photo


def whole(value: float | None, what: str) -> int:
    """What a field for a whole number holds. UserError where it is empty."""
    if value is None:
        raise UserError(f"{what}: a whole number, please")
    return int(value)


def one_message(error: UserError) -> gr.Error:
    """The error for the page, in which a file's name is no markup."""
    text = str(error).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return gr.Error(text, print_exception=False)


def _address() -> str:
    request = LocalContext.request.get(None)
    client = getattr(request, "client", None)
    return str(getattr(client, "host", "unknown"))
