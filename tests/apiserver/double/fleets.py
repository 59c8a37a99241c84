"""The demo's fleet in the double."""

from functools import partial

from telemetryd.demo import fleet as demo
from telemetryd.demo.fleet import Fleet, Step
from tests.apiserver.double.apiserver import ApiServer
from tests.apiserver.double.resources import resource_of


def populate(server: ApiServer, fleet: Fleet) -> None:
    """Put the whole fleet into a server."""
    for obj in fleet.objects():
        server.put_object(obj)


def take_step(server: ApiServer, step: Step) -> None:
    """Carry out one write of churn."""
    if step.gone:
        metadata = step.obj["metadata"]
        namespace = metadata.get("namespace", "")
        server.delete_object(resource_of(step.obj).id, metadata["name"], namespace)
    else:
        server.put_object(step.obj)


async def run_churn(server: ApiServer, fleet: Fleet, per_second: float) -> None:
    """Change the fleet at a steady rate until cancelled."""
    await demo.run_churn(fleet, per_second, partial(take_step, server))
