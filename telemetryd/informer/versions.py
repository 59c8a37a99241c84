"""Resource versions: which of two is the older one, where that can be told.

What follows from it doesn't belong here.
"""


def is_older(version: str, held: str) -> bool:
    """Whether one resource version of a resource is certainly older than another.

    Only decimals without a leading zero compare (KEP-5504): by length, then as text. Where either
    is anything else nothing is certain.
    """
    if not (_is_comparable(version) and _is_comparable(held)):
        return False
    return (len(version), version) < (len(held), held)


def _is_comparable(version: str) -> bool:
    return version.isascii() and version.isdigit() and not version.startswith("0")
