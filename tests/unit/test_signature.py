"""The signature of a record: what verifies, and everything that must not."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from revoker.algorithms import Unusable
from revoker.errors import SettingsError
from revoker.signature import HEADER, Claimed, Malformed, Signer, VerifyingKey, new_private_key, read_signature
from tests.publishers import TOPIC, private_pem, signer
from tests.signing import b64, private_key

VALUE = b'{"v":1,"id":"e","kind":"session","iss":"","sid":"s","revoked_at":1,"expires_at":2}'
#: The order of the group of P-256 (SEC 2, section 2.4.2).
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED = signer()
ES = signer(key="k2", algorithm="ES256")
BOTH = pytest.mark.parametrize("one", [ED, ES], ids=["EdDSA", "ES256"])


def read(text: bytes) -> Claimed:
    found = read_signature([(HEADER, text)])
    assert found is not None
    return found


def header(**changes: Any) -> dict[str, Any]:
    """A good protected header of ED; None takes a member out."""
    members = {"alg": "EdDSA", "kid": ED.key.kid, "topic": TOPIC, "typ": "revocation+jws"} | changes
    return {name: value for name, value in members.items() if value is not None}


def forged(members: Mapping[str, Any] | bytes, *, value: bytes = VALUE) -> bytes:
    """A header's text that ED's own key truly signed, whatever stands in it."""
    protected = b64(members if isinstance(members, bytes) else json.dumps(members).encode())
    key = private_key("EdDSA", "k1")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return f"{protected}..{b64(key.sign(f'{protected}.{b64(value)}'.encode()))}".encode()


def accepted(text: bytes, *, by: Signer = ED, value: bytes = VALUE) -> bool:
    try:
        claimed = read(text)
    except Malformed:
        return False
    return by.key.verifies(claimed, value=value)


class TestSigning:
    @BOTH
    def test_what_is_signed_verifies(self, one: Signer) -> None:
        """The signer's key verifies its signature over the very bytes."""
        assert accepted(one.sign(VALUE), by=one)

    @BOTH
    def test_any_jose_library_verifies_it(self, one: Signer) -> None:
        """With the payload put back it is an ordinary compact JWS; PyJWT agrees on every byte."""
        protected, _, signature = one.sign(VALUE).decode().partition("..")
        found = jwt.api_jws.decode_complete(f"{protected}.{b64(VALUE)}.{signature}", one.key.pem, [one.key.algorithm])
        assert found["payload"] == VALUE
        assert found["header"] == header(alg=one.key.algorithm, kid=one.key.kid)

    @BOTH
    def test_any_jose_library_can_make_it(self, one: Signer) -> None:
        """A compact JWS made by PyJWT, its payload cut out, is a signature here."""
        name, algorithm = ("k1", "EdDSA") if one is ED else ("k2", "ES256")
        text = jwt.api_jws.encode(
            VALUE,
            private_pem(name, algorithm=algorithm),
            algorithm=algorithm,
            headers={"kid": one.key.kid, "topic": TOPIC, "typ": "revocation+jws"},
        )
        protected, _, signature = text.split(".")
        assert accepted(f"{protected}..{signature}".encode(), by=one)

    def test_the_key_is_named_by_its_thumbprint(self) -> None:
        """The kid holds the RFC 7638 thumbprint: this is the Ed25519 example of RFC 8037, appendix A.3."""
        x = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
        key = VerifyingKey("p", ed25519.Ed25519PublicKey.from_public_bytes(x))
        assert key.kid == "p/kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

    def test_a_new_key_signs(self) -> None:
        """A key made here is one that a signer takes."""
        one = Signer(publisher_id="p", private_pem=new_private_key(), topic=TOPIC)
        assert accepted(one.sign(VALUE), by=one)

    def test_a_signer_shows_no_key(self) -> None:
        """Neither repr holds key material."""
        assert "PRIVATE" not in repr(ED) + repr(vars(ED))
        assert private_pem("k1").decode().splitlines()[1] not in repr(ED) + repr(vars(ED))


