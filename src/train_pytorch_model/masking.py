"""Secrets kept out of what is printed and written."""

from __future__ import annotations

import os
import re

_SHOWN = "***"
# Of variables of the environment that hold secrets, as jobs and their users name them.
_NAMES = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|CONNECTION_?STRING|(ACCOUNT|ACCESS|API|STORAGE)_?KEY|SAS", re.I
)
# A shorter value is more likely a setting, whose letters stand in ordinary words.
_FEWEST_LETTERS = 8
# User and password in an address, and what signs it.
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
_IN_QUERY = re.compile(r"(?<=[?&])((?:sig|token|access_token|key|code|password)=)[^&\s'\"]+", re.I)


def masked(text: str) -> str:
    """A text without the secrets that the environment holds, and without those of addresses in it."""
    for name, value in os.environ.items():
        if len(value) >= _FEWEST_LETTERS and _NAMES.search(name) and value in text:
            text = text.replace(value, _SHOWN)
    return _IN_QUERY.sub(rf"\1{_SHOWN}", _IN_ADDRESS.sub(_SHOWN, text))
