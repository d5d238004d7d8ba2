"""Shape, header, signature and claims of a token."""

from __future__ import annotations

import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from revoker.algorithms import ALGORITHMS, bind
from revoker.errors import RevokerError, SettingsError
from revoker.keys import Keys, StaticKeys
from revoker.settings import Settings
from revoker.tokens import (
    TOKEN_MAX_BYTES,
    KeyUnknown,
    TokenMalformed,
    TokenMissing,
    TokenRevoked,
    Verifier,
    sign,
)
from tests.signing import (
    SECRET,
    FixedKeys,
    b64,
    claims,
    private_key,
    public_pem,
    secret_keys,
    signing_key,
    token_of_bytes,
)

ISSUER = "https://issuer.example"


def keys_for(algorithm: str) -> Keys:
    if ALGORITHMS[algorithm] == "secret":
        return StaticKeys(algorithms=[algorithm], secret=SECRET)
    public = private_key(algorithm).public_key()
    return FixedKeys(bind(public, kid=None, allowed=[algorithm]))


def signed(algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: object) -> str:
    return sign(claims(**changes), key=signing_key(algorithm), algorithm=algorithm, headers=headers)


def verifier(**changes: Any) -> Verifier:
    return Verifier(**{"keys": secret_keys(), "algorithms": ["HS256"], **changes})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_supported_algorithm_verifies(algorithm: str) -> None:
    """A token signed with a supported algorithm verifies with that algorithm's key, and its claims come out."""
    made = claims()
    raw = sign(made, key=signing_key(algorithm), algorithm=algorithm)
    assert Verifier(keys=keys_for(algorithm), algorithms=[algorithm]).verify(raw).claims == made


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_changed_payload_breaks_every_algorithm(algorithm: str) -> None:
    """A token whose payload was changed after signing is refused, whatever the algorithm."""
    head, _, signature = signed(algorithm).split(".")
    forged = f"{head}.{b64(json.dumps(claims(sub='mallory')).encode())}.{signature}"
    with pytest.raises(jwt.InvalidSignatureError):
        Verifier(keys=keys_for(algorithm), algorithms=[algorithm]).verify(forged)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("rs256", "did you mean RS256"),
        ("RS265", "did you mean RS256"),
        ("Ed25519", "did you mean EdDSA"),
        ("none", "proves nothing"),
        ("ROT13", "known are HS256"),
    ],
)
def test_an_unknown_algorithm_is_named_with_the_right_one(wrong: str, hint: str) -> None:
    """An algorithm that is not supported is a SettingsError that names it and the nearest right one."""
    with pytest.raises(SettingsError, match=rf"{wrong}.*{hint}"):
        verifier(algorithms=["HS256", wrong])


@pytest.mark.parametrize("setting", [{"algorithms": "HS256"}, {"algorithms": []}, {"audience": "api"}])
def test_a_text_or_nothing_in_place_of_a_list_is_refused(setting: dict[str, Any]) -> None:
    """A bare text, which would be taken for a list of letters, and an empty list of algorithms are refused."""
    with pytest.raises(SettingsError):
        verifier(**setting)


GOOD = "eyJhbGciOiJIUzI1NiJ9.e30.AAAA"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (None, "must be text"),
        (b"a.b.c", "must be text"),
        ("", "1 segments"),
        ("a.b", "2 segments"),
        ("a.b.c.d", "4 segments"),
        ("a.b.c.d.e", "JWE"),
        ("a..c", "empty"),
        (GOOD + "=", "padded"),
        (GOOD + "\n", "characters other"),
        (" " + GOOD, "characters other"),
        ("é" + GOOD, "characters other"),
        ("\ud800" + GOOD, "characters other"),
        (GOOD.replace("e30", "e+/"), "characters other"),
        ("A" * (TOKEN_MAX_BYTES + 1), "at most 16384"),
        ("A.e30.AAAA", "not base64url"),
        ("eyJhbGciOiJIUzI1NiJ8.e30.AAAA", "not JSON"),
    ],
)
def test_the_shape_is_checked_first(raw: Any, said: str) -> None:
    """What is not three base64url segments of bearable length is refused before any key is looked up."""
    with pytest.raises(TokenMalformed, match=said):
        Verifier(keys=FixedKeys(), algorithms=["HS256"]).verify(raw)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"[]", "not a JSON object"),
        (b'{"alg":"HS256"', "not JSON"),
        (b'{"alg":"HS256","kid":"\xff"}', "not UTF-8"),
        ('{"alg":"HS256"}'.encode("utf-16"), "not UTF-8"),
        (b"{}", "no alg"),
        (b'{"alg":1}', "no alg"),
        (b'{"alg":null}', "no alg"),
        (b'{"alg":"HS256","kid":7}', "kid is not a string"),
        (b'{"alg":"HS256","kid":null}', "kid is not a string"),
        (b'{"alg":"HS256","kid":"\\ud800"}', "surrogate"),
        (b'{"alg":"HS256","kid":"a","kid":"b"}', "twice"),
        (b'{"alg":"HS256","crit":["exp"],"exp":1}', "crit"),
        (b'{"alg":"HS256","crit":[]}', "crit"),
        (b'{"alg":"HS256","b64":false}', "b64"),
        (b'{"alg":"HS256","b64":0}', "b64"),
        (b'{"alg":"HS256","typ":5}', "typ is not a string"),
        (b'{"alg":"HS256","typ":"dpop+jwt"}', "a DPoP proof"),
        (b'{"alg":"HS256","typ":"application/secevent+jwt"}', "a security event token"),
        (b'{"alg":"HS256","typ":"Logout+JWT"}', "a logout token"),
        (b'{"alg":"HS256","x":' + b"[" * 6000 + b"]" * 6000 + b"}", "nested too deeply"),
        (b'{"alg":"HS256","x":NaN}', "NaN"),
    ],
)
def test_a_header_that_is_not_plain_is_refused_though_signed(header: bytes, said: str) -> None:
    """A header of the wrong shape, with extensions, or of another kind of token is refused although signed."""
    raw = token_of_bytes(json.dumps(claims()).encode(), header=header)
    with pytest.raises(TokenMalformed, match=said):
        verifier().verify(raw)


