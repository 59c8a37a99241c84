"""Texts of nodes and clusters: what real ones say leaves, what anyone adds to them never does."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.gather import texts
from telemetryd.gather.texts import OTHER

KERNELS = [
    "5.14.0-427.13.1.el9_4.x86_64",
    "4.18.0-553.22.1.el8_10.x86_64",
    "3.10.0-1160.el7.x86_64",
    "5.14.0-427.13.1.el9_4.x86_64+rt",
    "5.14.0-503.el9.aarch64+64k",
    "6.4.0-150600.23.47-default",
    "5.14.21-150500.55.83-default",
    "5.14.21-150400.15.100-rt",
    "6.4.0-24-default",
    "4.12.14-122.231-default",
    "5.15.0-1050-aws",
    "6.8.0-45-generic",
    "5.4.0-1103-azure",
    "6.5.0-1020-gcp",
    "5.15.0-1062-gke",
    "5.15.0-1045-nvidia",
    "6.8.0-1010-raspi",
    "5.15.0-122-lowlatency",
    "5.4.0-1103-azure-fips",
    "6.1.0-25-amd64",
    "6.1.0-25-cloud-amd64",
    "5.10.0-33-rt-amd64",
    "6.12.12+bpo-amd64",
    "6.1.0-0.deb11.21-amd64",
    "6.1.96-flatcar",
    "5.15.136-flatcar-r1",
    "6.1.102",
    "5.15.164",
    "5.10.186-179.751.amzn2.x86_64",
    "6.1.109-118.189.amzn2023.x86_64",
    "6.6.43-talos",
    "6.1.90+",
    "5.15.109+",
    "5.15.158.2-1.cm2",
    "6.6.57.1-6.azl3",
    "5.10.190-3.ph4-esx",
    "4.19.277-2.ph3",
    "5.15.0-205.149.5.1.el8uek.x86_64",
    "6.10.9-200.fc40.x86_64",
    "10.0.17763.5820",
    "10.0.20348.2700",
    "5.15.153.1-microsoft-standard-WSL2",
    "6.6.32-linuxkit",
    "6.6.31+rpt-rpi-v8",
    "6.6.49-0-lts",
    "6.6.49-0-virt",
    "6.8.12-1-pve",
    "6.8.0-rc1",
    "6.10.6-arch1-1",
    "5.10.134-16.al8.x86_64",
    "5.10.0-60.18.0.50.oe2203.x86_64",
]

RUNTIMES = [
    "containerd://2.0.5-k3s1",
    "containerd://1.7.12",
    "containerd://1.7.23-k3s2",
    "docker://20.10.7",
    "docker://24.0.9",
    "containerd://1.6.6+bottlerocket",
    "containerd://1.6.9+unknown",
    "containerd://Unknown",
    "docker://3.0.10+azure",
    "cri-o://1.28.1",
    "cri-o://1.18.3-11.rhaos4.5.gite5bcc71.el7",
    "containerd://1.5.11-k3s2",
    "containerd://2.0.0-rc.5",
    "containerd://v1.7.0-k3s1",
    "containerd://1.6.12-0ubuntu1~22.04.1",
    "containerd://1.7.11-k3s2.21",
    "containerd://2.1.4-k3s1.33",
]

KUBERNETES = [
    "v1.32.5+rke2r1",
    "v1.33.4+k3s1",
    "v1.31.0-eks-a737599",
    "v1.30.5-gke.1014001",
    "v1.29.2",
    "v1.28.7+vmware.1-fips.1",
    "v1.27.3+IKS",
    "v1.27.10-aliyun.1",
    "v1.29.8-tke.4",
    "v1.29.8+632b078",
    "v1.28.3-r0-28.0.8.5",
    "v1.32.0-rc.1",
    "v1.32.0-alpha.1",
    "v1.29.1+k0s.1",
    "v1.27.7-mirantis-1",
    "v1.24.17-rancher1-1",
    "v1.32.5-rc3+rke2r1",
]

PRODUCTS = [
    "v2.15.0",
    "dev",
    "v2.12.1-rc3",
    "v2.9.4-rc.1",
    "v2.12.1+up1",
    "v2.15-59bd052e-head",
    "v2.12-abc-head",
    "v2.15-head",
    "main-head",
    "v2.16.0-alpha8",
    "v2.11.2-debug-1",
    "v2.12.3-hotfix-59bd.2",
    "v2.15",
    "v2.12.1-",
    "",
]

SUFFIXES = ("customer-name", "acme", "prod", "berlin", "x@y", "a\x00b", "\n", "\x1b[31m", " ", "é")


@pytest.mark.parametrize(
    ("clean", "known"),
    [
        (texts.kernel_version, KERNELS),
        (texts.container_runtime, RUNTIMES),
        (texts.kubernetes_version, KUBERNETES),
        (texts.architecture, [*sorted(texts.ARCHITECTURES), "AMD64", ""]),
        (texts.operating_system, [*sorted(texts.OPERATING_SYSTEMS), ""]),
        (texts.product_version, PRODUCTS),
        (texts.build_commit, ["59bd052e", "a" * 40, "HEAD", "unknown", "59bd052e-dirty", ""]),
        (texts.feature_name, ["rke2", "provisioningv2-fleet-workspace-back-population", "x", ""]),
    ],
)
def test_what_real_ones_say_leaves_as_it_is(clean: object, known: list[str]) -> None:
    assert callable(clean)
    assert [text for text in known if clean(text) != text] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("separator", ["-", ".", "+", "_", ""])
def test_what_anyone_adds_never_leaves(suffix: str, separator: str) -> None:
    end = separator + suffix
    for kernel in KERNELS[:12]:
        assert texts.kernel_version(kernel + end) == OTHER
        assert texts.kernel_version(suffix + separator + kernel) == OTHER
    assert {texts.container_runtime(text + end) for text in RUNTIMES} == {OTHER}
    assert texts.container_runtime(f"{suffix}://1.2.3") == OTHER
    assert {texts.kubernetes_version(text + end) for text in KUBERNETES} == {OTHER}
    assert {texts.product_version(text + end) for text in PRODUCTS} == {OTHER}
    assert texts.build_commit("59bd052e" + end) == OTHER
    assert texts.architecture("amd64" + end) == OTHER
    assert texts.operating_system("linux" + end) == OTHER


def test_texts_are_bounded() -> None:
    assert texts.kernel_version("5.14.0" + "-1" * 17) == OTHER
    assert texts.kernel_version("5." + "1" * 11) == OTHER
    assert texts.kubernetes_version("v1.2.3+" + "0" * 200) == OTHER
    assert texts.product_version("v" * 129) == OTHER
    assert texts.product_version("v2.15.0\n") == OTHER
    assert texts.build_commit("f" * 129) == texts.feature_name("f" * 64) == OTHER
    assert {texts.feature_name(text) for text in ("-a", "a-", "a.b", "A", "a\n")} == {OTHER}


WORD = st.text(string.ascii_lowercase, min_size=9, max_size=20)


@given(WORD, st.sampled_from(KERNELS), st.sampled_from("-.+_"))
def test_no_long_word_leaves_with_a_kernel(word: str, kernel: str, separator: str) -> None:
    said = texts.kernel_version(f"{kernel}{separator}{word}")
    assert said == OTHER or word in texts._WORDS


@given(st.text())
def test_no_control_character_ever_leaves(text: str) -> None:
    for clean in (
        texts.architecture, texts.operating_system, texts.container_runtime, texts.kernel_version,
        texts.kubernetes_version, texts.product_version, texts.build_commit, texts.feature_name,
        texts.kubernetes_minor, texts.provider, texts.driver, texts.provider_of_version,
    ):  # fmt: skip
        assert clean(text).isascii()
        assert clean(text).isprintable()


@pytest.mark.parametrize(
    ("version", "minor"),
    [
        ("v1.33.1", "1.33"),
        ("1.9.0", "1.9"),
        ("v1.33.1+rke2r1", "1.33"),
        ("v1.31.2-eks-7f9249a", "1.31"),
        ("v1.33", "1.33"),
        ("v1.333.1", "other"),
        ("v2.0.0", "other"),
        ("v1", "other"),
        ("other", "other"),
        ("", "other"),
        ("v1.\u0663\u0663.1", "other"),
    ],
)
def test_minor_versions_have_one_form(version: str, minor: str) -> None:
    assert texts.kubernetes_minor(version) == minor
