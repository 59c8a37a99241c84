"""SecretRequests of people who mean harm: any JSON where the kind has a structure."""

import json
from typing import Any, Final

from hypothesis import strategies as st

from tests.system.scc import NAMESPACE, SECRET

_TEXTS = st.sampled_from([
    "", "scc", "True", "False", "\0", "\x1b[2J", "a\nb", "\u202e", "\ud7ff", "\U0001f600",
    "x" * 300, "x" * 30_000, "%s%n", "{}", "'", '"', "Progressing", "Done", "Failure",
    "2026-01-01T00:00:00Z", "9999-99-99T99:99:99Z", "0001-01-01T00:00:00+23:59", "<script>",
    "../..", "kube-system", NAMESPACE, SECRET, "Secret can't be written", "a.b", "-", "A",
    "\u00fc", "Secret Request is in an invalid state",
]) | st.text(max_size=12)  # fmt: skip
_NUMBERS = st.sampled_from([0, -1, 1, 2**53, 2**63 - 1, -(2**63), 1.5, 1e308, -0.0])
_SCALARS = st.none() | st.booleans() | _NUMBERS | _TEXTS
ANY: Final = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | _TEXTS, inner, max_size=4)
    ),
    max_leaves=8,
)


def _maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object of which any field may be missing, or anything."""
    return st.fixed_dictionaries({}, optional={k: v | v | ANY for k, v in fields.items()})


_CONDITION = _maybe(
    type=st.sampled_from(["Progressing", "Done", "Failure", "Ready"]),
    status=st.sampled_from(["True", "False", "Unknown"]),
    reason=_TEXTS,
    message=_TEXTS,
    lastUpdateTime=_TEXTS,
    lastTransitionTime=_TEXTS,
)
_SPEC = _maybe(
    secretType=st.just("scc") | _TEXTS,
    targetSecretRef=_maybe(
        name=st.just(SECRET) | _TEXTS, namespace=st.just(NAMESPACE) | _TEXTS
    ),
)  # fmt: skip
_STATUS = _maybe(conditions=st.lists(_CONDITION | ANY, max_size=6), lastSyncTS=_TEXTS)
PARTS: Final = st.fixed_dictionaries({}, optional={"spec": _SPEC | ANY, "status": _STATUS | ANY})
"""What of an object is its author's."""

_META = _maybe(
    name=_TEXTS,
    namespace=_TEXTS,
    uid=_TEXTS,
    resourceVersion=_TEXTS,
    creationTimestamp=_TEXTS,
    deletionTimestamp=_TEXTS,
    labels=ANY,
    annotations=ANY,
    finalizers=ANY,
)
_OBJECTS = st.builds(
    lambda parts, more, meta: {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        **more,
        **parts,
        "metadata": meta,
    },
    PARTS,
    st.dictionaries(st.sampled_from(["apiVersion", "kind", "x"]), ANY, max_size=2),
    _META | ANY,
)
_RAW = st.sampled_from([
    b"", b"null", b"[]", b"{", b"\xff", b'{"metadata":{"uid":"\\ud800","name":"a"}}', b"[" * 5000,
    b'{"metadata":{"name":"a","uid":"u"},"spec":{"secretType":"\\ud800"}}', b'{"metadata":' * 2000,
    b'{"metadata":{"name":"a","uid":"u"},"spec":' + b'{"a":' * 3000 + b"1" + b"}" * 3001,
    b'{"metadata":{"name":"a","uid":"u"},"status":{"conditions":' + b"[" * 3000,
    b'{"metadata":{"name":"a","uid":"u"},"spec":{"secretType":"scc","secretType":1e999}}',
    b'{"metadata":{"name":"a","uid":"u"},"spec":{"targetSecretRef":{"name":"\xc3\x28"}}}',
    b'{"metadata":{"name":"a","uid":"u","creationTimestamp":' + b"9" * 5000 + b"}}",
    b'{"metadata":{"name":"a","uid":"u"},"metadata":null}', b'{"kind":"\\u0000"}',
    b"\xef\xbb\xbf{}",
])  # fmt: skip


def _spoil(found: tuple[bytes, list[tuple[float, bytes]]]) -> bytes:
    content, spoils = bytearray(found[0]), found[1]
    for place, put in spoils:
        at = int(place * len(content))
        content[at : at + 1] = put
    return bytes(content)


LINES: Final = (
    st.tuples(
        _OBJECTS.map(lambda found: json.dumps(found).encode()),
        st.just([])
        | st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)), max_size=2),
    ).map(_spoil)
    | _RAW
)
"""Of a list or a watch: mostly JSON, and not as the API server would send it."""
