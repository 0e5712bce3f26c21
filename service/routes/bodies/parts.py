"""One part of a multipart body: its kind, its charset and its transfer encoding."""

import quopri
from collections.abc import Mapping
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from service.errors import MalformedBodyError, UnsupportedMediaTypeError
from service.routes.bodies.base64_text import decode_strictly
from service.routes.bodies.remembering import remember_short
from service.routes.bodies.splitting import read_head

# Codecs that take time in proportion to the text, and raise nothing but Unicode errors.
_CHARSETS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "iso-8859-1": "latin-1",
    "latin1": "latin-1",
    "windows-1252": "cp1252",
}
_SAME_BYTES = ("", "7bit", "8bit", "binary")
_TRANSFERS = (*_SAME_BYTES[1:], "base64", "quoted-printable")
_ANY_BYTES = "application/octet-stream"
_LONGEST_NAME = 256


@remember_short
def parse_header(value: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Parse a header of a part, or of the body, into its value and its parameters."""
    return parse_options_header(value)


@dataclass(frozen=True, slots=True)
class PartHeaders:
    """The headers of one part that say how to read it.

    Attributes:
        name: name of the field.
        media_type: the content type without parameters; empty without one.
        charset: the charset in lower case; empty without one.
        transfer: the transfer encoding in lower case; empty without one.
        has_file_name: whether it has a file name, in the plain or the extended form.
    """

    name: str
    media_type: str
    charset: str
    transfer: str
    has_file_name: bool

    @property
    def is_file(self) -> bool:
        """Whether the part looks like a file."""
        return self.has_file_name or self.media_type.startswith("image/")

    @property
    def may_be_picture(self) -> bool:
        """Whether the part can be a picture; a text field of a form cannot."""
        return (self.is_file or self.media_type == _ANY_BYTES) and not self.is_json

    @property
    def is_json(self) -> bool:
        """Whether the part says that it is JSON."""
        kind = self.media_type
        return kind in ("application/json", "text/json") or kind.endswith("+json")

    @property
    def may_be_text(self) -> bool:
        """Whether the part can be text or JSON; browsers call a blob of no type octet-stream."""
        kind = self.media_type
        return kind in ("", _ANY_BYTES) or kind.startswith("text/") or self.is_json


@remember_short
def part_headers(head: bytes) -> PartHeaders:
    """Read the headers of a part.

    Args:
        head: their lines; :func:`read_head` accepts them.

    Raises:
        MalformedBodyError: the part has no name, or one that is too long or not in UTF-8.
    """
    headers = read_head(head)
    media_type, parameters = parse_header(headers.get(b"content-type", b""))
    disposition = headers.get(b"content-disposition", b"")
    _, options = parse_header(disposition)
    name = options.get(b"name")
    if name is None:
        raise unreadable("a part has no name in its Content-Disposition.")
    if len(name) > _LONGEST_NAME:
        raise unreadable(f"the name of a part has more than {_LONGEST_NAME} bytes.")
    # The parser leaves out the extended form (RFC 5987), which .NET and others send.
    extended = b"filename*=" in disposition.replace(b" ", b"")
    return PartHeaders(
        _utf8(name),
        media_type.decode("latin-1"),
        parameters.get(b"charset", b"").decode("latin-1").strip().lower(),
        headers.get(b"content-transfer-encoding", b"").decode("latin-1").strip().lower(),
        b"filename" in options or extended,
    )


def decoded_transfer(content: bytes, headers: PartHeaders) -> bytes:
    """Return the content of a part without its transfer encoding.

    Raises:
        UnsupportedMediaTypeError: the encoding is not one of MIME.
        MalformedBodyError: the content is not in this encoding.
    """
    if headers.transfer in _SAME_BYTES:
        return content
    if headers.transfer == "quoted-printable":
        return quopri.decodestring(content)
    if headers.transfer == "base64":
        try:
            return decode_strictly(content.translate(None, b" \t\r\n\v\f"))
        except ValueError as error:
            raise MalformedBodyError(
                f"The part {headers.name!r} is not base64, as its Content-Transfer-Encoding says: "
                f"{error}.",
                field=headers.name,
            ) from error
    raise UnsupportedMediaTypeError(
        f"The Content-Transfer-Encoding of {headers.name!r} must be one of "
        f"{', '.join(_TRANSFERS)}; leave it out for the bytes themselves.",
        field=headers.name,
    )


def decoded_text(content: bytes, headers: PartHeaders) -> str:
    """Return the text of a part, without a byte order mark.

    Raises:
        UnsupportedMediaTypeError: the charset is not accepted.
        MalformedBodyError: the content is not in this charset.
    """
    charset = headers.charset or "utf-8"
    codec = _CHARSETS.get(charset)
    if codec is None:
        raise UnsupportedMediaTypeError(
            f"The charset of {headers.name!r} must be one of {', '.join(_CHARSETS)}; leave it out "
            "for UTF-8.",
            field=headers.name,
        )
    try:
        # Python's own codec for a byte order mark takes several times as long.
        return content.decode(codec).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise MalformedBodyError(
            f"The field {headers.name!r} is not in {charset.upper()}.", field=headers.name
        ) from error


def _utf8(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise MalformedBodyError("The name of a part is not in UTF-8.", field="body") from error


def unreadable(reason: str) -> MalformedBodyError:
    """Return the error of a body that is not multipart as the standard has it."""
    return MalformedBodyError(f"The multipart body cannot be read: {reason}", field="body")
