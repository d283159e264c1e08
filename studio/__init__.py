"""Personalization studio: teach a diffusion model one subject or style, and prove how well it did."""

from pathlib import Path

__version__ = "0.1.0"

if not Path(__file__).with_name("trainers").is_dir():  # a checkout keeps the folders beside the package
    __path__.append(str(Path(__file__).resolve().parents[1]))
