"""Reading prompts from a text file."""

import codecs
from collections.abc import Sequence
from pathlib import Path

# UTF-32 first: its mark in little-endian order begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Of four bytes, those that are mostly zero in text of one-byte letters.
_BY_ZEROS = {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}


class UnreadablePromptsError(Exception):
    """The file of prompts is in no Unicode encoding, or is given as a prompt."""


def gather_prompts(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Join the prompts of the command line and those of a file, each once.

    Raises:
        OSError: the file cannot be read.
        UnreadablePromptsError: the file is not text, or a prompt is the path of a file.
    """
    for text in given:
        # A word may be the name of a file by accident; one with an ending hardly is.
        if Path(text).suffix and _is_file(text):
            raise UnreadablePromptsError(
                f"{text} is a file: give it with --prompts, so that its lines are the prompts."
            )
    return tuple(dict.fromkeys([*given, *(read_prompts(file) if file else ())]))


def read_prompts(path: Path) -> list[str]:
    """Read prompts from a text file: its lines but for empty ones and those that begin with #.

    The encoding is UTF-8, or the one of UTF-8, UTF-16 and UTF-32 that the byte order mark tells.
    Without a mark, UTF-16 and UTF-32 are told by the zero bytes of their line ends and letters.

    Raises:
        OSError: the file cannot be read.
        UnreadablePromptsError: it is not text in one of these encodings.
    """
    content = path.read_bytes()
    encoding = _encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadablePromptsError(
            f"{path} is not text in {encoding} ({error.reason} at byte {error.start}): save it as "
            "UTF-8."
        ) from error
    if "\0" in text:
        raise UnreadablePromptsError(f"{path} is not text: it holds zero characters.")
    # A mark stands wherever files were joined.
    lines = (line.strip() for line in text.replace("\ufeff", "").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        # Too long for a path, or with a character that none has.
        return False


def _encoding_of(content: bytes) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    zeros = "".join(
        "0" if content[place::4].count(0) > len(content) // 8 else "x" for place in range(4)
    )
    return _BY_ZEROS.get(zeros, "utf-8")
