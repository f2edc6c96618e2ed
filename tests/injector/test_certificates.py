"""Replicas, a Secret and the configuration of the webhook: who writes what, and what is served meanwhile."""

import base64
import logging

import pytest

from openmcp.config.kubernetes.api import ApiError
from openmcp.identity.webtls import TlsUnusable
from openmcp.injector.authority import issue
from openmcp.injector.certificates import BuiltIn, FromFiles, Served
from openmcp.injector.settings import BuiltInTls, FilesTls
from openmcp.injector.stock import Stock, authorities, bundle, decoded, encoded
from tests.injector.objects import Objects

WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/openmcp-injector"
SECRET = "/api/v1/namespaces/mesh/secrets/openmcp-injector-ca"
SERVICE = {"service": {"name": "openmcp-injector", "namespace": "mesh", "path": "/mutate"}}
NAME = "openmcp-injector.mesh.svc"
NOW = 1_800_000_000.0
LIFETIME = BuiltInTls().lifetime


class Elected:
    """Says what it is told to."""

    def __init__(self, *, held):
        self.held = held


class Clock:
    """Unix seconds that pass when told to."""

    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def objects():
    made = Objects()
    configure(made)
    return made


def configure(objects, *clients, **metadata):
    webhooks = [
        {"name": f"{number}.openmcp.dev", "clientConfig": client} for number, client in enumerate(clients or [SERVICE])
    ]
    objects.put(WEBHOOK, {"metadata": {"name": "openmcp-injector", **metadata}, "webhooks": webhooks})


def replica(objects, clock, *, held):
    return BuiltIn(objects, "mesh", BuiltInTls(), Elected(held=held), clock=clock)


def bundles(objects):
    return [base64.b64decode(one["clientConfig"]["caBundle"]) for one in objects.found[WEBHOOK]["webhooks"]]


def stock(objects):
    return decoded(objects.found[SECRET]["data"])


async def settled(keeper):
    """Look until nothing is written any more."""
    for _ in range(6):
        if not await keeper.look():
            return
    raise AssertionError("it never comes to rest")


async def test_an_empty_cluster_gets_a_certificate_that_is_trusted(objects, clock):
    leader, other = replica(objects, clock, held=True), replica(objects, clock, held=False)
    assert leader.fault() == "there is no certificate yet: the API server was not reached yet"
    await settled(leader)
    await settled(other)
    assert objects.writes == [("create", "openmcp-injector-ca"), ("patch", "openmcp-injector")]
    assert bundles(objects) == [stock(objects).current.ca]
    assert leader.served.certificate == other.served.certificate == stock(objects).current.certificate
    assert (leader.fault(), other.fault()) == ("", "")


async def test_only_who_holds_the_lease_writes(objects, clock):
    await settled(replica(objects, clock, held=False))
    assert objects.writes == []


async def test_a_replica_is_not_ready_before_its_certificate_is_trusted(objects, clock):
    objects.put(SECRET, {"data": encoded(Stock(issue({NAME}, NOW, LIFETIME)))})
    other = replica(objects, clock, held=False)
    await other.look()
    assert other.served.first.is_set()
    other._problem = ""
    assert other.fault() == "the CA of the certificate is not in the caBundle of the webhook yet"
    await settled(replica(objects, clock, held=True))
    await other.look()
    assert other.fault() == ""


async def test_a_rotation_is_followed_by_all_and_no_certificate_is_ever_untrusted(objects, clock):
    replicas = [replica(objects, clock, held=True), replica(objects, clock, held=False)]
    for keeper in replicas:
        await settled(keeper)
    first, seen = stock(objects).current, set()
    clock.now += LIFETIME * 2 / 3
    for _ in range(40):
        clock.now += 5
        for keeper in replicas:
            await keeper.look()
            assert keeper.fault() == ""
            seen.add(keeper.served.certificate)
    last = stock(objects).current
    assert seen == {first.certificate, last.certificate}
    assert authorities(bundles(objects)[0]) == authorities(first.ca + last.ca)
    clock.now += LIFETIME / 3
    await settled(replicas[0])
    assert authorities(bundles(objects)[0]) == authorities(last.ca)


async def test_a_ca_bundle_that_somebody_wrote_over_is_put_right(objects, clock):
    leader = replica(objects, clock, held=True)
    await settled(leader)
    wanted = bundles(objects)
    configure(objects)  # as `helm upgrade` or a GitOps tool may do
    await leader.look()
    assert bundles(objects) == wanted
    stranger = issue({NAME}, NOW, 60).ca
    configure(objects, SERVICE | {"caBundle": base64.b64encode(wanted[0] + stranger).decode()})
    await leader.look()
    assert bundles(objects) == wanted


