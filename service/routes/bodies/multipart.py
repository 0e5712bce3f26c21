"""Parsing of `multipart/form-data`: in memory, within limits, without temporary files."""

from collections.abc import Collection
from dataclasses import dataclass, field

from service.errors import MalformedBodyError, UnsupportedMediaTypeError
from service.routes.bodies.parts import (
    PartHeaders,
    decoded_text,
    decoded_transfer,
    parse_header,
    part_headers,
    unreadable,
)
from service.routes.bodies.splitting import split_parts


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
    _, parameters = parse_header(content_type.encode("latin-1"))
    # With other codecs, a few bytes can cost much time, or raise unexpected errors.
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise UnsupportedMediaTypeError(
            "The text fields must be in UTF-8: leave out the charset.", field="Content-Type"
        )
    if not parameters.get(b"boundary"):
        raise unreadable("the content type has no boundary.")
    reader = _Reader(rules)
    parts = split_parts(body, parameters[b"boundary"])
    while True:
        try:
            part = next(parts, None)
        except ValueError as error:
            raise unreadable(f"{error}.") from error
        if part is None:
            return reader.form
        reader.add(part_headers(part.head), memoryview(body)[part.start : part.stop])


class _Reader:
    """Adds parts to a form, after checking each by its headers."""

    def __init__(self, rules: FormRules) -> None:
        self.form = Form()
        self._rules = rules

    def add(self, headers: PartHeaders, content: memoryview) -> None:
        """Add a part.

        Raises:
            MalformedBodyError: the part is of the wrong kind, or exceeds a limit.
            UnsupportedMediaTypeError: its charset or transfer encoding is not accepted.
        """
        is_picture = headers.name in self._rules.pictures
        self._check_kind(headers, is_picture)
        self._check_count(is_picture)
        if not is_picture and len(content) > self._rules.text_bytes:
            raise MalformedBodyError(
                f"The field {headers.name!r} has more than {self._rules.text_bytes} bytes: send "
                "pictures as files.",
                field=headers.name,
            )
        decoded = decoded_transfer(bytes(content), headers)
        if is_picture:
            self.form.pictures.append(decoded)
        else:
            text = decoded_text(decoded, headers)
            kind = headers.is_json, headers.has_file_name
            self.form.texts.append(TextPart(headers.name, text, *kind))

    def _check_count(self, is_picture: bool) -> None:
        form, rules = self.form, self._rules
        pictures, texts = len(form.pictures) + is_picture, len(form.texts) + (not is_picture)
        if pictures > rules.most_pictures or texts > rules.most_texts:
            raise unreadable(
                f"it has more than {rules.most_pictures} files or {rules.most_texts} other fields."
            )

    def _check_kind(self, headers: PartHeaders, is_picture: bool) -> None:
        preferred = next(iter(self._rules.pictures))
        if is_picture:
            if not headers.may_be_picture:
                raise MalformedBodyError(
                    f"The picture must be sent as a file: curl -F {preferred}=@picture.jpg",
                    field=headers.name,
                )
        elif headers.name not in self._rules.texts:
            if headers.is_file:
                raise MalformedBodyError(
                    f"The field {headers.name!r} is not for files: pictures go into {preferred!r}.",
                    field=headers.name,
                )
        elif not headers.may_be_text:
            raise MalformedBodyError(
                f"The field {headers.name!r} is for text or JSON, not for "
                f"{headers.media_type}: pictures go into {preferred!r}.",
                field=headers.name,
            )
