"""Forms of model names. Importing this module loads no torch."""

STARTER = "starter"

OPENCLIP_HUB = "hf-hub:"
OPENCLIP_FOLDER = "local-dir:"
OPENCLIP_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")

TIMM = "timm:"
TIMM_HUB = f"{TIMM}hf-hub:"
TIMM_FOLDER = f"{TIMM}local-dir:"