async def test_every_webhook_gets_it_and_the_certificate_has_all_their_names(objects, clock):
    configure(objects, SERVICE, {"url": "https://127.0.0.1:8443/mutate"}, {"url": "https://[::1]:8443/mutate"})
    leader = replica(objects, clock, held=True)
    await settled(leader)
    assert bundles(objects) == [stock(objects).current.ca] * 3
    from openmcp.injector.authority import facts

    assert facts(stock(objects).current.certificate).names == {NAME, "127.0.0.1", "::1"}


async def test_a_writer_that_was_overtaken_writes_nothing(objects, clock):
    leader = replica(objects, clock, held=True)
    await leader.look()  # the Secret is there, the caBundle is not yet

    def overtake(path):
        objects.before_write = lambda path: None
        configure(objects)

    objects.before_write = overtake
    assert not await leader._tried()
    assert "caBundle" not in objects.found[WEBHOOK]["webhooks"][0]["clientConfig"]
    await settled(leader)
    assert bundles(objects) == [stock(objects).current.ca]


async def test_a_secret_that_others_wrote_meanwhile_is_not_written_over(objects, clock, caplog):
    leader = replica(objects, clock, held=True)
    await settled(leader)
    clock.now += LIFETIME * 2 / 3
    theirs = Stock(issue({NAME}, clock.now, LIFETIME), previous=(stock(objects).current.ca,))

    def overtake(path):
        objects.before_write = lambda path: None
        objects.put(SECRET, {"data": encoded(theirs)})

    objects.before_write = overtake
    assert not await leader._tried()
    assert stock(objects) == theirs
    await settled(leader)
    assert stock(objects) == theirs
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_two_writers_make_one_certificate(objects, clock):
    one, two = (replica(objects, clock, held=True) for _ in range(2))

    def both(path):
        objects.before_write = lambda path: None
        objects.put(SECRET, {"metadata": {"name": "openmcp-injector-ca"}, "data": encoded(Stock(made))})

    made = issue({NAME}, NOW, LIFETIME)
    objects.before_write = both
    assert not await one._tried()
    await settled(one)
    await settled(two)
    assert one.served.certificate == two.served.certificate == made.certificate


async def test_what_is_served_stays_while_the_api_server_is_away(objects, clock, caplog):
    leader = replica(objects, clock, held=True)
    await settled(leader)
    objects.cut = True
    for _ in range(3):
        await leader._tried()
    assert leader.fault() == ""
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "certificates: cut off"
    ]


async def test_an_ended_certificate_is_not_ready(objects, clock):
    leader = replica(objects, clock, held=True)
    await settled(leader)
    objects.cut = True
    clock.now += LIFETIME
    await leader._tried()
    assert leader.fault() == "the certificate ended at 2027-04-15T08:00:00Z: cut off"


@pytest.mark.parametrize(
    ("clients", "metadata", "problem"),
    [
        (
            [SERVICE],
            {"annotations": {"cert-manager.io/inject-ca-from": "mesh/injector"}},
            "has an annotation of cert-manager, which would write its caBundle as well",
        ),
        ([SERVICE, {}], {}, "has no webhook, or one without a service and a URL"),
    ],
)
async def test_a_configuration_that_is_not_for_us_is_left_alone(objects, clock, clients, metadata, problem):
    configure(objects, *clients, **metadata)
    leader = replica(objects, clock, held=True)
    await leader._tried()
    assert objects.writes == []
    assert leader.fault().endswith(f"the MutatingWebhookConfiguration openmcp-injector {problem}")


async def test_a_missing_configuration_is_named(objects, clock):
    del objects.found[WEBHOOK]
    leader = replica(objects, clock, held=True)
    await leader._tried()
    gone = "the MutatingWebhookConfiguration openmcp-injector is not there: no pod is given a sidecar"
    assert (leader.fault(), leader.unasked()) == (f"there is no certificate yet: {gone}", gone)


@pytest.mark.parametrize("held", [True, False])
async def test_a_configuration_that_goes_is_told_by_replicas_that_stay_ready(objects, clock, held, caplog):
    keeper = replica(objects, clock, held=held)
    assert keeper.unasked() == "the configuration of the webhook was not read yet"
    await settled(replica(objects, clock, held=True))
    await settled(keeper)
    assert (keeper.fault(), keeper.unasked()) == ("", "")
    before = objects.found.pop(WEBHOOK)
    await keeper._tried()
    gone = "the MutatingWebhookConfiguration openmcp-injector is not there: no pod is given a sidecar"
    assert (keeper.fault(), keeper.unasked()) == ("", gone)
    assert f"certificates: {gone}" in caplog.messages
    objects.put(WEBHOOK, before)
    await keeper._tried()
    assert (keeper.fault(), keeper.unasked()) == ("", "")
    objects.cut = True
    await keeper._tried()
    assert keeper.unasked() == ""