@pytest.mark.parametrize("alg", ["none", "hs256", "HS384", "RS256", ""])
def test_only_listed_algorithms_are_accepted_case_sensitive(alg: str) -> None:
    """An alg that is not in the list is refused, whatever its spelling."""
    raw = token_of_bytes(json.dumps(claims()).encode(), header={"alg": alg})
    with pytest.raises(jwt.InvalidAlgorithmError):
        verifier().verify(raw)


def test_at_jwt_is_accepted() -> None:
    """The typ that RFC 9068 gives access tokens passes."""
    assert verifier().verify(signed(headers={"typ": "at+jwt"})).claims["sub"] == "alice"


def test_a_public_key_is_never_an_hmac_secret() -> None:
    """A token forged with HS256 and the issuer's public key as secret is refused, HS256 being configured or not."""
    public = private_key("RS256").public_key()
    keys = FixedKeys(bind(public, kid=None, allowed=["RS256"]))
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signing_input = signed().rpartition(".")[0]
    forged = f"{signing_input}.{b64(hmac.digest(pem, signing_input.encode(), 'sha256'))}"
    with pytest.raises(jwt.InvalidTokenError):
        Verifier(keys=keys, algorithms=["RS256", "HS256"]).verify(forged)


@pytest.mark.parametrize("name", ["iss", "sub", "sid", "jti", "client_id", "azp"])
@pytest.mark.parametrize("value", [7, None, True, ["a"], {"a": 1}, 1.5])
def test_identifiers_must_be_strings(name: str, value: object) -> None:
    """A claim that identities are made of is refused unless it is a string, null included."""
    raw = token_of_bytes(json.dumps({**claims(), name: value}).encode())
    with pytest.raises(TokenMalformed, match=f"claim {name} is not a string"):
        verifier().verify(raw)


@pytest.mark.parametrize("name", ["sub", "sid", "jti", "client_id", "azp"])
@pytest.mark.parametrize(("value", "said"), [("", "empty"), ("x" * 1025, "1025 characters")])
def test_identifiers_that_no_revocation_could_name_are_refused(name: str, value: str, said: str) -> None:
    """An identifier that the record cannot hold is refused: it could never be revoked."""
    with pytest.raises(TokenMalformed, match=f"claim {name}.*{said}"):
        verifier().verify(sign(claims(**{name: value}), key=SECRET, algorithm="HS256"))


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value", ['"1700000000"', "true", "null", "[]", "-1", "1e999", "NaN", "Infinity", "1" + "0" * 400, "1700000000000"]
)
def test_times_must_be_seconds(name: str, value: str) -> None:
    """A time that is a text, a boolean, not finite or not in seconds is refused, though PyJWT takes some."""
    body = json.dumps({key: found for key, found in claims().items() if key != name})
    raw = token_of_bytes(f'{body[:-1]},"{name}":{value}}}'.encode())
    with pytest.raises(TokenMalformed):
        verifier().verify(raw)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'"text"', "not a JSON object"),
        (b"{", "not JSON"),
        (b"\xff{}", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'{"jti":"a","jti":"b"}', "twice"),
        (b'{"a":{"b":1,"b":2}}', "twice"),
        (b'{"sub":"\\ud800"}', "surrogate"),
        (b'{"a":["\\uDFFF"]}', "surrogate"),
        (b'{"\\ud800":1}', "surrogate"),
        (b'{"a":1e400}', "too large"),
        (b'{"a":-Infinity}', "-Infinity"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 6000, "nested too deeply"),
        (b'{"events":{"http://schemas.openid.net/event/backchannel-logout":{}}}', "events"),
    ],
)
def test_a_payload_that_two_readers_could_read_differently_is_refused_though_signed(payload: bytes, said: str) -> None:
    """A payload that is not one unambiguous JSON object, or is a security event, is refused although signed."""
    with pytest.raises(TokenMalformed, match=said):
        verifier().verify(token_of_bytes(payload))


