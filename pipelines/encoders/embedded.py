"""The embedded judges that come with the studio, as encoders; for pictures of the studio's own small world only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from studio.pipelines.assets import assets_folder

if TYPE_CHECKING:
    from studio.pipelines.encoders.judges import Judges, Sight


def embedded(device: torch.device, attributes: bool = False) -> Sight:
    """The image-text judge or (attributes) the classifier's view of pictures. Raises ModelError: it is not there."""
    from studio.pipelines.encoders.judges import Sight, Traits, judge

    return judge(Traits if attributes else Sight, assets_folder() / "judges", device)


def judges(folder: Path, device: torch.device) -> Judges:
    """Both judges of a folder, read once per process. Raises ModelError."""
    from studio.pipelines.encoders.judges import Sight, judge

    found: Judges = judge(Sight, folder, device).loaded.model
    return found