async def test_a_configuration_that_trusts_another_is_told(objects, clock):
    await settled(replica(objects, clock, held=True))
    keeper = replica(objects, clock, held=False)
    await keeper.look()
    stranger = base64.b64encode(issue({NAME}, NOW, 60).ca).decode()
    configure(objects, SERVICE | {"caBundle": stranger})
    await keeper.look()
    assert keeper.unasked() == "the caBundle of the webhook lacks the CA of the certificate"
    configure(objects, SERVICE, annotations={"cert-manager.io/inject-ca-from": "mesh/injector"})
    await keeper._tried()
    assert "cert-manager" in keeper.unasked()


async def test_who_empties_the_secret_gets_another_certificate_at_once(objects, clock):
    leader, other = replica(objects, clock, held=True), replica(objects, clock, held=False)
    await settled(leader)
    before = stock(objects)
    del objects.found[SECRET]["data"]
    await other.look()
    await settled(leader)
    await other.look()
    assert bundles(objects) == [stock(objects).current.ca] != [before.current.ca]
    assert (leader.fault(), other.fault(), other.served.taken) == ("", "", 1)


async def test_a_certificate_that_cannot_be_used_is_replaced(objects, clock):
    """Also one that leaders of today have in memory, and replicas to come would not find."""
    leader, other = replica(objects, clock, held=True), replica(objects, clock, held=False)
    await settled(leader)
    served = stock(objects).current.certificate
    objects.found[SECRET]["data"]["tls.key"] = base64.b64encode(b"no key").decode()
    assert not await other._tried()
    assert other.fault().startswith("there is no certificate yet: the Secret openmcp-injector-ca: certificate and key")
    await settled(leader)
    await settled(other)
    assert served != stock(objects).current.certificate == other.served.certificate == leader.served.certificate
    assert (leader.fault(), other.fault()) == ("", "")


async def test_a_secret_that_is_gone_and_may_not_be_made_is_told_by_all(objects, clock, monkeypatch):
    async def forbidden(path, body):
        raise ApiError(403, "Forbidden", "cannot create")

    monkeypatch.setattr(objects, "create", forbidden)
    for held, said in (
        (False, "holds no certificate"),
        (True, "is not there: whoever installed the injector makes it, empty (403 Forbidden: cannot create)"),
    ):
        keeper = replica(objects, clock, held=held)
        assert not await keeper._tried()
        assert keeper.fault() == f"there is no certificate yet: the Secret openmcp-injector-ca {said}"


async def test_labels_of_the_secret_and_what_else_is_in_it_stay(objects, clock):
    objects.put(SECRET, {"metadata": {"labels": {"team": "x"}}, "data": {"note": "eA=="}})
    await settled(replica(objects, clock, held=True))
    assert objects.found[SECRET]["metadata"]["labels"] == {"team": "x"}
    assert objects.found[SECRET]["data"]["note"] == "eA=="
    assert bundle(stock(objects)) == bundles(objects)[0]


def write(folder, made):
    (folder / "tls.crt").write_bytes(made.certificate)
    (folder / "tls.key").write_bytes(made.key)


@pytest.fixture
def files(tmp_path):
    return FromFiles(FilesTls(certificate=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key")))


def look(files):
    files._take(*files._read())


def test_files_are_followed_and_the_last_good_pair_is_served(files, tmp_path, caplog):
    look(files)
    assert files.fault() == f"there is no certificate yet: {tmp_path}/tls.crt: No such file or directory"
    assert caplog.messages == []
    look(files)
    assert caplog.messages == [
        f"the certificate cannot be read, nothing is served yet: {tmp_path}/tls.crt: No such file or directory"
    ]
    one, two = (issue({NAME}, files.served._clock(), 60) for _ in range(2))
    write(tmp_path, one)
    look(files)
    assert (files.fault(), files.served.certificate) == ("", one.certificate)
    caplog.clear()
    (tmp_path / "tls.key").write_bytes(two.key)
    look(files)
    assert (files.fault(), files.served.certificate, caplog.messages) == ("", one.certificate, [])
    for _ in range(3):
        look(files)
    assert caplog.messages == [
        "the certificate cannot be read, what was there before is served: "
        f"{tmp_path}/tls.crt and {tmp_path}/tls.key: certificate and key cannot be used: "
        "the key does not belong to the certificate"
    ]
    write(tmp_path, two)
    look(files)
    assert (files.served.certificate, files.served.taken) == (two.certificate, 2)


def test_what_cannot_serve_is_not_taken():
    served = Served()
    with pytest.raises(TlsUnusable):
        served.take(b"", b"")
    assert served.fault() == "there is no certificate yet"
