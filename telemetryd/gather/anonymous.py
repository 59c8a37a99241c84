"""Pseudonymous ids: the same for a cluster as long as it lives.

The key is in the payload, so anyone who knows the UID of a cluster's object can compute its id: all
who can read the clusters of the installation. On plain Kubernetes the payload has the UID as well.

Which clusters have one, and whether it is sent, doesn't belong here.
"""

import hmac
from uuid import UUID

_VERSION_BYTE = 6
_VARIANT_BYTE = 8


def anonymous_id(uid: str, install_uuid: str) -> str:
    """The id of a cluster within an installation, as text in lower case.

    It is a UUIDv8 (RFC 9562, section 5.8): the first 16 bytes of the HMAC-SHA256 of the UID's UTF-8
    text, keyed with the 16 bytes of the install UUID, with version and variant set. The key stands
    in the payload, so that the id hides no more than its input does: a UID is random, where a name
    could be guessed and tried.

    Args:
        uid: ``metadata.uid`` of the cluster's object; of kube-system where there is no such object.
        install_uuid: Of the installation, in either case.

    Raises:
        ValueError: The install UUID isn't a UUID.
    """
    made = bytearray(hmac.digest(UUID(install_uuid).bytes, uid.encode(), "sha256")[:16])
    made[_VERSION_BYTE] = made[_VERSION_BYTE] & 0x0F | 0x80
    made[_VARIANT_BYTE] = made[_VARIANT_BYTE] & 0x3F | 0x80
    return str(UUID(bytes=bytes(made)))
