"""Reading of Accept and Accept-Encoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.serve.metrics.metrics import wants_gzip, wants_openmetrics

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    "q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROMETHEUS_OLD = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3_PROTOBUF, True),
        (PROMETHEUS_OLD, False),
        ("application/openmetrics-text", True),
        ("APPLICATION/OpenMetrics-Text; Version=1.0.0", True),
        ('application/openmetrics-text; version="1.0.0"', True),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;version=abc", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.9", False),
        ("text/plain,application/openmetrics-text", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_openmetrics_is_given_to_who_prefers_it(accept: str, expected: bool) -> None:
    assert wants_openmetrics(accept) is expected


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("gzip", True),
        ("GZIP;q=0.5, deflate", True),
        ("x-gzip", True),
        ("*", True),
        ("*;q=0, gzip", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=x", False),
        ("identity", False),
        ("", False),
    ],
)
def test_gzip_is_given_to_who_takes_it(accept_encoding: str, expected: bool) -> None:
    assert wants_gzip(accept_encoding) is expected


@given(st.text(alphabet=st.sampled_from('ab/;,=q1.0* "')) | st.text())
def test_any_header_is_read(header: str) -> None:
    assert wants_openmetrics(header) in {True, False}
    assert wants_gzip(header) in {True, False}
