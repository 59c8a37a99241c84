"""Anonymous ids: what they are made of, and what they are not."""

import hmac
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.gather.counts import anonymous_id
from tests.gather.readers import INSTALL_UUID

uids = st.one_of(st.uuids().map(str), st.text(min_size=1, max_size=40))


def test_id_is_what_anyone_can_make_from_uid_and_install_uuid() -> None:
    key = bytes.fromhex(INSTALL_UUID.replace("-", ""))
    uid = "0d3c4f52-3d0b-4b53-8a44-d0a8c6a6fd1e"
    digits = list(hmac.new(key, uid.encode(), "sha256").hexdigest()[:32])
    digits[12] = "8"
    digits[16] = "89ab"[int(digits[16], 16) % 4]
    made = anonymous_id(uid, INSTALL_UUID)
    assert made.replace("-", "") == "".join(digits)
    assert made == "bea23d2f-e849-860d-969e-c3b63743c3bd"


@given(uids, st.uuids())
def test_id_is_a_uuid_of_version_8(uid: str, install: UUID) -> None:
    made = UUID(anonymous_id(uid, str(install)))
    assert (made.version, made.variant) == (8, RFC_4122)
    assert anonymous_id(uid, str(install)) == str(made)
    assert anonymous_id(uid, str(install).upper()) == str(made)


@given(uids, uids, st.uuids(), st.uuids())
def test_another_cluster_or_installation_has_another_id(
    uid: str, other_uid: str, install: UUID, other_install: UUID
) -> None:
    made = anonymous_id(uid, str(install))
    assert (anonymous_id(other_uid, str(install)) == made) is (uid == other_uid)
    assert (anonymous_id(uid, str(other_install)) == made) is (install == other_install)


def test_ids_of_many_clusters_never_meet() -> None:
    ids = {anonymous_id(str(uuid4()), INSTALL_UUID) for _ in range(10_000)}
    assert len(ids) == 10_000


def test_install_uuid_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        anonymous_id("uid", "not a uuid")
