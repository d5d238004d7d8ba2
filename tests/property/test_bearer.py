"""The quick look at ``Authorization`` sees what the long one sees, whatever the header."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from revoker.bearer import _read, bearer_token
from revoker.tokens import TokenMalformed

# Every character that splits, or could be taken for one that does, between letters.
pieces = st.sampled_from(
    [*"\t\n\v\f\r\x1c\x1d\x1e\x1f ,", "\x00", "\x85", "\xa0", "\u2028", "\u3000", "a", "b.c", "bearer"]
)
schemes = st.sampled_from(["Bearer ", "bearer ", "Bearer", " Bearer ", "Bearer\t", "Bearer  ", "Basic ", ""])
headers = st.builds(lambda scheme, rest: scheme + "".join(rest), schemes, st.lists(pieces, max_size=5)) | st.text()


def _said(read: object, values: list[str]) -> str | None:
    try:
        return read(values)  # type: ignore[operator, no-any-return]
    except TokenMalformed as error:
        return f"malformed: {error}"


@settings(max_examples=1500, deadline=None)
@given(values=st.lists(headers, max_size=2))
@example(values=["Bearer a.b.c"])
@example(values=["Bearer a,\u2003bearer"])
def test_the_quick_look_and_the_long_one_agree(values: list[str]) -> None:
    """The same token, the same None, or the same error."""
    assert _said(bearer_token, values) == _said(_read, values)
