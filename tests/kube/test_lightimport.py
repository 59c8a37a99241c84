"""The library's loaders come without its models, and the library stays whole for others."""

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


COUNT = """
import sys
import telemetryd.kube.loader as loader
print(loader.KubeConfigLoader.__module__, loader.Configuration().verify_ssl)
print(sum(name.startswith("kubernetes_asyncio") for name in sys.modules))
"""


def test_loaders_are_imported_without_the_models_and_nothing_stays_behind() -> None:
    assert run(COUNT) == "kubernetes_asyncio.config.kube_config True\n0"


def test_library_is_whole_for_who_imports_it_later() -> None:
    code = COUNT + (
        "import kubernetes_asyncio\n"
        "print(kubernetes_asyncio.client.CoreV1Api.__name__)\n"
        "print(kubernetes_asyncio.config.kube_config.ApiClient.__name__)\n"
    )
    assert run(code).endswith("CoreV1Api\nApiClient")


def test_library_that_is_imported_already_is_used_as_it_is() -> None:
    code = (
        "import kubernetes_asyncio, telemetryd.kube.loader as loader\n"
        "print(loader.Configuration is kubernetes_asyncio.client.Configuration)\n"
    )
    assert run(code) == "True"


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
