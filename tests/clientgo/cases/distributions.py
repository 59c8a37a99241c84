"""Kubeconfigs as the distributions write them."""

from typing import Any, Final

from tests.clientgo.table import Case

_V1BETA1: Final = "client.authentication.k8s.io/v1beta1"
_V1: Final = "client.authentication.k8s.io/v1"
_GRANTS: Final = """#!/bin/sh
echo '{"kind": "ExecCredential", "apiVersion": "VERSION", "spec": {}, "status":
 {"expirationTimestamp": "2099-01-01T00:00:00Z", "token": "k8s-aws-v1.granted"}}'
"""
_PATH: Final = {"PATH": "@dir@/bin:/usr/bin:/bin"}


def _kubeconfig(
    name: str,
    cluster: str,
    user: str,
    *,
    context: str = "",
    user_name: str = "",
    cluster_name: str = "",
    top: str = "",
) -> str:
    user_name, cluster_name = user_name or name, cluster_name or name
    return f"""apiVersion: v1
clusters:
- cluster:
{_indented(cluster)}
  name: {cluster_name}
contexts:
- context:
    cluster: {cluster_name}
    user: {user_name}{context}
  name: {name}
current-context: {name}
kind: Config
preferences: {{}}
{top}users:
- name: {user_name}
  user:{_body(user)}
"""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _body(text: str) -> str:
    return " " + text if text == "{}" else "\n" + _indented(text)


_CA: Final = "certificate-authority-data: @b64:ca.crt@\n"
_ARN: Final = "arn:aws:eks:eu-west-1:123456789012:cluster/prod"
_EKS_SERVER: Final = "https://0123456789ABCDEF0123456789ABCDEF.gr7.eu-west-1.eks.example.test"
_PAIR: Final = "client-certificate-data: @b64:client.crt@\nclient-key-data: @b64:client.key@"
_FILES: Final[dict[str, Any]] = {
    "bin/aws": _GRANTS.replace("VERSION", _V1BETA1),
    "bin/gke-gcloud-auth-plugin": _GRANTS.replace("VERSION", _V1BETA1),
    "bin/kubelogin": _GRANTS.replace("VERSION", _V1BETA1),
    "bin/rancher": _GRANTS.replace("VERSION", _V1BETA1),
    "bin/doctl": _GRANTS.replace("VERSION", _V1BETA1),
    "bin/oci": _GRANTS.replace("VERSION", _V1BETA1),
    "bin/kubectl": _GRANTS.replace("VERSION", _V1),
    ".minikube/ca.crt": "@text:ca.crt@",
    ".minikube/client.crt": "@text:client.crt@",
    ".minikube/client.key": "@text:client.key@",
}
_UNCHECKED: Final = "insecure-skip-tls-verify: true\n"

