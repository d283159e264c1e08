"""The studio as a Hugging Face Space; started anywhere else, it is `studio ui`."""

import importlib.util
import os
import sys

if os.environ.get("SPACES_ZERO_GPU") and importlib.util.find_spec("spaces") is not None:
    import spaces  # noqa: F401  # it has to come before torch

from studio.cli import main

if __name__ == "__main__":
    main(["ui", *sys.argv[1:]])
