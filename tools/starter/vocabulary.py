"""Names of each concept, and the sentence templates for training."""

from __future__ import annotations

from collections.abc import Collection

# Tags of emojibase (MIT) with the same meaning, and common words that it lacks. Its other tags are
# associations ("yellow" for taxi, "wise" for owl) and would train wrong meanings.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("plane", "aeroplane", "aircraft", "jet"),
    "alembic": ("chemistry apparatus", "distillation flask"),
    "ambulance": ("emergency vehicle",),
    "amphora": ("vase", "jug"),
    "automobile": ("car", "motor car"),
    "backpack": ("rucksack", "satchel", "school bag"),
    "badminton": ("shuttlecock", "badminton racket"),
    "bathtub": ("bath", "bath tub"),
    "bear": ("grizzly", "brown bear"),
    "bicycle": ("bike", "cycle"),
    "bikini": ("swimsuit", "bathing suit"),
    "blossom": ("yellow flower",),
    "blowfish": ("pufferfish", "puffer fish"),
    "books": ("book", "stack of books"),
    "bowling": ("bowling ball", "bowling pins"),
    "bread": ("loaf", "loaf of bread"),
    "briefcase": ("attache case",),
    "bug": ("caterpillar",),
    "camera": ("photo camera",),
    "candy": ("sweet", "wrapped candy"),
    "cat": ("kitten", "kitty"),
    "chains": ("chain",),
    "cherries": ("cherry",),
    "chipmunk": ("squirrel",),
    "cigarette": ("cigarette stub",),
    "cityscape": ("city", "skyline"),
    "cooking": ("fried egg", "frying pan"),
    "cricket": ("grasshopper",),
    "custard": ("pudding", "flan"),
    "cyclone": ("hurricane", "typhoon"),
    "dagger": ("knife",),
    "dog": ("puppy",),
    "doughnut": ("donut",),
    "droplet": ("drop", "water drop"),
    "dvd": ("cd", "compact disc"),
    "eggplant": ("aubergine",),
    "envelope": ("letter",),
    "ewe": ("sheep", "lamb"),
    "fire": ("flame", "flames"),
    "flashlight": ("electric torch",),
    "gear": ("cog", "cogwheel"),
    "glasses": ("eyeglasses", "spectacles"),
    "grapes": ("grape", "bunch of grapes"),
    "hamburger": ("burger", "cheeseburger"),
    "handbag": ("hand bag",),
    "headphone": ("headphones",),
    "helicopter": ("copter",),
    "honeybee": ("bee", "bumblebee", "honey bee"),
    "house": ("home", "cottage"),
    "jeans": ("trousers", "denim"),
    "joker": ("playing card",),
    "laptop": ("computer", "notebook computer"),
    "lizard": ("gecko",),
    "locked": ("padlock", "lock"),
    "locomotive": ("steam engine", "steam train"),
    "lollipop": ("lolly",),
    "melon": ("cantaloupe",),
    "metro": ("subway", "underground train"),
    "microphone": ("mic",),
    "minibus": ("van",),
    "moai": ("stone head", "stone statue"),
    "motorcycle": ("motorbike",),
    "motorway": ("highway",),
    "mushroom": ("toadstool",),
    "necktie": ("tie", "shirt and tie"),
    "newspaper": ("news",),
    "ox": ("bull",),
    "package": ("parcel", "cardboard box"),
    "pancakes": ("pancake",),
    "peanuts": ("peanut",),
    "pen": ("ballpoint", "ballpoint pen"),
    "pill": ("capsule", "medicine"),
    "postbox": ("mailbox", "letter box"),
    "purse": ("coin purse",),
    "pushpin": ("thumbtack", "drawing pin"),
    "rabbit": ("bunny",),
    "rhinoceros": ("rhino",),
    "rocket": ("spaceship", "space rocket"),
    "rooster": ("cockerel",),
    "sailboat": ("yacht", "sailing boat"),
    "saxophone": ("sax",),
    "seat": ("chair",),
    "seedling": ("sprout", "sapling"),
    "shamrock": ("clover",),
    "ship": ("cruise ship",),
    "shortcake": ("cake", "slice of cake"),
    "shrimp": ("prawn",),
    "snake": ("serpent",),
    "spaghetti": ("pasta", "noodles"),
    "speedboat": ("motorboat",),
    "sun": ("sunshine",),
    "sunglasses": ("shades",),
    "syringe": ("needle", "injection"),
    "tangerine": ("orange", "mandarin"),
    "taxi": ("cab", "taxi cab"),
    "telephone": ("phone",),
    "television": ("tv", "tv set"),
    "tennis": ("tennis ball", "tennis racket"),
    "thermometer": ("temperature gauge",),
    "ticket": ("admission ticket",),
    "tornado": ("whirlwind",),
    "trophy": ("trophy cup",),
    "turtle": ("tortoise",),
    "unlocked": ("open lock", "open padlock"),
    "videocassette": ("video tape", "vhs"),
    "wastebasket": ("trash can", "waste bin", "dustbin"),
    "watch": ("wristwatch", "wrist watch"),
    "wrench": ("spanner",),
}

# "{}" stands for the words, "{a}" for them with an indefinite article.
TEMPLATES = (
    "{}",
    "{a}",
    "the {}",
    "a photo of {a}",
    "a photo of the {}",
    "a picture of {a}",
    "an image of {a}",
    "a drawing of {a}",
    "a drawing of the {}",
    "a sticker of {a}",
    "a cartoon {}",
    "a painting of the {}",
    "an emoji of {a}",
    "an icon of the {}",
    "one {}",
    "my {}",
    "this is {a}",
    "there is {a} here",
    "{a} in the picture",
    "{a} on a background",
    "the small {}",
    "the big {}",
    "a red {}",
    "a blue {}",
    "a colourful {}",
    "a close-up photo of the {}",
    "a blurry photo of {a}",
    "where is the {}?",
    "find the {}",
    "some {}",
)


def plural(word: str) -> str:
    """Form the regular English plural of the last word."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word if word.endswith("s") else word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def fill(template: str, words: str) -> str:
    """Put the words into one of `TEMPLATES` or into any template with `{}`."""
    return template.replace("{a}", with_article(words)).replace("{}", words)


def names(concept: str, others: Collection[str] = ()) -> tuple[str, ...]:
    """List a concept's names: its name, its synonyms and their plurals.

    Plurals that name a concept of `others` are left out.
    """
    singular = (concept, *SYNONYMS.get(concept, ()))
    plurals = (plural(word) for word in singular)
    return tuple(dict.fromkeys((*singular, *(p for p in plurals if p not in others))))
