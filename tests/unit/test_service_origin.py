"""The rule that tells the user's own requests from those of other pages."""

from __future__ import annotations

import pytest

from revoker.errors import SettingsError
from revoker.service.origin import listed_origins, normal_origin, refusal

OWN = "https://auth.example.com"
LISTED = frozenset({"https://app.example.com"})


@pytest.mark.parametrize(
    ("origin", "fetch_site", "passes"),
    [
        # Browsers that say where a request comes from
        (OWN, "same-origin", True),
        (None, "same-origin", True),
        (None, "none", True),
        (OWN, "none", True),
        ("https://shop.example.com", "same-site", False),
        ("https://app.example.com", "same-site", True),
        ("https://evil.example", "cross-site", False),
        ("https://app.example.com", "cross-site", True),
        ("null", "cross-site", False),
        (None, "cross-site", False),
        (None, "same-site", False),
        (OWN, "cross-site", False),
        (OWN, "nonsense", False),
        (OWN, "Same-Origin", False),
        # Browsers that only send Origin
        (OWN, None, True),
        ("https://auth.example.com:443", None, True),
        ("HTTPS://AUTH.example.com", None, True),
        ("http://auth.example.com", None, False),
        ("https://auth.example.com:8443", None, False),
        ("https://auth.example.com.evil.example", None, False),
        ("https://evil.example", None, False),
        ("https://app.example.com", None, True),
        ("https://app.example.com/", None, False),
        ("null", None, False),
        ("", None, False),
        # No browser
        (None, None, True),
    ],
)
def test_who_may_use_the_cookie(origin: str | None, fetch_site: str | None, passes: bool) -> None:
    """Only the service's own pages, listed ones and programs pass; a sibling subdomain and a null origin do not."""
    reason = refusal(
        origins=() if origin is None else (origin,),
        fetch_sites=() if fetch_site is None else (fetch_site,),
        own=OWN,
        listed=LISTED,
    )
    assert (reason is None) is passes


def test_the_refusal_names_the_setting_that_would_allow_it() -> None:
    """An operator whose own page was refused reads which setting to change."""
    reason = refusal(origins=("https://x.example",), fetch_sites=(), own=OWN, listed=LISTED)
    assert reason is not None
    assert "allowed_origins" in reason


@pytest.mark.parametrize(
    ("origins", "fetch_sites"), [((OWN, OWN), ()), ((OWN, "https://evil.example"), ()), ((), ("same-origin", "none"))]
)
def test_a_header_that_stands_twice_proves_nothing(origins: tuple[str, ...], fetch_sites: tuple[str, ...]) -> None:
    """Browsers send each header once, so repeated ones were made by something in between and are refused."""
    assert refusal(origins=origins, fetch_sites=fetch_sites, own=OWN, listed=LISTED) is not None


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://App.Example.com", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("https://app.example.com/", None),
        ("https://user@app.example.com", None),
        ("https://app.example.com:99999", None),
        ("https://*.example.com", None),
        ("app.example.com", None),
        ("*", None),
        ("null", None),
    ],
)
def test_an_origin_has_one_spelling(text: str, normal: str | None) -> None:
    """Case and default ports do not matter; whatever is more or less than an origin is none."""
    assert normal_origin(text) == normal


@pytest.mark.parametrize("entry", ["*", "app.example.com", "https://app.example.com/login", "https://*.example.com"])
def test_a_listed_origin_that_could_never_match_is_refused_by_name(entry: str) -> None:
    """A path, a wildcard or a bare host in allowed_origins is a SettingsError that shows the entry and a right one."""
    with pytest.raises(SettingsError, match=r"allowed_origins names .* must be scheme://host"):
        listed_origins([entry])
