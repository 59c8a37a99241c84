"""An independent reader of offline registration requests, as SUSE Customer Center takes them.

Format: connect-ng's `OfflineRequest`; product: what scc-operator makes of the payload. Both are
written down here from what the real ones did, not from our code.
"""

import json
from base64 import b64decode
from typing import Any

RELEASES = {
    "v2.12.1": "2.12.1",
    "2.13.1": "2.13.1",
    "v2.15.0": "2.15.0",
    "v2.12.1-alpha4": "2.12.1",
    "v2.12-207d1eaa2-head": "other",
    "dev": "other",
}
"""The version of the product by the raw version of Rancher.

The operator names `other` for what is no release, and takes the payload's `version`, which has
been reduced to three numbers where it had them.
"""


def read_offline_request(printed: str) -> dict[str, Any]:
    """What one printed request holds; anything that isn't one fails."""
    line, end, rest = printed.partition("\n")
    assert (end, rest) == ("\n", ""), "one line"
    document = json.loads(b64decode(line, validate=True))
    assert set(document) == {"product", "system_information"}
    assert set(document["product"]) == {"identifier", "version", "arch"}
    assert all(isinstance(text, str) and text for text in document["product"].values())
    assert isinstance(document["system_information"], dict)
    parsed: dict[str, Any] = document
    return parsed


def without_time(payload: dict[str, Any]) -> dict[str, Any]:
    """A payload but for when it was made."""
    return {key: value for key, value in payload.items() if key != "timestamp"}
