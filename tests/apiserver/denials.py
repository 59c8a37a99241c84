"""What makes an API server deny a Secret to one who has every right: quota, policy, webhook."""

import json
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.apiserver.admin import Admin, AdminError, Object
from tests.support.certificates import Authority

_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_RULE = {
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "operations": ["CREATE", "UPDATE"],
    "resources": ["secrets"],
}
_WITHIN_S = 60.0


def take_up(admin: Admin, namespace: str, said: str) -> None:
    """Wait until the API server denies a Secret in these words; it takes up a rule in moments.

    Raises:
        AssertionError: It still doesn't.
    """
    path = f"/api/v1/namespaces/{namespace}/secrets"
    ends = time.monotonic() + _WITHIN_S
    while time.monotonic() < ends:
        try:
            admin.create(f"{path}?dryRun=All", {"metadata": {"name": "probe"}})
        except AdminError as error:
            if said in str(error.body):
                return
        time.sleep(0.2)
    raise AssertionError(f"no denial with {said!r} within {_WITHIN_S:g} s")


@contextmanager
def quota(admin: Admin, namespace: str) -> Iterator[None]:
    """A quota of no Secrets. There is no controller here that would fill in its status."""
    hard = {"hard": {"secrets": "0"}}
    collection = f"/api/v1/namespaces/{namespace}/resourcequotas"
    made = admin.create(collection, {"metadata": {"name": "none"}, "spec": hard})
    used = {**hard, "used": {"secrets": "0"}}
    admin.put(f"{collection}/none/status", {**made, "status": used})
    try:
        take_up(admin, namespace, "exceeded quota")
        yield
    finally:
        admin.delete(f"{collection}/none")


@contextmanager
def policy(admin: Admin, namespace: str, *, reason: str = "Invalid") -> Iterator[None]:
    """A ValidatingAdmissionPolicy without which no Secret in the namespace comes.

    Args:
        admin: The API server, of Kubernetes 1.30 or newer.
        namespace: Where it holds.
        reason: Decides the status code.
    """
    name = f"no-secrets-{namespace}"
    rule = {"expression": "false", "message": "ask team A first", "reason": reason}
    spec = {"matchConstraints": {"resourceRules": [_RULE]}, "validations": [rule]}
    labels = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": labels},
    }
    policies = f"{_ADMISSION}/validatingadmissionpolicies"
    bindings = f"{_ADMISSION}/validatingadmissionpolicybindings"
    admin.create(policies, {"metadata": {"name": name}, "spec": spec})
    admin.create(bindings, {"metadata": {"name": name}, "spec": binding})
    try:
        take_up(admin, namespace, "ask team A first")
        yield
    finally:
        admin.delete(f"{bindings}/{name}")
        admin.delete(f"{policies}/{name}")


@contextmanager
def webhook(
    admin: Admin, namespace: str, folder: Path, *, code: int = 403, side_effects: str = "None"
) -> Iterator[ThreadingHTTPServer]:
    """A webhook that refuses each Secret in the namespace; shut its server down and it fails.

    Args:
        admin: The API server.
        namespace: Where it holds.
        folder: For its certificates.
        code: Of its refusals.
        side_effects: ``None``; ``Some`` for one that can't be asked by a dry run.
    """
    authority = Authority(folder, "webhook-ca")
    pair = authority.issue("webhook")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _refusing(code))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    label = {"telemetryd.test/denied": namespace}
    admin.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": label}})
    hook: Object = {
        "name": "secrets.example.test",
        "admissionReviewVersions": ["v1"],
        "sideEffects": side_effects,
        "rules": [_RULE],
        "namespaceSelector": {"matchLabels": label},
        "clientConfig": {
            "url": f"https://127.0.0.1:{server.server_port}/",
            "caBundle": b64encode(authority.ca.read_bytes()).decode(),
        },
    }
    hooks = f"{_ADMISSION}/validatingwebhookconfigurations"
    admin.create(hooks, {"metadata": {"name": namespace}, "webhooks": [hook]})
    try:
        take_up(admin, namespace, 'admission webhook "secrets.example.test"')
        yield server
    finally:
        admin.delete(f"{hooks}/{namespace}")
        server.shutdown()
        server.server_close()
        thread.join()


def _refusing(code: int) -> type[BaseHTTPRequestHandler]:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = {"code": code, "message": "ask team B first\nwith\ttwo lines"}
            response = {"uid": asked["request"]["uid"], "allowed": False, "status": status}
            body = json.dumps(
                {
                    "apiVersion": "admission.k8s.io/v1",
                    "kind": "AdmissionReview",
                    "response": response,
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Refusing
