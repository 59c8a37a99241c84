"""The commands of pages that are not run here, each by its exact text, and why.

A test fails where one is on no page any more.
"""

from typing import Final

_ENGINE = "needs a container engine; `make image-test` builds and runs the image"
_SYSTEMD = "needs systemd as process 1; `make drill` runs the same under one of its own"
_MINUTES = "takes minutes, and .ci/run or its own test runs it"
_INDEX = "fetches from an index; `make install-test` does"
_PACKAGE = "needs the built package; the tests of the package install it"

NOT_RUN: Final[dict[str, str]] = {
    "make bench": _MINUTES,
    "make bench APISERVER=oldest": _MINUTES,
    "make bench BENCH_BUSY=1": _MINUTES,
    "make bench BENCH_KUBECONFIG=throwaway": _MINUTES,
    "make bench BENCH_NODES=1000,10000,100000": _MINUTES,
    "make bench BENCH_OLD=1": _MINUTES,
    "make bench BENCH_ONLY=tiny,rest": _MINUTES,
    "make bench-profile": _MINUTES,
    "make check": _MINUTES,
    "make demo": "installs from an index; the tutorial's `telemetryd demo` is run",
    "make test": _MINUTES,
    "docker build -t registry.example.com/telemetryd:1.0.0 .": _ENGINE,
    "docker run --rm registry.example.com/telemetryd:1.0.0 --version": _ENGINE,
    "docker push registry.example.com/telemetryd:1.0.0": _ENGINE,
    "docker save -o telemetryd-image.tar registry.example.com/telemetryd:1.0.0": _ENGINE,
    "docker load -i telemetryd-image.tar": _ENGINE,
    "docker tag registry.example.com/telemetryd:1.0.0"
    " registry.internal.example/telemetryd:1.0.0": _ENGINE,
    "docker push registry.internal.example/telemetryd:1.0.0": _ENGINE,
    "docker run --read-only --cap-drop=all --security-opt=no-new-privileges -p 10464:10464"
    " -v ./kubeconfig:/etc/telemetryd/kubeconfig:ro -e KUBECONFIG=/etc/telemetryd/kubeconfig"
    " -v telemetryd:/var/lib/telemetryd telemetryd:1.0.0": _ENGINE,
    "apt install ./telemetryd_*.deb": _PACKAGE,
    "make install": _SYSTEMD,
    "make uninstall": _SYSTEMD,
    "install -m 0600 ~/.kube/config /etc/telemetryd/kubeconfig": _SYSTEMD,
    "systemctl enable --now telemetryd": _SYSTEMD,
    "systemctl reload telemetryd": _SYSTEMD,
    "systemctl status telemetryd": _SYSTEMD,
    "journalctl -u telemetryd": _SYSTEMD,
    "PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheels make install": _INDEX,
    "pip download --no-deps --require-hashes --only-binary :all: -d wheels"
    " -r requirements.lock -r requirements-build.lock": _INDEX,
}
"""The text without its remark, and the reason."""
