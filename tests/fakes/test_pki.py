"""What `pki` makes is what others take it for."""

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from openmcp.identity.spiffe_id import SpiffeId
from tests.fakes import pki

ID = "spiffe://example.org/agent"


def test_a_leaf_is_signed_by_its_ca_and_carries_its_key():
    root = pki.Ca("example.org")
    between = pki.Ca("example.org", root)
    leaf = between.leaf(ID)
    leaf.certificate.verify_directly_issued_by(between.certificate)
    between.certificate.verify_directly_issued_by(root.certificate)
    assert leaf.chain_der == (leaf.certificate.public_bytes(pki.DER), between.der)
    names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [ID]
    key = serialization.load_der_private_key(leaf.key_der, None)
    assert key.public_key() == leaf.certificate.public_key()


def test_an_svid_is_what_the_source_gives():
    ca = pki.Ca("example.org")
    own = pki.svid(ca, ID, hint="internal", ttl=600)
    assert (own.id, own.hint, len(own.certificates)) == (SpiffeId("example.org", "/agent"), "internal", 1)
    assert own.expires - own.begins == 610


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "RS256"])
def test_a_jwt_is_good_by_the_key_of_the_document(algorithm):
    key = pki.jwt_key("k7", algorithm)
    (found,) = jwt.PyJWKSet.from_json(pki.jwks(key, use="sig").decode()).keys
    token = pki.mint_jwt(key, {"sub": ID, "aud": "tools"})
    claims = jwt.decode(token, found.key, algorithms=[algorithm], audience="tools")
    assert (found.key_id, claims["sub"], claims["exp"] - claims["iat"]) == ("k7", ID, 3600)
