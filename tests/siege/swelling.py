"""A proxy before the API server that swells SecretRequests on their way to the daemon.

`python -m tests.siege.swelling URL CA_FILE FOLDER BYTES` is a process of its own. It prints the
cluster to put into a kubeconfig, as JSON, and serves until stdin closes.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

from tests.faults.proxy import FaultProxy

SWOLLEN = "swell-"
"""Names that begin so are of objects to be swollen."""

_FIELDS = (b'"secretType":"', b'"namespace":"', b'"name":"', b'"note":"')
_MARKER = b'"spec":{'


@contextlib.contextmanager
def swelling(url: str, ca_file: Path, folder: Path, text_bytes: int) -> Iterator[dict[str, str]]:
    """The proxy's cluster, while it runs."""
    command = [sys.executable, "-m", "tests.siege.swelling", url, str(ca_file), str(folder)]
    with Popen([*command, str(text_bytes)], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            cluster: dict[str, str] = json.loads(process.stdout.readline())
            yield cluster
        finally:
            process.stdin.close()
            process.wait(20)


def swell(line: bytes, text: bytes) -> bytes:
    """One event of a watch, with the text put into one field of the request's spec.

    Which field it is goes by the last letter of the name, so that each gets its turn.
    """
    found = line.find(b'"name":"' + SWOLLEN.encode())
    spec = line.find(_MARKER)
    if found < 0 or spec < 0:
        return line
    end = line.index(b'"', found + len(b'"name":"'))
    field = _FIELDS[line[end - 1] % len(_FIELDS)]
    place = line.find(field, spec)
    if place < 0:
        return line
    place += len(field)
    return line[:place] + text + line[place:]


def main(arguments: list[str]) -> int:
    """Serves until stdin closes."""
    url, ca_file, folder, text_bytes = arguments
    text = b"t" * int(text_bytes)
    proxy = FaultProxy(url, Path(ca_file), Path(folder))
    with proxy.running():
        proxy.edit("secretrequests", lambda line: swell(line, text))
        sys.stdout.write(json.dumps(proxy.cluster()) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
