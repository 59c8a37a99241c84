"""The library's loaders come without its models, and the library stays whole for others."""

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
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
