"""Parsing of `multipart/form-data`: in memory, within limits, without temporary files."""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MalformedBodyError, UnsupportedMediaTypeError

_MOST_HEADERS = 8
_LONGEST_HEADER = 4096
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Limits on a multipart body.

    Attributes:
        files: most parts with a file name.
        texts: most other parts.
        text_bytes: most bytes of such another part.
    """

    files: int
    texts: int
    text_bytes: int


@dataclass(slots=True)
class Form:
    """The parts of a body, in the order of the body.

    Attributes:
        files: names and contents of the parts with a file name.
        texts: names and contents of the others.
    """

    files: list[tuple[str, bytes]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)


def read_form(body: bytes, content_type: str, limits: FormLimits) -> Form:
    """Parse a multipart body.

    Args:
        body: the whole body.
        content_type: value of ``Content-Type``, with the boundary.
        limits: limits on the body.

    Raises:
        UnsupportedMediaTypeError: the charset of the texts is not UTF-8.
        MalformedBodyError: the body is not multipart, is cut off, or exceeds a limit.
    """
    _, parameters = parse_options_header(content_type)
    # With other codecs, a few bytes can cost much time, or raise unexpected errors.
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise UnsupportedMediaTypeError(
            "The text fields must be in UTF-8: leave out the charset.", field="Content-Type"
        )
    if not parameters.get(b"boundary"):
        raise _unreadable("the content type has no boundary.")
    reader = _Reader(limits)
    try:
        parser = MultipartParser(
            parameters[b"boundary"],
            {
                "on_part_begin": reader.begin_part,
                "on_header_field": reader.add_header_name,
                "on_header_value": reader.add_header_value,
                "on_header_end": reader.end_header,
                "on_headers_finished": reader.end_headers,
                "on_part_data": reader.add_data,
                "on_part_end": reader.end_part,
                "on_end": reader.end,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise _unreadable(f"{error}.") from error
    if not reader.ended:
        raise _unreadable("it ends before its last boundary.")
    return reader.form


class _Reader:
    """Callbacks of the parser; they check each part as soon as its headers are known."""

    def __init__(self, limits: FormLimits) -> None:
        self.form = Form()
        self.ended = False
        self._limits = limits
        self._files = 0
        self._texts = 0
        self.begin_part()

    def begin_part(self) -> None:
        self._header_name = self._header_value = self._disposition = b""
        self._name = ""
        self._is_file = False
        self._pieces: list[bytes] = []
        self._size = 0

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def end_headers(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        name = parameters.get(b"name")
        if name is None:
            raise _unreadable("a part has no name in its Content-Disposition.")
        if len(name) > _LONGEST_NAME:
            raise _unreadable(f"the name of a part has more than {_LONGEST_NAME} bytes.")
        self._name = _decoded(name, "The name of a part")
        self._is_file = b"filename" in parameters
        self._files += self._is_file
        self._texts += not self._is_file
        if self._files > self._limits.files or self._texts > self._limits.texts:
            raise _unreadable(
                f"it has more than {self._limits.files} files or {self._limits.texts} other fields."
            )

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if not self._is_file and self._size > self._limits.text_bytes:
            raise MalformedBodyError(
                f"The field {self._name!r} has more than {self._limits.text_bytes} bytes: send "
                "pictures as files.",
                field=self._name,
            )
        self._pieces.append(data[start:end])

    def end_part(self) -> None:
        content = b"".join(self._pieces)
        if self._is_file:
            self.form.files.append((self._name, content))
        else:
            text = _decoded(content, f"The field {self._name!r}", self._name)
            self.form.texts.append((self._name, text))
        self._pieces = []

    def end(self) -> None:
        self.ended = True


def _decoded(encoded: bytes, subject: str, field: str = "body") -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"{subject} is not in UTF-8.", field=field) from error


def _unreadable(reason: str) -> MalformedBodyError:
    return MalformedBodyError(f"The multipart body cannot be read: {reason}", field="body")
