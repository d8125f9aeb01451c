"""What is shown of a URI that a user gave: all but its passwords."""

from __future__ import annotations

import re

_WORDS = "passw|pwd|secret|token|key"
_VALUES = (
    # HTTP's and SQLAlchemy's own; what ODBC is told is an address in itself.
    rf"([?&](?:odbc_connect|[^\s'\"=&]*(?:{_WORDS})[^\s'\"=&]*))=[^\s'\"&]*",
    # Within what ODBC is told, where that is not quoted as it should be.
    rf"(;\s*[^\s'\";=&]*(?:{_WORDS})[^\s'\";=&]*)\s*=\s*(?:{{[^}}]*}}|[^\s'\";&]*)",
)


def shown_uri(text: str) -> str:
    """Returns a URI, or a text with URIs in it, with ``***`` in place of passwords.

    A password that contains ``@`` or ``/`` unquoted is hidden to its end.
    """
    text = re.sub(r"(://[^\s'\"/:@]*):[^\s'\"]*@", r"\1:***@", text)
    for value in _VALUES:
        text = re.sub(f"(?i){value}", r"\1=***", text)
    return text
