"""Certificates of our own: who takes them, for which names, until when."""

import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from openmcp.injector.authority import SKEW, Generation, facts, issue, serves

NOW = float(int(time.time()))
NAME = "openmcp-injector.mesh.svc"


def verified(generation, ca, name):
    store = Store([x509.load_pem_x509_certificate(ca)])
    policy = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name))
    return policy.verify(x509.load_pem_x509_certificate(generation.certificate), [])


def test_a_client_that_trusts_the_ca_takes_the_certificate_for_its_names():
    made = issue({NAME, "127.0.0.1"}, NOW, 3600)
    assert len(verified(made, made.ca, NAME)) == 2
    with pytest.raises(VerificationError):
        verified(made, made.ca, "other.mesh.svc")
    with pytest.raises(VerificationError):
        verified(made, issue({NAME}, NOW, 3600).ca, NAME)


def test_it_begins_before_now_for_clocks_that_are_behind_and_ends_as_asked():
    found = facts(issue({NAME, "127.0.0.1"}, NOW, 3600).certificate)
    assert (found.begins, found.ends, found.names) == (NOW - SKEW, NOW + 3600, {NAME, "127.0.0.1"})


@pytest.mark.parametrize(("lifetime", "before"), [(90 * 86400, 3600), (7200, 3600), (60, 60)])
def test_a_clock_that_is_an_hour_behind_takes_it_where_it_lives_that_long(lifetime, before):
    made = issue({NAME}, NOW, lifetime)
    for pem in (made.certificate, made.ca):
        assert (facts(pem).begins, facts(pem).ends) == (NOW - before, NOW + lifetime)


def test_no_two_cas_have_a_name_or_a_key_in_common():
    one, other = (x509.load_pem_x509_certificate(issue({NAME}, NOW, 60).ca) for _ in range(2))
    assert one.subject != other.subject
    assert one.public_key().public_numbers() != other.public_key().public_numbers()


def test_the_key_of_the_ca_is_nowhere():
    made = issue({NAME}, NOW, 60)
    ca = x509.load_pem_x509_certificate(made.ca)
    key = made.key
    assert key.count(b"PRIVATE KEY") == 2
    assert not serves(Generation(made.ca, made.ca, key), (), NOW)
    assert ca.public_bytes(Encoding.PEM) == made.ca
    limits = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (limits.critical, limits.value) == (True, x509.BasicConstraints(ca=True, path_length=0))


def test_the_key_is_not_shown():
    made = issue({NAME}, NOW, 60)
    assert "PRIVATE" not in repr(made)


@pytest.mark.parametrize("moment", [NOW - SKEW - 1, NOW + 60])
def test_it_serves_in_its_time_alone(moment):
    made = issue({NAME}, NOW, 60 + SKEW)
    assert serves(made, {NAME}, NOW)
    assert serves(made, {NAME}, moment) is (moment > NOW)
    assert not serves(made, {NAME}, NOW + 60 + SKEW)


def test_parts_of_different_ones_do_not_serve():
    one, other = issue({NAME}, NOW, 60), issue({NAME}, NOW, 60)
    assert serves(one, {NAME}, NOW)
    assert not serves(Generation(other.ca, one.certificate, one.key), {NAME}, NOW)
    assert not serves(Generation(one.ca, one.certificate, other.key), {NAME}, NOW)
    assert not serves(Generation(one.ca, one.certificate, b"-----BEGIN"), {NAME}, NOW)
    assert not serves(Generation(b"", one.certificate, one.key), {NAME}, NOW)
    assert not serves(Generation(one.ca, b"\xff", one.key), {NAME}, NOW)
    assert not serves(one, {NAME, "other"}, NOW)


def test_openssl_takes_it_too():
    made = issue({NAME}, time.time(), 60)
    context = ssl.create_default_context(cadata=made.ca.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    from openmcp.identity.contexts import load_key_pair

    load_key_pair(server, made.certificate + made.key)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = context.wrap_bio(there, back, server_hostname=NAME)
    server_side = server.wrap_bio(back, there, server_side=True)
    for side in (client_side, server_side, client_side, server_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client_side.getpeercert()["subjectAltName"] == (("DNS", NAME),)
