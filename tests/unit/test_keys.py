"""Keys from a secret and PEM files, and which source the settings name."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from revoker.errors import SettingsError
from revoker.keys import JwksKeys, Keys, KeyUnknown, StaticKeys, keys_from_settings
from revoker.settings import Settings
from revoker.tokens import Verifier, sign
from tests.signing import SECRET, claims, private_key, public_pem


def pem_file(directory: Path, name: str, content: bytes) -> str:
    path = directory / name
    path.write_bytes(content)
    return str(path)


def key_file(directory: Path, algorithm: str, name: str = "") -> str:
    return pem_file(directory, f"{algorithm}{name}.pem", public_pem(private_key(algorithm, name)))


def signed(algorithm: str, name: str = "", kid: str | None = None) -> str:
    headers = {"kid": kid} if kid is not None else None
    return sign(claims(), key=private_key(algorithm, name), algorithm=algorithm, headers=headers)


def certificate(key: rsa.RSAPrivateKey) -> bytes:
    """Self-signed, and long expired."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    dated = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
    return dated.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


class TestSecret:
    @pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
    def test_a_secret_is_at_least_as_long_as_the_hash(self, algorithm: str, least: int) -> None:
        """A secret shorter than the hash is refused with both lengths (RFC 7518 section 3.2); one as long passes."""
        with pytest.raises(SettingsError, match=rf"has {least - 1} bytes, {algorithm} needs at least {least}"):
            StaticKeys(algorithms=[algorithm], secret="x" * (least - 1))
        assert StaticKeys(algorithms=[algorithm], secret="x" * least).candidates(None, algorithm)

    def test_the_secret_never_shows(self) -> None:
        """Neither the repr of the key nor a refusal shows the secret."""
        with pytest.raises(SettingsError) as caught:
            StaticKeys(algorithms=["HS512"], secret="short-secret")
        assert "short-secret" not in str(caught.value)
        assert SECRET not in repr(StaticKeys(algorithms=["HS256"], secret=SECRET).candidates(None, "HS256"))

    def test_a_public_key_is_no_secret(self) -> None:
        """A PEM given as secret, the set-up of every algorithm confusion, is refused."""
        pem = public_pem(private_key("RS256")).decode()
        with pytest.raises(SettingsError, match="set key_files"):
            StaticKeys(algorithms=["HS256"], secret=pem)

    def test_one_secret_is_used_with_one_algorithm(self) -> None:
        """Two HMAC algorithms for the one secret are refused (RFC 8725 section 3.1)."""
        with pytest.raises(SettingsError, match="HS256 and HS512"):
            StaticKeys(algorithms=["HS256", "HS512"], secret=SECRET)


class TestFamilies:
    def test_an_algorithm_without_its_family_of_keys_is_refused(self, tmp_path: Path) -> None:
        """HS256 without a secret and ES256 without a file are contradictions, told at start."""
        with pytest.raises(SettingsError, match="HS256, which needs key_secret"):
            StaticKeys(algorithms=["HS256"], key_files=[key_file(tmp_path, "ES256")])
        with pytest.raises(SettingsError, match="ES256, which needs key_files"):
            StaticKeys(algorithms=["ES256"], secret=SECRET)
        with pytest.raises(SettingsError, match="HS256, which needs key_secret"):
            JwksKeys(url="https://issuer.example/keys", algorithms=["ES256", "HS256"])

    def test_a_secret_and_a_public_key_are_never_swapped(self, tmp_path: Path) -> None:
        """With both families configured, each algorithm is offered keys of its own family only."""
        keys = StaticKeys(algorithms=["HS256", "ES256"], secret=SECRET, key_files=[key_file(tmp_path, "ES256")])
        assert [type(key.material) for key in keys.candidates(None, "HS256")] == [bytes]
        assert all(isinstance(key.material, ec.EllipticCurvePublicKey) for key in keys.candidates(None, "ES256"))

    def test_the_edition_stays(self) -> None:
        """Keys that cannot change have one edition for good; another source's is another."""
        keys = StaticKeys(algorithms=["HS256"], secret=SECRET)
        assert keys.edition is keys.edition
        assert StaticKeys(algorithms=["HS256"], secret=SECRET).edition is not keys.edition

    def test_a_key_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        """A P-384 key where only ES256 is configured is refused with its kind."""
        with pytest.raises(SettingsError, match="P-384"):
            StaticKeys(algorithms=["ES256"], key_files=[key_file(tmp_path, "ES384")])

    def test_an_rsa_key_that_two_algorithms_fit_is_refused(self, tmp_path: Path) -> None:
        """With RS256 and PS256 both configured, what an RSA key is for is open, so it is refused."""
        with pytest.raises(SettingsError, match="RS256 and PS256"):
            StaticKeys(algorithms=["RS256", "PS256"], key_files=[key_file(tmp_path, "RS256")])