class TestRefusing:
    @BOTH
    def test_another_value_does_not_verify(self, one: Signer) -> None:
        """A signature belongs to its bytes, not to their meaning: one added space breaks it."""
        assert not accepted(one.sign(VALUE), by=one, value=VALUE + b" ")

    def test_another_publishers_key_does_not_verify(self) -> None:
        """The same key under another publisher's name is another key."""
        assert not accepted(signer("other").sign(VALUE), by=ED)

    def test_no_header_is_no_signature(self) -> None:
        """A record without the header is unsigned, whatever other headers it has."""
        assert read_signature([("ce_id", b"e"), (HEADER.upper(), ED.sign(VALUE))]) is None

    @pytest.mark.parametrize(
        "members",
        [
            header(alg="none"),
            header(alg="None"),
            header(alg="HS256"),
            header(alg="ES256"),
            header(alg="Ed25519"),
            header(alg=None),
            header(alg=["EdDSA"]),
            header(typ="JWT"),
            header(typ="application/revocation+jws"),
            header(typ=None),
            header(topic=None),
            header(topic=7),
            header(kid=None),
            header(kid="service"),
            header(kid="../../etc/passwd"),
            header(crit=["exp"]),
            header(crit=[]),
            header(b64=False),
            header(b64=False, crit=["b64"]),
            header(b64=True),
            header(jku="https://evil.example/jwks"),
            header(jwk={"kty": "OKP"}),
            header(x5u="https://evil.example/cert"),
            header(x5c=["MII"]),
            header(cty="JWT"),
            header(zip="DEF"),
            {},
            b"[]",
            b'"text"',
            b"null",
            b"\xff",
            b"{",
            b"[" * 100_000,
            b'{"alg":"EdDSA","alg":"EdDSA","kid":"service/x","topic":"t","typ":"revocation+jws"}',
        ],
        ids=lambda members: str(members)[:60],
    )
    def test_only_one_form_of_header_counts(self, members: Mapping[str, Any] | bytes) -> None:
        """Though the trusted key signed it, a header with any member missing, changed, added or twice is void."""
        assert not accepted(forged(members))

    def test_a_member_twice_is_refused_whichever_would_win(self) -> None:
        """Duplicate names, which parsers resolve differently, make the header malformed (RFC 7515 section 4)."""
        good = json.dumps(header())
        with pytest.raises(Malformed, match="twice"):
            read(forged(f'{good[:-1]}, "typ": "revocation+jws"}}'.encode()))

    def test_a_public_key_is_no_secret(self) -> None:
        """HS256 over the public key, the classic confusion, does not verify; its 32 bytes are no signature at all."""
        protected = b64(json.dumps(header(alg="HS256")).encode())
        mac = hmac.HMAC(ED.key.pem.encode(), hashes.SHA256())
        mac.update(f"{protected}.{b64(VALUE)}".encode())
        digest = mac.finalize()
        assert not accepted(f"{protected}..{b64(digest)}".encode())
        assert not accepted(f"{protected}..{b64(digest + digest)}".encode())

    def test_the_unencoded_payload_option_is_not_understood(self) -> None:
        """A signature over the bare bytes (RFC 7797) is none, with or without saying so."""
        key = private_key("EdDSA", "k1")
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        for members in (header(), header(b64=False, crit=["b64"])):
            protected = b64(json.dumps(members).encode())
            signature = key.sign(protected.encode() + b"." + VALUE)
            assert not accepted(f"{protected}..{b64(signature)}".encode())

    def test_a_token_is_no_signature(self) -> None:
        """A JWT signed with the same key by mistake cannot be passed off, attached or detached."""
        token = jwt.encode({"topic": TOPIC}, private_pem("k1"), algorithm="EdDSA", headers={"kid": ED.key.kid})
        protected, payload, signature = token.split(".")
        assert not accepted(token.encode())
        value = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        assert not accepted(f"{protected}..{signature}".encode(), value=value)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda text: text + b"=",
            lambda text: text + b"\n",
            lambda text: b" " + text,
            lambda text: text.replace(b"..", b". ."),
            lambda text: text.replace(b"..", b"."),
            lambda text: text.replace(b"..", b"..."),
            lambda text: text.replace(b"..", b"=..") + b"==",
            lambda text: text + b".",
            lambda text: text[:-4],
            lambda text: text + b"AAAA",
            lambda text: text.partition(b"..")[0] + b"..",
            lambda text: b".." + text.partition(b"..")[2],
            lambda text: text[:0],
            lambda text: text + b"A" * 5000,
            lambda text: text + "é".encode(),
        ],
    )
    def test_only_one_spelling_of_base64url_counts(self, spoil: Any) -> None:
        """Padding, whitespace, further parts, missing parts and other alphabets make it malformed."""
        with pytest.raises(Malformed):
            read(spoil(ED.sign(VALUE)))

    def test_spare_bits_are_not_spare(self) -> None:
        """64 bytes leave four bits of the last character unused; only zeros are accepted there."""
        text = ED.sign(VALUE)
        alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        at = alphabet.index(text[-1:])
        respelled = [text[:-1] + alphabet[at + more : at + more + 1] for more in range(1, 16)]
        assert not any(accepted(one) for one in respelled)

    def test_an_ecdsa_signature_has_a_twin(self) -> None:
        """(r, n-s) verifies as well: the record is then a duplicate, which changes nothing, for nothing here is
        identified by its signature.
        """
        protected, _, signature = ES.sign(VALUE).partition(b"..")
        raw = base64.urlsafe_b64decode(signature + b"==")
        s = P256_ORDER - int.from_bytes(raw[32:])
        twin = protected + b".." + b64(raw[:32] + s.to_bytes(32)).encode()
        assert accepted(twin, by=ES)

    @pytest.mark.parametrize("raw", [b"\0" * 64, b"\xff" * 64], ids=["zeros", "ones"])
    @BOTH
    def test_degenerate_signatures_do_not_verify(self, one: Signer, raw: bytes) -> None:
        """r and s of zero ("psychic signatures") or beyond the group's order are refused, without an exception."""
        protected = one.sign(VALUE).partition(b"..")[0]
        assert not accepted(protected + b".." + b64(raw).encode(), by=one)

    def test_two_signatures_are_none(self) -> None:
        """A record with the header twice is malformed, even if both are good."""
        with pytest.raises(Malformed, match="2 signature headers"):
            read_signature([(HEADER, ED.sign(VALUE)), (HEADER, ED.sign(VALUE))])

    def test_a_header_without_a_value_is_malformed(self) -> None:
        """Kafka allows null for a header's value."""
        with pytest.raises(Malformed):
            read_signature([(HEADER, None)])


