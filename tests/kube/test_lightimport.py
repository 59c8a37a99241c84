"""The library's loaders come without its models, and the library stays whole for others."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.certificates import Authority


def run(code: str, *arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_loaders_leave_nothing_behind_and_use_the_library_as_it_is_once_it_is_whole() -> None:
    code = (
        "import sys, telemetryd.kube.loader as loader\n"
        "print(loader.KubeConfigLoader.__module__, loader.Configuration().verify_ssl)\n"
        "print(sum(name.startswith('kubernetes_asyncio') for name in sys.modules))\n"
        "import kubernetes_asyncio\n"
        "print(kubernetes_asyncio.client.CoreV1Api.__name__)\n"
        "print(kubernetes_asyncio.config.kube_config.ApiClient.__name__)\n"
        "for name in [*sys.modules]:\n"
        "    if name.startswith('telemetryd'):\n"
        "        del sys.modules[name]\n"
        "import telemetryd.kube.loader as again\n"
        "print(again is loader, again.Configuration is kubernetes_asyncio.client.Configuration)\n"
    )
    assert run(code).splitlines() == [
        "kubernetes_asyncio.config.kube_config True",
        "0",
        "CoreV1Api",
        "ApiClient",
        "False True",
    ]


def test_library_of_another_shape_is_imported_plainly() -> None:
    code = (
        "import telemetryd.kube.lightimport as light\n"
        "def fail(*_): raise AttributeError\n"
        "light._package = fail\n"
        "import sys, telemetryd.kube.loader as loader\n"
        "print('kubernetes_asyncio.client.models' in sys.modules)\n"
        "print(loader.Configuration().verify_ssl)\n"
    )
    assert run(code) == "True\nTrue"


def test_client_is_imported_without_the_library() -> None:
    code = (
        "import sys, telemetryd.kube.client\n"
        "import telemetryd.informer.informer, telemetryd.informer.source\n"
        "print([name for name in sys.modules if name.startswith('kubernetes')])\n"
    )
    assert run(code) == "[]"


def test_authorities_of_the_system_are_read_for_the_first_request_that_needs_them(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    code = (
        "import asyncio, ssl, sys\n"
        "from telemetryd.kube.lightimport import LateAuthorities, import_aiohttp\n"
        "read = ssl.SSLContext.load_default_certs\n"
        "import_aiohttp()\n"
        "import aiohttp, gc\n"
        "print(ssl.SSLContext.load_default_certs is read)\n"
        "late = [each for each in gc.get_objects() if isinstance(each, LateAuthorities)]\n"
        "print([each.cert_store_stats()['x509'] for each in late])\n"
        "async def ask():\n"
        "    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "    context.load_cert_chain(*sys.argv[1:])\n"
        "    server = await asyncio.start_server(answer, '127.0.0.1', 0, ssl=context)\n"
        "    port = server.sockets[0].getsockname()[1]\n"
        "    async with server, aiohttp.ClientSession() as session:\n"
        "        for name in ('127.0.0.1', 'localhost'):\n"
        "            try:\n"
        "                async with session.get(f'https://{name}:{port}/') as answered:\n"
        "                    print(answered.status)\n"
        "            except aiohttp.ClientConnectorCertificateError:\n"
        "                print('refused')\n"
        "async def answer(reader, writer):\n"
        "    await reader.readuntil(b'\\r\\n\\r\\n')\n"
        "    writer.write(b'HTTP/1.1 204 No Content\\r\\n\\r\\n')\n"
        "    await writer.drain()\n"
        "    writer.close()\n"
        "asyncio.run(ask())\n"
        "print([each.cert_store_stats()['x509'] for each in late], type(late[0]).__name__)\n"
    )
    pair = authority.issue("server")
    for trusted, said in ((authority.ca, "204"), (Authority(tmp_path, "other").ca, "refused")):
        printed = run(
            code, str(pair.cert), str(pair.key), SSL_CERT_FILE=str(trusted), SSL_CERT_DIR=""
        )
        assert printed.splitlines() == ["True", "[0]", said, "refused", "[1] SSLContext"]
