"""Art styles, grouped into families: the drawings of a family share their artists or their designs.

A family is trained on as a whole, or kept out of training as a whole.
"""

from __future__ import annotations

# Relative frequency of each style in training; the four fluent sets share their designs, so each
# has less. Those with "coloured-in" are line art whose areas were filled with flat colours.
TRAINING_STYLES = {
    "fluent-emoji": 0.07,
    "fluent-emoji-flat": 0.1,
    "fluent-emoji-high-contrast": 0.015,
    "fluent-emoji-3d": 0.04,
    "noto": 0.13,
    "noto-v1": 0.13,
    "noto-emoji-outline": 0.015,
    "noto-emoji-outline-coloured-in": 0.06,
    "fxemoji": 0.1,
    "emojione": 0.13,
    "emojione-monotone": 0.015,
    "streamline-emojis": 0.08,
    "streamline-color": 0.02,
    "streamline-cyber-color": 0.02,
    "streamline-flex-color": 0.01,
    "streamline-plump-color": 0.015,
    "symbola": 0.015,
    "symbola-coloured-in": 0.06,
    "hugeicons": 0.015,
    "hugeicons-coloured-in": 0.03,
    "lucide": 0.01,
    "lucide-coloured-in": 0.03,
    "phosphor": 0.01,
    "phosphor-coloured-in": 0.02,
    "phosphor-duotone": 0.01,
    "tabler": 0.01,
    "tabler-coloured-in": 0.02,
    "fa6-solid": 0.015,
    "game-icons": 0.02,
    "icon-park": 0.02,
    "icon-park-solid": 0.01,
    "mdi": 0.02,
    "mingcute": 0.01,
    "solar": 0.01,
}
_DESIGNERS = {
    "Fluent": "fluent-",
    "Noto": "noto",
    "Firefox OS": "fxemoji",
    "EmojiOne": "emojione",
    "Streamline": "streamline-",
    "Symbola": "symbola",
}
INTERFACE_ICONS = "Interface icons"


def family_of(style: str) -> str:
    """Name the family of a style of training; icons of user interfaces count as one family."""
    found = (family for family, start in _DESIGNERS.items() if style.startswith(start))
    return next(found, INTERFACE_ICONS)


TRAINING_FAMILIES = tuple(dict.fromkeys(family_of(style) for style in TRAINING_STYLES))
# Twemoji is never trained on, but choices between recipes are made by its figures.
VALIDATION_STYLE = "twemoji"
VALIDATION_FAMILY = "Twemoji"
# No training and no choice of recipe sees these families. Where several drawings show one concept,
# each further one is in a style of its own.
UNSEEN_FAMILIES = {
    "OpenMoji": ("openmoji",),
    "Open Clip Art": ("open-clip-art", "open-clip-art-2", "open-clip-art-3"),
    "Tux Paint, drawings": ("tux-paint-drawings", "tux-paint-drawings-2"),
    "Tux Paint, photographs": ("tux-paint-photographs", "tux-paint-photographs-2"),
}
ALL_STYLES = (
    *TRAINING_STYLES,
    VALIDATION_STYLE,
    *(style for styles in UNSEEN_FAMILIES.values() for style in styles),
)
