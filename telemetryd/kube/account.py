"""Who a bearer token is for, as far as the token itself tells.

It isn't verified, for nothing is decided by it: it only names an account in what people read.
"""

import binascii
from base64 import urlsafe_b64decode
from typing import Final

import msgspec

_PREFIX: Final = "system:serviceaccount:"


class _Claims(msgspec.Struct, gc=False):
    sub: str = ""


def service_account_of(header: str | None) -> tuple[str, str] | None:
    """Namespace and name of the ServiceAccount that a token was issued to.

    Args:
        header: Value of the Authorization header.

    Returns:
        None where it isn't the JSON Web Token of a ServiceAccount.
    """
    scheme, _, token = (header or "").partition(" ")
    parts = token.split(".")
    if scheme.lower() != "bearer" or len(parts) != 3:  # noqa: PLR2004 - RFC 7515: three parts
        return None
    try:
        claims = urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        subject = msgspec.json.decode(claims, type=_Claims).sub
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    return service_account_named(subject)


def service_account_named(subject: str) -> tuple[str, str] | None:
    """Namespace and name of the ServiceAccount that a user name stands for, None for another."""
    names = subject.removeprefix(_PREFIX).split(":")
    if not subject.startswith(_PREFIX) or len(names) != 2:  # noqa: PLR2004 - namespace and name
        return None
    return names[0], names[1]