class TestPemFiles:
    @pytest.mark.parametrize("algorithm", ["RS512", "PS384", "ES256", "ES384", "ES512", "EdDSA"])
    def test_a_public_key_of_each_kind_verifies(self, tmp_path: Path, algorithm: str) -> None:
        """A PEM public key of every supported kind verifies its tokens."""
        keys = StaticKeys(algorithms=[algorithm], key_files=[key_file(tmp_path, algorithm)])
        assert Verifier(keys=keys, algorithms=[algorithm]).verify(signed(algorithm)).kid is None

    def test_a_certificate_gives_its_key(self, tmp_path: Path) -> None:
        """Of a certificate only the key counts: an expired one still verifies."""
        key = private_key("RS256")
        assert isinstance(key, rsa.RSAPrivateKey)
        keys = StaticKeys(algorithms=["RS256"], key_files=[pem_file(tmp_path, "crt", certificate(key))])
        assert Verifier(keys=keys, algorithms=["RS256"]).verify(signed("RS256")).claims["sub"] == "alice"

    def test_pkcs1_public_keys_are_read(self, tmp_path: Path) -> None:
        """The older BEGIN RSA PUBLIC KEY is read as well."""
        pem = private_key("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
        assert StaticKeys(algorithms=["RS256"], key_files=[pem_file(tmp_path, "old.pem", pem)]).ready

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "holds no PEM block"),
            (b"ssh-ed25519 AAAA", "holds no PEM block"),
            (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no readable public key"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no readable public key"),
            (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "holds a private key"),
            (public_pem(private_key("ES256")) * 2, "2 PEM blocks"),
        ],
    )
    def test_a_wrong_file_is_named_with_what_is_wrong(self, tmp_path: Path, content: bytes, said: str) -> None:
        """A file that is not one public key or certificate is refused, named, with the reason."""
        with pytest.raises(SettingsError, match=rf"bad\.pem.*{said}"):
            StaticKeys(algorithms=["ES256"], key_files=[pem_file(tmp_path, "bad.pem", content)])

    @pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH])
    def test_private_keys_are_refused(self, tmp_path: Path, form: PrivateFormat) -> None:
        """A private key is refused in every form, with the command that makes the public one."""
        content = private_key("ES256").private_bytes(Encoding.PEM, form, NoEncryption())
        with pytest.raises(SettingsError, match=r"holds a private key.*pubout"):
            StaticKeys(algorithms=["ES256"], key_files=[pem_file(tmp_path, "key.pem", content)])

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            (lambda: rsa.generate_private_key(65537, 1024), "1024 bits"),
            (lambda: ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
            (ed448.Ed448PrivateKey.generate, "Ed448"),
            (lambda: dsa.generate_private_key(1024), "supported are RSA"),
        ],
    )
    def test_weak_and_unsupported_keys_are_refused(self, tmp_path: Path, key: Callable[[], Any], said: str) -> None:
        """A key too short to trust, or of a kind no configured algorithm uses, is refused."""
        with pytest.raises(SettingsError, match=said):
            StaticKeys(algorithms=["RS256"], key_files=[pem_file(tmp_path, "key.pem", public_pem(key()))])

    @pytest.mark.parametrize("entry", ["nowhere.pem", "k1=nowhere.pem", ".", "no\0where"])
    def test_a_file_that_cannot_be_read_is_named(self, entry: str) -> None:
        """A missing file, a directory or an impossible path is a SettingsError."""
        with pytest.raises(SettingsError, match="cannot be read"):
            StaticKeys(algorithms=["ES256"], key_files=[entry])

    @pytest.mark.parametrize("entry", ["=a.pem", "k1="])
    def test_half_an_entry_is_refused(self, entry: str) -> None:
        """A kid without a path, or a path with an empty kid, is refused with the right form."""
        with pytest.raises(SettingsError, match="must be PATH or KID=PATH"):
            StaticKeys(algorithms=["ES256"], key_files=[entry])

    def test_a_path_with_an_equals_sign_is_a_path(self, tmp_path: Path) -> None:
        """What stands before the first = is no kid if it holds a slash."""
        key = key_file(tmp_path, "ES256", "=x")
        assert StaticKeys(algorithms=["ES256"], key_files=[key]).candidates(None, "ES256")[0].kid is None

    def test_two_keys_of_one_kid_are_refused(self, tmp_path: Path) -> None:
        """A kid given twice would leave to chance which key verifies."""
        files = [f"k1={key_file(tmp_path, 'ES256', name)}" for name in ("a", "b")]
        with pytest.raises(SettingsError, match="two keys 'k1'"):
            StaticKeys(algorithms=["ES256"], key_files=files)

    def test_which_keys_are_tried(self, tmp_path: Path) -> None:
        """A known kid means its key alone, an unknown one the nameless keys, and none every key."""
        files = [f"k1={key_file(tmp_path, 'ES256', 'a')}", key_file(tmp_path, "ES256", "b")]
        keys = StaticKeys(algorithms=["ES256"], key_files=files)
        tried = {kid: [key.kid for key in keys.candidates(kid, "ES256")] for kid in ("k1", "other", None)}
        assert tried == {"k1": ["k1"], "other": [None], None: ["k1", None]}

    def test_an_unknown_kid_without_nameless_keys_is_final(self, tmp_path: Path) -> None:
        """Where every key has a name, an unknown kid is refused for good: nothing will be fetched."""
        keys = StaticKeys(algorithms=["ES256"], key_files=[f"k1={key_file(tmp_path, 'ES256')}"])
        with pytest.raises(KeyUnknown) as caught:
            keys.candidates("k2", "ES256")
        assert not caught.value.refreshing

    def test_a_named_key_is_not_used_with_another_algorithm(self, tmp_path: Path) -> None:
        """A token that names a key and an algorithm that is not the key's own is refused."""
        files = [f"k1={key_file(tmp_path, 'ES256')}", f"k2={key_file(tmp_path, 'EdDSA')}"]
        with pytest.raises(jwt.InvalidAlgorithmError):
            StaticKeys(algorithms=["ES256", "EdDSA"], key_files=files).candidates("k1", "EdDSA")


