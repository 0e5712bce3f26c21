"""Forms of model names. Importing this module loads no torch."""

from pathlib import Path

STARTER = "starter"

OPENCLIP_HUB = "hf-hub:"
OPENCLIP_FOLDER = "local-dir:"
OPENCLIP_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")

TIMM = "timm:"
TIMM_HUB = f"{TIMM}hf-hub:"
TIMM_FOLDER = f"{TIMM}local-dir:"

TRANSFORMERS = "transformers:"

BCOS = "bcos:"


def transformers_folder(name: str) -> str | None:
    """Return the folder of ``transformers:FOLDER``; None for a repository or another scheme."""
    place = name.removeprefix(TRANSFORMERS)
    if place == name:
        return None
    is_folder = place.startswith((".", "/", "~")) or Path(place).is_dir()
    return place if is_folder else None
