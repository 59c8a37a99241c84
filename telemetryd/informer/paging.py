"""What keeps a list in pages from going on for ever, whatever the server sends.

What the pages hold doesn't belong here.
"""

from telemetryd.errors import BadResponse

MAX_LISTED_OBJECTS = 2_000_000
"""In one list, and held: twenty times the largest fleet that is planned for."""

MAX_TOKEN_CHARS = 8 * 1024
"""Of a continue token, which travels in a URL; those of API servers have a few hundred."""

MAX_BARREN_PAGES = 100
"""In a row without any object that has a name; a field selector may make a few empty ones."""


class Paging:
    """One list's way from page to page."""

    def __init__(self, deadline_s: float) -> None:
        """Before the first page.

        Args:
            deadline_s: When the list has to be over, by the clock that ``turn`` is told.
        """
        self._deadline_s = deadline_s
        self._seen: set[int] = set()
        self._barren = 0
        self._keys = 0
        self._objects = 0

    def turn(self, token: str, *, now_s: float, objects: int, named: int, keys: int) -> None:
        """A page has been taken.

        Args:
            token: Of the next page, empty where there is none.
            now_s: The time.
            objects: Objects on the page.
            named: Those of them that have a key.
            keys: Different keys in the list so far.

        Raises:
            BadResponse: The list isn't worth going on with.
        """
        self._objects += objects
        if self._objects > MAX_LISTED_OBJECTS:
            raise BadResponse(f"list: more than {MAX_LISTED_OBJECTS} objects")
        if named and keys == self._keys:
            raise BadResponse("list: a page that only repeats what came before")
        self._barren = 0 if named else self._barren + 1
        self._keys = keys
        if not token:
            return
        if self._barren > MAX_BARREN_PAGES:
            raise BadResponse("list: one page without objects after another")
        if len(token) > MAX_TOKEN_CHARS:
            raise BadResponse("list: a continue token that is too long")
        # Hashes, for the tokens of a hostile server may be long and many.
        if hash(token) in self._seen:
            raise BadResponse("list: the same page again and again")
        self._seen.add(hash(token))
        if now_s >= self._deadline_s:
            raise BadResponse("list: its pages take too long to come to an end")
