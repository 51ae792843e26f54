"""Secrets kept out of what is printed and written."""

from __future__ import annotations

import json
import os
import re
from urllib.parse import quote

_SHOWN = "***"
# Of variables of the environment that hold secrets, as jobs and their users name them.
_NAMES = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|_PWD$|_PAT$|CREDENTIAL|CONNECTION_?STRING"
    r"|(ACCOUNT|ACCESS|API|STORAGE|PRIVATE)_?KEY|SAS(_|$)",
    re.I,
)
# A shorter value is more likely a setting, whose letters stand in ordinary words.
_FEWEST_LETTERS = 8
# User and password in an address, what signs it, and what a connection string or a request is proved with.
_PATTERNS = (
    (re.compile(r"(?<=://)[^/\s'\"]+(?=@)"), _SHOWN),
    (re.compile(r"(?<=[?&])((?:sig|token|access_token|key|code|password)=)[^&\s'\"]+", re.I), rf"\1{_SHOWN}"),
    (re.compile(r"((?:AccountKey|SharedAccessKey|SharedAccessSignature|Password)=)[^;\s'\"]+", re.I), rf"\1{_SHOWN}"),
    (re.compile(r"(\bBearer )[\w.~+/-]{8,}=*"), rf"\1{_SHOWN}"),
)


def masked(text: str) -> str:
    """A text without the secrets that the environment holds, and without those of addresses in it."""
    for secret in _secrets():
        text = text.replace(secret, _SHOWN)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def _secrets() -> list[str]:
    """Secrets of the environment in all forms that texts have them in, the longest first: one may begin another."""
    values = {value for name, value in os.environ.items() if len(value) >= _FEWEST_LETTERS and _NAMES.search(name)}
    forms = {form for value in values for form in (value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, ""))}
    return sorted(forms, key=len, reverse=True)
