"""Output where not every character can be shown."""

import codecs
import sys

SPELT = {"±": "+-", "×": "x", "λ": "lambda", "→": "->", "≤": "<=", "≥": ">=", "…": "...", "–": "-", "’": "'"}
"""Characters that the commands print -> what stands for them in ASCII."""
NAME = "ratpg"


def print_anything() -> None:
    """Lets the standard streams take every text: where their encoding lacks a character, another stands for it."""
    codecs.register_error(NAME, _spelt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=NAME)


def _spelt(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return SPELT.get(character, "?"), error.start + 1