def test_the_payload_is_not_read_before_the_signature_holds() -> None:
    """A malformed payload under a wrong signature is refused for its signature."""
    raw = token_of_bytes(b"not json")
    with pytest.raises(jwt.InvalidSignatureError):
        verifier().verify(raw[:-8] + "AAAAAAAA")


def test_a_custom_claim_named_events_is_no_security_event() -> None:
    """An application's own claim named events, without URIs, passes."""
    assert verifier().verify(signed(events={"create": True})).claims["events"] == {"create": True}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"exp": int(time.time()) - 60}, jwt.ExpiredSignatureError),
        ({"nbf": int(time.time()) + 3600}, jwt.ImmatureSignatureError),
        ({"iat": int(time.time()) + 3600}, jwt.ImmatureSignatureError),
        ({"exp": None}, jwt.MissingRequiredClaimError),
        ({"iat": None}, jwt.MissingRequiredClaimError),
        ({"iss": "https://other.example"}, jwt.InvalidIssuerError),
        ({"iss": None}, jwt.MissingRequiredClaimError),
        ({"aud": "other"}, jwt.InvalidAudienceError),
        ({"aud": {"api": 1}}, jwt.InvalidAudienceError),
        ({"aud": ["other", 5]}, jwt.InvalidAudienceError),
        ({"aud": None}, jwt.MissingRequiredClaimError),
    ],
)
def test_claims_that_do_not_hold_are_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    """Expired, early, without a required claim, of another issuer or for another audience: each has its own error."""
    strict = verifier(issuer=ISSUER, audience=["api", "web"], leeway_s=5)
    assert strict.verify(signed(aud=["web"])).iss == ISSUER
    with pytest.raises(error):
        strict.verify(signed(**{"aud": "api", **changes}))


def test_leeway_admits_a_token_just_expired() -> None:
    """A token that expired within the leeway passes."""
    assert verifier(leeway_s=60).verify(signed(exp=int(time.time()) - 30)).kid is None


def test_issuer_and_audience_are_not_checked_unless_configured() -> None:
    """Without an issuer and an audience set, a token with any of them passes."""
    assert verifier().verify(signed(aud=["somebody"], iss="whoever")).claims["aud"] == ["somebody"]


def test_every_refusal_is_a_401_for_jwt_handlers_and_says_so_for_ours() -> None:
    """The refusals are jwt.InvalidTokenError and RevokerError at once, with the status a service should answer."""
    found: list[RevokerError] = [
        TokenRevoked(kind="session"),
        TokenMalformed("m"),
        TokenMissing("m"),
        KeyUnknown("k", refreshing=False),
    ]
    assert all(isinstance(error, jwt.InvalidTokenError) for error in found)
    assert [error.http_status for error in found] == [401] * 4
    assert KeyUnknown("k", refreshing=True).http_status == 503


def test_no_repr_and_no_message_shows_the_token() -> None:
    """Neither the repr of a verified token nor the message of a refusal quotes the token or a claim's value."""
    raw = signed(sub="secret-subject")
    verified = verifier().verify(raw)
    with pytest.raises(TokenMalformed) as caught:
        verifier().verify(raw + "=")
    shown = repr(verified) + str(verified) + str(caught.value)
    assert not any(part in shown for part in [*raw.split("."), "secret-subject"])


def test_a_verifier_from_settings_holds_to_them() -> None:
    """The verifier made from settings checks the issuer, audience and claims they name."""
    settings = Settings(
        algorithms=("HS256",), key_secret=SECRET, issuer=ISSUER, audience=("api",), required_claims=("exp", "sub")
    )
    made = Verifier.from_settings(settings, secret_keys())
    assert made.verify(signed(aud="api", iat=None)).claims["sub"] == "alice"
    with pytest.raises(jwt.MissingRequiredClaimError):
        made.verify(signed(aud="api", sub=None))


def test_sign_knows_the_algorithms_of_the_verifier_only() -> None:
    """Signing with an algorithm that no verifier would accept is refused."""
    with pytest.raises(SettingsError, match="none"):
        sign({}, key="", algorithm="none")


def test_a_source_without_keys_is_an_unknown_key() -> None:
    """A source that offers no key at all means an unknown key, not a crash."""
    with pytest.raises(KeyUnknown):
        Verifier(keys=FixedKeys(), algorithms=["HS256"]).verify(signed())


def test_a_key_unfit_for_its_algorithm_is_a_refusal() -> None:
    """A source that offers a key the library cannot use causes a refusal, with the cause kept."""
    key = bind(private_key("ES256").public_key(), kid=None, allowed=["ES256"])
    object.__setattr__(key, "material", public_pem(private_key("RS256")))
    with pytest.raises(TokenMalformed) as caught:
        Verifier(keys=FixedKeys(key), algorithms=["ES256"]).verify(signed("ES256"))
    assert caught.value.__cause__ is not None
