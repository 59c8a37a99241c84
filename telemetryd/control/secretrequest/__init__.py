"""The SecretRequest controller: requests in, exporters registered, conditions out.

``decision`` and ``conditions`` are pure; ``namespaces``, ``status`` and ``release`` each make one
kind of request of the API server; ``serving`` moves the exporters; ``controller`` is the loop.
"""

from telemetryd.control.secretrequest.controller import SecretRequestController
from telemetryd.control.secretrequest.decision import Target

__all__ = ["SecretRequestController", "Target"]
