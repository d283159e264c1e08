"""Pictures that a run need not have: a reward asks how alike a picture is to them, and nothing is trained on them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from studio.pipelines.data_image import decode, read_bytes, rgb
from studio.pipelines.data_pictures import Dataset, Pictures, Sides
from studio.pipelines.layouts import Listing


class References(Pictures):
    """The subject's pictures, for rewards of identity. Without a folder there are none, and no subject is named."""

    trigger: Annotated[str, Field(description="The word that calls the subject; filled into prompts")] = ""

    def look(self, model: Sides) -> Dataset:
        """As `Pictures.look`; without a folder, a data set without pictures."""
        if self.folder is None:
            return Dataset((), {}, (), (), "", self, self.trigger, self.class_word)
        return super().look(model)

    def read(self, model: Sides) -> Dataset:
        """As `Pictures.read`; without a folder, a data set without pictures."""
        return self.look(model) if self.folder is None else super().read(model)

    def listing(self) -> Listing:
        """As `Pictures.listing`; without a folder, nothing."""
        return Listing("", (), {}, (), ()) if self.folder is None else super().listing()


def pictures(dataset: Dataset) -> list[Tensor]:
    """All of them, `[3, h, w]` in 0..1, each in its own size."""
    background = dataset.settings.background
    return [to_tensor(rgb(decode(read_bytes(example.path)), background)) for example in dataset.examples]