class TestFromSettings:
    def test_the_source_follows_from_what_is_set(self, tmp_path: Path) -> None:
        """A URL gives JWKS keys, a secret or files static ones."""
        by_url = keys_from_settings(Settings(algorithms=("ES256",), jwks_url="https://issuer.example/keys"))
        by_file = keys_from_settings(Settings(algorithms=("ES256",), key_files=(key_file(tmp_path, "ES256"),)))
        assert (type(by_url), type(by_file)) == (JwksKeys, StaticKeys)

    def test_no_source_and_two_sources_are_refused(self) -> None:
        """Nothing to verify with, and two sources of keys, are both SettingsErrors that name the settings."""
        with pytest.raises(SettingsError, match="set jwks_url, key_files or key_secret"):
            keys_from_settings(Settings(algorithms=("ES256",)))
        both = Settings(algorithms=("HS256",), key_secret=SECRET, jwks_url="https://issuer.example/keys")
        with pytest.raises(SettingsError, match="keep one source"):
            keys_from_settings(both)

    @pytest.mark.parametrize(
        "url", ["file:///etc/passwd", "issuer.example/keys", "ftp://h/k", "https://", "http://[::1"]
    )
    def test_only_http_urls_are_taken(self, url: str) -> None:
        """A JWKS URL that is not http or https is refused."""
        with pytest.raises(SettingsError, match="jwks_url"):
            JwksKeys(url=url, algorithms=["ES256"])

    def test_a_password_in_the_url_is_refused_without_showing_it(self) -> None:
        """A URL with credentials is refused, and the message does not quote them."""
        with pytest.raises(SettingsError, match="user name or password") as caught:
            JwksKeys(url="https://me:hunter2@issuer.example/keys", algorithms=["ES256"])
        assert "hunter2" not in str(caught.value)

    async def test_static_keys_have_nothing_to_run(self) -> None:
        """The static source is ready at once, without a problem, and its run returns."""
        keys: Keys = StaticKeys(algorithms=["HS256"], secret=SECRET)
        await asyncio.wait_for(keys.run(), 1)
        assert (keys.ready, keys.problem) == (True, None)