_TEXTS: Final[dict[str, str]] = {
    "EKS": _kubeconfig(
        _ARN,
        _CA + "server: https://api.example.test",
        f"""exec:
  apiVersion: {_V1BETA1}
  args:
  - --region
  - eu-west-1
  - eks
  - get-token
  - --cluster-name
  - prod
  - --output
  - json
  command: aws
  env:
  - name: AWS_PROFILE
    value: prod
  interactiveMode: IfAvailable
  provideClusterInfo: false""",
    ),
    "EKS, as the tool of AWS wrote it first": _kubeconfig(
        "prod",
        _CA + "server: https://api.example.test",
        "exec:\n  apiVersion: client.authentication.k8s.io/v1alpha1\n  args: [token, -i, prod]\n"
        "  command: aws\n  env: null",
    ),
    "EKS, its host in capitals": _kubeconfig(
        _ARN,
        _UNCHECKED + f"server: {_EKS_SERVER}",
        f"exec:\n  apiVersion: {_V1BETA1}\n  args: [eks]\n  command: aws",
    ),
    "GKE": _kubeconfig(
        "gke_project_europe-west1_prod",
        _CA + "server: https://127.0.0.1:@port@",
        f"""exec:
  apiVersion: {_V1BETA1}
  command: gke-gcloud-auth-plugin
  installHint: Install gke-gcloud-auth-plugin for use with kubectl by following
    https://cloud.example.test/kubernetes-engine/docs
  provideClusterInfo: true""",
    ),
    "GKE, as it was": _kubeconfig(
        "gke_project_europe-west1_old",
        _CA + "server: https://127.0.0.1:@port@",
        "auth-provider:\n  config:\n    cmd-args: config config-helper --format=json\n"
        "    cmd-path: gcloud\n    expiry-key: '{.credential.token_expiry}'\n"
        "    token-key: '{.credential.access_token}'\n  name: gcp",
    ),
    "GKE by the Connect gateway": _kubeconfig(
        "connectgateway_p_global_m",
        _UNCHECKED
        + "server: https://api.example.test/v1/projects/1/locations/global/memberships/m",
        f"exec:\n  apiVersion: {_V1BETA1}\n  command: gke-gcloud-auth-plugin\n"
        "  provideClusterInfo: true",
    ),
    "AKS": _kubeconfig(
        "prod",
        _CA + "server: https://api.example.test:443",
        _PAIR + "\ntoken: " + "a1" * 64,
        user_name="clusterUser_group_prod",
    ),
    "AKS with kubelogin": _kubeconfig(
        "prod",
        _CA + "server: https://api.example.test:443",
        f"""exec:
  apiVersion: {_V1BETA1}
  args:
  - get-token
  - --environment
  - AzurePublicCloud
  - --server-id
  - 6dae42f8-4368-4678-94ff-3960e28e3630
  command: kubelogin
  env: null
  installHint: |2

    kubelogin is not installed which is required to connect to AAD enabled cluster.
  provideClusterInfo: false""",
    ),
    "AKS, as it was": _kubeconfig(
        "prod",
        _CA + "server: https://api.example.test:443",
        "auth-provider:\n  config:\n    apiserver-id: a\n    client-id: b\n    tenant-id: c\n"
        "  name: azure",
    ),
    "Rancher": _kubeconfig(
        '"prod"',
        'server: "https://api.example.test/k8s/clusters/c-m-abcdefgh"\n'
        'certificate-authority-data: "@b64:ca.crt@"',
        'token: "kubeconfig-user-x:abcdef"',
    ),
    "Rancher with lines in the CA": _kubeconfig(
        '"local"',
        'server: "https://api.example.test/k8s/clusters/local"\n'
        'certificate-authority-data: "@b64lines:ca.crt@"',
        'token: "kubeconfig-u:abc"',
    ),
    "Rancher without a CA": _kubeconfig(
        '"prod"', 'server: "https://api.example.test/k8s/clusters/c-1"', 'token: "kubeconfig-u:abc"'
    ),
    "Rancher with its own plugin": _kubeconfig(
        '"prod"',
        'server: "https://api.example.test/k8s/clusters/c-1"\n' + _CA.rstrip(),
        f"exec:\n  apiVersion: {_V1BETA1}\n  args:\n    - token\n    - --server=api.example.test\n"
        "    - --user=user-x\n  command: rancher",
    ),
    "Rancher with a namespace": _kubeconfig(
        '"prod"',
        _CA + 'server: "https://api.example.test/k8s/clusters/c-1"',
        'token: "kubeconfig-u:abc"',
        context='\n    namespace: "cattle-system"',
    ),
    "RKE2": _kubeconfig("default", _CA + "server: https://127.0.0.1:@port@", _PAIR),
    "k3s": _kubeconfig("default", _CA + "server: https://127.0.0.1:@port@", _PAIR),
    "k3s, as it was": _kubeconfig(
        "default",
        _CA + "server: https://127.0.0.1:@port@",
        "password: 0123456789abcdef\nusername: admin",
    ),
    "RKE1": _kubeconfig(
        '"local"',
        'server: "https://127.0.0.1:@port@"\napi-version: v1\n' + _CA,
        "client-certificate-data: @b64:client.crt@\nclient-key-data: @b64:client.key@",
        user_name='"kube-admin-local"',
        cluster_name='"local"',
    ),
    "kind": _kubeconfig("kind-kind", _CA + "server: https://127.0.0.1:@port@", _PAIR),
    "kubeadm": _kubeconfig(
        "kubernetes-admin@kubernetes",
        _CA + "server: https://api.example.test:6443",
        _PAIR,
        user_name="kubernetes-admin",
        cluster_name="kubernetes",
    ),
    "kubelet": _kubeconfig(
        "default-context",
        _CA + "server: https://127.0.0.1:@port@",
        "client-certificate: @dir@/.minikube/client.crt\nclient-key: @dir@/.minikube/client.key",
    ),
    "minikube": _kubeconfig(
        "minikube",
        "certificate-authority: @dir@/.minikube/ca.crt\n"
        "extensions:\n- extension:\n    last-update: Mon, 01 Jan 2024 00:00:00 UTC\n"
        "    provider: minikube.sigs.k8s.io\n    version: v1.32.0\n  name: cluster_info\n"
        "server: https://127.0.0.1:@port@",
        "client-certificate: .minikube/client.crt\nclient-key: .minikube/client.key",
        context="\n    extensions:\n    - extension:\n        version: v1.32.0\n"
        "      name: context_info\n    namespace: default",
    ),
    "OpenShift": _kubeconfig(
        "default/api-example-test:6443/kube:admin",
        _CA + "server: https://api.example.test:6443",
        "token: sha256~abcdefghijklmnop",
        user_name="kube:admin/api-example-test:6443",
        cluster_name="api-example-test:6443",
        context="\n    namespace: default",
    ),
    "OpenShift, unchecked": _kubeconfig(
        "default/api-example-test:6443/admin",
        _UNCHECKED + "server: https://api.example.test:6443",
        "token: sha256~abcdefghijklmnop",
    ),
    "MicroK8s": _kubeconfig(
        "microk8s",
        _CA + "server: https://127.0.0.1:@port@",
        "token: YWJjZGVm",
        user_name="admin",
        cluster_name="microk8s-cluster",
    ),
    "Docker Desktop": _kubeconfig("docker-desktop", _CA + "server: https://kubernetes:6443", _PAIR),
    "DigitalOcean": _kubeconfig(
        "do-fra1-prod",
        _CA + "server: https://api.example.test",
        f"exec:\n  apiVersion: {_V1BETA1}\n  args:\n  - kubernetes\n  - cluster\n  - kubeconfig\n"
        "  - exec-credential\n  - --version=v1beta1\n  command: doctl\n  env: null\n"
        "  interactiveMode: IfAvailable\n  provideClusterInfo: false",
    ),
    "Oracle": _kubeconfig(
        "context-c",
        _CA + "server: https://127.0.0.1:@port@",
        f"exec:\n  apiVersion: {_V1BETA1}\n  args: [ce, cluster, generate-token]\n  command: oci\n"
        "  env: []",
    ),
    "OIDC by a plugin of kubectl": _kubeconfig(
        "oidc",
        _CA + "server: https://127.0.0.1:@port@",
        f"exec:\n  apiVersion: {_V1}\n  args: [oidc-login, get-token]\n  command: kubectl\n"
        "  env: null\n  interactiveMode: IfAvailable\n  provideClusterInfo: false",
    ),
    "Teleport": _kubeconfig(
        "teleport-prod",
        _CA + "server: https://api.example.test:443\ntls-server-name: kubernetes",
        f"exec:\n  apiVersion: {_V1BETA1}\n  args: [kube]\n  command: rancher\n  env: []",
    ),
    "vcluster": _kubeconfig("my-vcluster", _CA + "server: https://localhost:@port@", _PAIR),
    "Talos": _kubeconfig(
        "admin@talos",
        _CA + "server: https://api.example.test:6443",
        _PAIR,
        context="\n    namespace: default",
    ),
}

CASES: Final = tuple(
    Case(f"distribution: {name}", text=text, files=_FILES, env=_PATH)
    for name, text in _TEXTS.items()
)
