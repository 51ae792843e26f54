"""An extension of mkdocstrings: parameters whose names begin with an underscore are not documented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from griffe import Function, GriffeLoader


class PublicParameters(griffe.Extension):
    """Removes parameters that are not part of the public API."""

    def on_function(self, *, func: Function, loader: GriffeLoader, **_: Any) -> None:
        """Remove them from one function."""
        for parameter in list(func.parameters):
            if parameter.name.startswith("_"):
                del func.parameters[parameter.name]
