"""Parsing of `multipart/form-data`: in memory, within limits, without temporary files."""

from collections.abc import Collection
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MalformedBodyError, UnsupportedMediaTypeError
from service.routes.bodies.parts import PartHeaders, decoded_text, decoded_transfer, parse_header

_MOST_HEADERS = 8
_LONGEST_HEADER = 4096
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class FormRules:
    """The parts of a multipart body, and limits on them.

    Attributes:
        pictures: names of the parts for pictures, the preferred one first.
        texts: names of the parts for texts and JSON.
        most_pictures: most parts for pictures.
        most_texts: most other parts.
        text_bytes: most bytes of such another part.
    """

    pictures: Collection[str]
    texts: Collection[str]
    most_pictures: int
    most_texts: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text of a form or of a query.

    Attributes:
        name: name of the field.
        text: the text.
        is_json: whether its content type says that it is JSON.
        is_file: whether it has a file name.
    """

    name: str
    text: str
    is_json: bool = False
    is_file: bool = False


@dataclass(slots=True)
class Form:
    """The parts of a body, in the order of the body.

    Attributes:
        pictures: contents of the parts for pictures.
        texts: the others.
    """

    pictures: list[bytes] = field(default_factory=list)
    texts: list[TextPart] = field(default_factory=list)


def read_form(body: bytes, content_type: str, rules: FormRules) -> Form:
    """Parse a multipart body.

    Parts are told apart by their names and types, not by whether they have a file name: browsers
    send every part that has a content type as a file.

    Args:
        body: the whole body.
        content_type: value of ``Content-Type``, with the boundary.
        rules: the parts of the body, and limits on them.

    Raises:
        UnsupportedMediaTypeError: a charset or transfer encoding is not accepted.
        MalformedBodyError: the body is not multipart, is cut off, or exceeds a limit; or a part is
            of the wrong kind.
    """
    _, parameters = parse_options_header(content_type)
    # With other codecs, a few bytes can cost much time, or raise unexpected errors.
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise UnsupportedMediaTypeError(
            "The text fields must be in UTF-8: leave out the charset.", field="Content-Type"
        )
    if not parameters.get(b"boundary"):
        raise _unreadable("the content type has no boundary.")
    reader = _Reader(rules)
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

    def __init__(self, rules: FormRules) -> None:
        self.form = Form()
        self.ended = False
        self._rules = rules
        self._pictures = 0
        self._texts = 0
        self.begin_part()

    def begin_part(self) -> None:
        self._header_name = self._header_value = b""
        self._given: dict[bytes, bytes] = {}
        self._name = ""
        self._is_picture = False
        self._pieces: list[bytes] = []
        self._size = 0

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        name = self._header_name.lower()
        if name in self._given:
            raise _unreadable(f"a part has the header {name.decode('latin-1')} twice.")
        self._given[name] = self._header_value
        self._header_name = self._header_value = b""

    def end_headers(self) -> None:
        _, parameters = parse_header(self._given.get(b"content-disposition", b""))
        name = parameters.get(b"name")
        if name is None:
            raise _unreadable("a part has no name in its Content-Disposition.")
        if len(name) > _LONGEST_NAME:
            raise _unreadable(f"the name of a part has more than {_LONGEST_NAME} bytes.")
        self._name = _utf8(name, "The name of a part")
        self._headers = PartHeaders.read(self._name, self._given)
        self._is_picture = self._name in self._rules.pictures
        self._check_kind()
        self._pictures += self._is_picture
        self._texts += not self._is_picture
        most = self._rules.most_pictures, self._rules.most_texts
        if self._pictures > most[0] or self._texts > most[1]:
            raise _unreadable(f"it has more than {most[0]} files or {most[1]} other fields.")

    def _check_kind(self) -> None:
        preferred = next(iter(self._rules.pictures))
        if self._is_picture:
            if not self._headers.may_be_picture:
                raise MalformedBodyError(
                    f"The picture must be sent as a file: curl -F {preferred}=@picture.jpg",
                    field=self._name,
                )
        elif self._name not in self._rules.texts:
            if self._headers.is_file:
                raise MalformedBodyError(
                    f"The field {self._name!r} is not for files: pictures go into {preferred!r}.",
                    field=self._name,
                )
        elif not self._headers.may_be_text:
            raise MalformedBodyError(
                f"The field {self._name!r} is for text or JSON, not for "
                f"{self._headers.media_type}: pictures go into {preferred!r}.",
                field=self._name,
            )

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if not self._is_picture and self._size > self._rules.text_bytes:
            raise MalformedBodyError(
                f"The field {self._name!r} has more than {self._rules.text_bytes} bytes: send "
                "pictures as files.",
                field=self._name,
            )
        self._pieces.append(data[start:end])

    def end_part(self) -> None:
        content = decoded_transfer(b"".join(self._pieces), self._headers)
        if self._is_picture:
            self.form.pictures.append(content)
        else:
            text = decoded_text(content, self._headers)
            kind = self._headers.is_json, self._headers.has_file_name
            self.form.texts.append(TextPart(self._name, text, *kind))
        self._pieces = []

    def end(self) -> None:
        self.ended = True


def _utf8(encoded: bytes, subject: str) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"{subject} is not in UTF-8.", field="body") from error


def _unreadable(reason: str) -> MalformedBodyError:
    return MalformedBodyError(f"The multipart body cannot be read: {reason}", field="body")