class TestKeys:
    @pytest.mark.parametrize(
        ("pem", "said"),
        [
            (b"", "no PEM block"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no readable private key"),
            (ED.key.pem.encode(), "no readable private key"),
            (
                rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
                    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
                ),
                "neither an Ed25519 nor a P-256 key",
            ),
            (
                ec.generate_private_key(ec.SECP384R1()).private_bytes(
                    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
                ),
                "neither an Ed25519 nor a P-256 key",
            ),
            (
                ed25519.Ed25519PrivateKey.generate().private_bytes(
                    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
                ),
                "encrypted",
            ),
        ],
        ids=["empty", "garbage", "public", "RSA", "P-384", "encrypted"],
    )
    def test_an_unusable_key_is_said_to_be_so(self, pem: bytes, said: str) -> None:
        """The message says what is wrong with the key, and quotes none of it."""
        with pytest.raises(Unusable, match=said) as caught:
            Signer(publisher_id="p", private_pem=pem, topic=TOPIC)
        assert not any(line in str(caught.value) for line in pem.decode().splitlines()[1:-1] if line)

    @pytest.mark.parametrize("name", ["", "a/b", "a.b", "ä", "a b", "x" * 65, "a\n"])
    def test_a_publishers_name_is_a_bare_word(self, name: str) -> None:
        """A name that would not survive a kid, a log line or a TOML key is refused."""
        with pytest.raises(SettingsError, match="publisher_id"):
            Signer(publisher_id=name, private_pem=private_pem("k1"), topic=TOPIC)
