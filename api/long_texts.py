"""Long texts of a request, pictures in base64: they stay in the body's file until they are decoded.

What is left of a body without them is small, so that reading it takes little time and memory.
"""

import binascii
import hashlib
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO, Final

#: A body, in memory or in a file.
Document = bytes | mmap.mmap

#: A text of more bytes is long: it can only be a picture.
LONG_TEXT_BYTES: Final = 2**16
_SLICE_BYTES: Final = 2**18
_SPACES: Final = b" \t\n\r\f\v"
_QUOTES: Final = (b'"', b"'")
#: The beginning of a `data:` address (RFC 2397), whose parameters may be quoted and hold a comma.
_DATA_PREFIX: Final = re.compile(rb'data:(?:[^",]|"[^"]*")*,', re.IGNORECASE)
#: Longest prefix of a `data:` address, with its media type and parameters.
_MAX_DATA_PREFIX: Final = 256

#: What writers of JSON escape in base64 and its prefix; no other escape belongs there.
JSON_ESCAPES: Final[Mapping[bytes, bytes]] = MappingProxyType(
    {
        rb"\/": b"/",
        rb"\"": b'"',
        rb"\u002b": b"+",
        rb"\u002B": b"+",
        rb"\u002f": b"/",
        rb"\u002F": b"/",
        rb"\u003d": b"=",
        rb"\u003D": b"=",
        rb"\n": b"",
        rb"\r": b"",
        rb"\t": b"",
    }
)
#: The same in an urlencoded form, where a plus sign that was not escaped is meant as one.
URL_ESCAPES: Final[Mapping[bytes, bytes]] = MappingProxyType(
    {
        escape: bytes([code])
        for code in b"+/=:;, \r\n\t\"'"
        for escape in (b"%%%02X" % code, b"%%%02x" % code)
    }
)


def document_of(file: BinaryIO) -> Document:
    """Return what a file holds, without reading it into memory if it is on a disk."""
    try:
        file.seek(0)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (AttributeError, OSError, ValueError):  # no file of the system, or an empty one
        return file.read()


@dataclass(frozen=True, slots=True)
class LongText:
    """A text that stays where it came: a range of a body.

    Attributes:
        document: the body.
        start, end: its range, in bytes.
        escapes: what stands for other characters there.
        plus_for_space: a space is a plus sign that was not escaped on its way.
    """

    document: Document = field(repr=False)
    start: int
    end: int
    escapes: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    plus_for_space: bool = False

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the range."""
        digest = hashlib.sha256()
        for at in range(self.start, self.end, _SLICE_BYTES):
            digest.update(self.document[at : min(at + _SLICE_BYTES, self.end)])
        return digest.hexdigest()

    def pieces(self) -> Iterator[bytes]:
        """Yield the text without escapes and spaces, piece by piece."""
        marks = {escape[:1] for escape in self.escapes}
        longest = max(map(len, self.escapes), default=0)
        rest = b""
        for at in range(self.start, self.end, _SLICE_BYTES):
            piece = rest + self.document[at : min(at + _SLICE_BYTES, self.end)]
            rest = b""
            if at + _SLICE_BYTES < self.end:
                # An escape may be parted by the end of the slice.
                cut = max((piece.rfind(mark, -longest + 1) for mark in marks), default=-1)
                piece, rest = (piece[:cut], piece[cut:]) if cut >= 0 else (piece, b"")
            yield self._plain(piece)

    def _plain(self, piece: bytes) -> bytes:
        for escape, plain in self.escapes.items():
            piece = piece.replace(escape, plain)
        if self.plus_for_space:
            piece = piece.replace(b"base64, ", b"base64,").replace(b" ", b"+")
        return piece.translate(None, _SPACES)


def decode_base64(text: str | LongText) -> Iterator[bytes]:
    """Yield the bytes of a text in base64, with or without a `data:` prefix and line breaks.

    Raises:
        ValueError: it is no base64 (RFC 4648).
    """
    if isinstance(text, str):
        whole_text = text.encode()
        text = LongText(whole_text, 0, len(whole_text))
    rest, padded, begun, quote = b"", False, False, b""
    for each in text.pieces():
        piece = each
        if not begun:
            # As it stands in a style sheet or a log.
            quote = piece[:1] if piece[:1] in _QUOTES else b""
            piece = _without_data_prefix(piece.removeprefix(quote))
        begun = True
        plain = rest + (piece.removesuffix(quote) if quote else piece)
        whole = len(plain) // 4 * 4
        block, rest = plain[:whole], plain[whole:]
        if padded and plain:
            raise ValueError("Something follows the padding.")
        padded = padded or block.endswith(b"=")
        yield binascii.a2b_base64(block, strict_mode=True)
    if rest:
        raise ValueError("Four characters are three bytes.")


def _without_data_prefix(text: bytes) -> bytes:
    """Return base64 without `data:image/png;base64,` or the like; the prefix is short, if any."""
    # Without a comma within reach the text stays as it is, and is no base64: a colon is in it.
    prefix = _DATA_PREFIX.match(text, 0, _MAX_DATA_PREFIX)
    return text[prefix.end() :] if prefix else text


#: Longest run of backslashes before the end of a text.
_MOST_BACKSLASHES: Final = 64


@dataclass(frozen=True, slots=True)
class SplitJson:
    """A JSON document without its long texts.

    Attributes:
        text: the document, each of its long texts replaced by a word.
        long_texts: by these words.
    """

    text: bytes
    long_texts: Mapping[str, LongText]

    def restore(self, value: Any) -> Any:  # noqa: ANN401 - any JSON
        """Put the long texts back in place of their words; a ValueError: one is a name."""
        if isinstance(value, dict):
            if self.long_texts.keys() & value.keys():
                raise ValueError("A name is too long.")
            return {name: self.restore(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.restore(part) for part in value]
        return self.long_texts.get(value, value) if isinstance(value, str) else value


class DocumentTooLargeError(ValueError):
    """A document has more than the allowed bytes beside its long texts."""


def split_json(document: Document, most: int, word: str) -> SplitJson:
    """Take the long texts out of a JSON document.

    Args:
        document: in UTF-8.
        most: bytes of the rest.
        word: a random prefix of the words that replace the long texts.

    Raises:
        DocumentTooLargeError: the rest is larger.
        ValueError: the document is no JSON.
    """
    rest, found = bytearray(), dict[str, LongText]()
    at = 0
    while True:
        opening = document.find(b'"', at)
        until = len(document) if opening < 0 else opening
        if len(rest) + until - at > most:
            raise DocumentTooLargeError
        rest += document[at:until]
        if opening < 0:
            return SplitJson(bytes(rest), found)
        at = _closing_quote(document, opening + 1) + 1
        if at - opening > LONG_TEXT_BYTES:
            name = f"{word}{len(found)}"
            found[name] = LongText(document, opening + 1, at - 1, JSON_ESCAPES)
            rest += f'"{name}"'.encode()
        else:
            rest += document[opening:at]


def _closing_quote(document: Document, start: int) -> int:
    at = document.find(b'"', start)
    while at >= 0:
        before = document[max(start, at - _MOST_BACKSLASHES) : at]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes == _MOST_BACKSLASHES:
            raise ValueError("There are too many backslashes.")
        if backslashes % 2 == 0:
            return at
        # Only the last one of a text that is wholly in quotes may come so late.
        if at - start > LONG_TEXT_BYTES and document[at + 1 : at + 2] != b'"':
            raise ValueError("A long text is base64, which has no quotes.")
        at = document.find(b'"', at + 1)
    raise ValueError("A text has no end.")
