"""`studio caption`: captions for a folder of pictures, as text files beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError

from studio import caption_kinds
from studio.commands.form import parse
from studio.flags import value_of
from studio.mistakes import explain
from studio.pipelines.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Options:
    """Caption a folder of pictures: a .txt beside each, as training reads them; captions that are there are kept.

    With --trigger sks --class-word dog, "a dog on a beach" becomes "a sks dog on a beach", and "a beach", which names
    no dog, "a photo of sks dog, a beach". Words in a kohya folder's name (10_sks dog) go before these.

    A caption in metadata.jsonl or metadata.csv is what training reads, and is left as it is.
    """

    where: tyro.conf.Positional[str] = ""
    """Folder of pictures, or one picture."""
    captioner: str = "florence2"
    trigger: str = ""
    """The word that calls the subject; '{trigger}' leaves the place open for `studio train --trigger`."""
    class_word: str = ""
    """What the subject is, in one noun, such as dog."""
    style: Literal["plain", "comprehensive"] = "plain"
    """plain: what is there, shortly; comprehensive: all that can be told, as DCO wants it."""
    prefix: str = ""
    """Put before every caption; {trigger} and {class_word} are filled."""
    suffix: str = ""
    """Put after every caption, such as ', in sks style'."""
    recursive: bool = True
    """Subfolders too, as training reads them."""
    background: str = "white"
    """Colour behind transparent pictures, by name or #rrggbb."""
    force: bool = False
    """Make captions anew that are there; a zip in the folder keeps the old ones."""
    dry_run: bool = False
    """Show what would be written, and write nothing."""
    json: bool = False
    """One JSON object per picture, and a summary, on stdout."""


def main(args: list[str]) -> int:
    """Runs `studio caption ARGS`; DataError where no picture could be captioned."""
    options, module = read(args)
    wish, config = wishes(options), settings(options, module)
    from studio.caption import Captioning
    from studio.caption_show import run
    from studio.precision import preferred

    captioner = module.build(config, *preferred())
    doubt = {"doubt": module.doubt} if hasattr(module, "doubt") else {}
    run(Captioning(Path(options.where), captioner, wish, **doubt, batch=config.batch), as_json=options.json)
    return 0


def read(args: Sequence[str]) -> tuple[Any, ModuleType]:
    """The options, with the captioner's own, and its module. UsageError for what is wrong with them."""
    name = value_of("--captioner", list(args)) or "florence2"
    module = caption_kinds.load(name)
    options = parse(form(module), args, "caption", description=flowing(Options.__doc__ or ""))
    if not options.where:
        raise UsageError("caption needs a folder of pictures; see studio caption --help")
    if options.class_word.strip() and not options.trigger.strip():
        raise UsageError(
            "--class-word needs --trigger beside it: a word such as sks, or '{trigger}' to leave its place open"
        )
    return options, module


def wishes(options: Any) -> Any:
    """How the captions shall be. UsageError for a colour that there is not."""
    from studio.caption_wish import Wish
    from studio.pipelines.data_pictures import Pictures

    try:
        Pictures(background=options.background)
    except ValidationError as error:
        raise UsageError(f"--{explain(error, Pictures, Pictures, '')}") from None
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Wish)}
    return Wish(**values | {name: " ".join(values[name].split()) for name in ("trigger", "class_word")})


def settings(options: Any, module: ModuleType) -> Any:
    """The captioner's own settings. UsageError for one out of bounds."""
    try:
        return module.Config(**{name: getattr(options, name) for name in module.Config.model_fields})
    except ValidationError as error:
        raise UsageError(f"--{explain(error, module.Config, module.Config, '').replace('_', '-', 1)}") from None


def form(module: ModuleType) -> Any:
    """A dataclass for tyro: the options, then the captioner's own settings."""
    fields: list[tuple[str, Any, Any]] = []
    own = {field.name for field in dataclasses.fields(Options)}
    for name, setting in module.Config.model_fields.items():
        if name not in own:
            default = dataclasses.field(default=setting.default)
            fields.append((name, Annotated[(setting.annotation, tyro.conf.arg(help=setting.description))], default))
    words = ", ".join(caption_kinds.names())
    default = dataclasses.field(default="florence2")
    help_ = f"Who looks: {words} (offline, for pictures of the embedded world only: embedded); adds settings of its own"
    fields.append(("captioner", Annotated[str, tyro.conf.arg(help=help_)], default))
    return dataclasses.make_dataclass("Caption", fields, bases=(Options,), frozen=True)


def flowing(text: str) -> str:
    """A docstring's paragraphs, each on one line: the terminal wraps them."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in cleandoc(text).split("\n\n"))
