"""The process: what it says of itself."""

from openmcp.injector.serve import Injector
from tests.injector.objects import Objects
from tests.injector.pods import settings
from tests.injector.test_certificates import WEBHOOK, configure

GONE = "the MutatingWebhookConfiguration openmcp-injector is not there: no pod is given a sidecar"


def trusted(injector: Injector) -> list[str]:
    lines = injector._metrics.exposition().decode().splitlines()
    return [line for line in lines if line.startswith("openmcp_injector_ca_trusted")]


async def test_a_webhook_that_is_gone_is_told_in_detail_and_by_a_metric() -> None:
    objects = Objects()
    configure(objects)
    injector = Injector(settings(namespace="mesh"), objects, "1")
    assert trusted(injector) == ["openmcp_injector_ca_trusted 0.0"]
    injector._leases[1]._ours_until = float("inf")
    while await injector.keeper.look():
        pass
    assert injector._detail()["webhook"] == "ok"
    assert trusted(injector) == ["openmcp_injector_ca_trusted 1.0"]
    del objects.found[WEBHOOK]
    assert not await injector.keeper._tried()
    assert (injector.keeper.fault(), injector._detail()["webhook"]) == ("", GONE)
    assert trusted(injector) == ["openmcp_injector_ca_trusted 0.0"]


async def test_with_files_nothing_is_said_of_a_webhook_that_may_not_be_read() -> None:
    by = settings(namespace="mesh", tls="{type: files, certificate: tls.crt, key: tls.key}")
    injector = Injector(by, Objects(), "1")
    assert "webhook" not in injector._detail()
    assert trusted(injector) == []
