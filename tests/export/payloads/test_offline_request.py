"""The offline registration request, made of a payload."""

import json

import pytest

from telemetryd.export.payloads.payload import CONTENT_TYPE
from telemetryd.export.payloads.scc import (
    normalise_version,
    product_version,
    render_offline_request,
)
from telemetryd.model import Payload
from tests.system.offlinerequest import RELEASES, read_offline_request


@pytest.mark.parametrize(("raw", "expected"), RELEASES.items())
def test_version_of_the_product_is_the_one_that_scc_operator_names(raw: str, expected: str) -> None:
    assert product_version(normalise_version(raw)) == expected


@pytest.mark.parametrize(
    "version", ["02.12.1", "2.012.1", "2.12", "2.12.1.4", "", "v2.12.1", "٢.1.1"]
)
def test_version_that_is_no_release_is_other(version: str) -> None:
    assert product_version(version) == "other"


def test_payload_is_in_it_as_it_is() -> None:
    subscription = {"product": "rancher-prime", "version": "v2.15.0", "arch": "unknown"}
    document = {"version": "2.15.0", "subscription": subscription, "text": "ü<&>\u2028/+"}
    body = json.dumps(document, ensure_ascii=False).encode()
    printed = render_offline_request(
        Payload(body, CONTENT_TYPE, "digest", 1, schema_valid=True, schema_error="")
    ).decode()
    assert read_offline_request(f"{printed}\n") == {
        "product": {"identifier": "rancher-prime", "version": "2.15.0", "arch": "unknown"},
        "system_information": document,
    }
