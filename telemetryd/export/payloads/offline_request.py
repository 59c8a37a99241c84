"""The offline registration request that SUSE Customer Center takes, made of an SCC payload.

Format: ``OfflineRequest`` of connect-ng v1.22.1 (``pkg/registration/offline_request.go``), base64
on one line. scc-operator fills it from its payload as is done here.
"""

import re
from binascii import b2a_base64
from typing import Final

import orjson

from telemetryd.model import Payload

_RELEASE: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}")
"""What scc-operator takes for a released version (its ``internal/semver``)."""


def render_offline_request(payload: Payload) -> bytes:
    """The request, without an end of line: the product, and the payload as it is.

    Args:
        payload: Of format ``scc``.
    """
    document = orjson.loads(payload.body)
    subscription = document["subscription"]
    request = {
        "product": {
            "identifier": subscription["product"],
            "version": product_version(document["version"]),
            "arch": subscription["arch"],
        },
        "system_information": orjson.Fragment(payload.body),
    }
    return b2a_base64(orjson.dumps(request), newline=False)


def product_version(version: str) -> str:
    """A version of the payload as SUSE names that of the product: ``other`` for no release."""
    return version if _RELEASE.fullmatch(version) else "other"
