"""What the proxy does to events of SecretRequests."""

import json

from tests.siege.stage import request_of
from tests.siege.swelling import swell

TEXT = b"t" * 1000


def event(number: int, *, large: bool = False) -> bytes:
    document = json.loads(request_of(number, large=large))
    return json.dumps({"type": "ADDED", "object": document}, separators=(",", ":")).encode()


def test_each_request_of_the_tenant_gets_the_text_in_one_field_and_stays_json() -> None:
    places = set()
    for number in range(40):
        spec = json.loads(swell(event(number), TEXT))["object"]["spec"]
        texts = {"note": spec["note"], "type": spec["secretType"], **spec["targetSecretRef"]}
        swollen = [name for name, value in texts.items() if TEXT.decode() in value]
        assert len(swollen) == 1
        places.update(swollen)
    assert places == {"note", "type", "name", "namespace"}


def test_other_events_pass_unchanged() -> None:
    bookmark = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}'
    for line in (bookmark, event(1, large=True), b"not JSON"):
        assert swell(line, TEXT) == line
