"""Masks secrets in all texts that are printed or written."""

from __future__ import annotations

import json
import os
import re
from urllib.parse import quote

_SHOWN = "***"
# Names of environment variables that usually hold secrets.
_NAMES = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|_PWD$|_PAT$|CREDENTIAL|CONNECTION_?STRING"
    r"|(ACCOUNT|ACCESS|API|STORAGE|PRIVATE)_?KEY|SAS(_|$)",
    re.I,
)
# A shorter value is more likely a setting, and may be part of ordinary words.
_FEWEST_LETTERS = 8
# User and password in a URL, its signature, and the keys of connection strings and requests.
_PATTERNS = (
    (re.compile(r"(?<=://)[^/\s'\"]+(?=@)"), _SHOWN),
    (re.compile(r"(?<=[?&])((?:sig|token|access_token|key|code|password)=)[^&\s'\"]+", re.I), rf"\1{_SHOWN}"),
    (re.compile(r"((?:AccountKey|SharedAccessKey|SharedAccessSignature|Password)=)[^;\s'\"]+", re.I), rf"\1{_SHOWN}"),
    (re.compile(r"(\bBearer )[\w.~+/-]{8,}=*"), rf"\1{_SHOWN}"),
)


def masked(text: str) -> str:
    """Return a text with the secrets of the environment and of URLs in it replaced by asterisks."""
    for secret in _secrets():
        text = text.replace(secret, _SHOWN)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def _secrets() -> list[str]:
    """Return the secrets in all their encodings, the longest first, because one may be a prefix of another."""
    values = {value for name, value in os.environ.items() if len(value) >= _FEWEST_LETTERS and _NAMES.search(name)}
    forms = {form for value in values for form in (value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, ""))}
    return sorted(forms, key=len, reverse=True)
