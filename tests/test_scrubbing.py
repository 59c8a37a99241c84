"""What is taken out of texts that leave a site, and what stays readable."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.redaction import MARK
from telemetryd.scrubbing import GENERIC, Scrubber, words_of_url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://rancher.example.com:8443/x", f"at https://{MARK}:8443/x"),
        ("RANCHER.example.COM", MARK),
        ("xrancher.example.com", "xrancher.example.com"),
        ("rancher.example.com_2", f"{MARK}_2"),
        ('context "eks:eu/main" is gone', f'context "{MARK}" is gone'),
        ("k3s runs", "k3s runs"),
        ("the default cluster", "the default cluster"),
    ],
)
def test_word_is_taken_out_where_no_letter_or_digit_goes_on(text: str, shown: str) -> None:
    scrubber = Scrubber(("rancher.example.com", "eks:eu/main", "k3s", "default", ""))
    assert scrubber.scrub(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("local/c-m-abcdef", f"local/{MARK}"),
        ("c-m-abcdef/machine-7 can't be read.", f"{MARK}/{MARK} can't be read."),
        ("no c-m-abcdef.", f"no {MARK}."),
        ("C-M-ABCDEF", MARK),
        ("c-m-abcdefg", "c-m-abcdefg"),
        ('nodes{node="machine-7"} 1', f'nodes{{node="{MARK}"}} 1'),
        ("ip-10-0-0-1.ec2.internal:10250", f"{MARK}:10250"),
    ],
)
def test_name_is_taken_out_where_it_is_a_whole_name(text: str, shown: str) -> None:
    names = ("local", "c-m-abcdef", "machine-7", "ip-10-0-0-1.ec2.internal", "n1")
    assert Scrubber(names=names).scrub(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("via http://user:pa55@proxy:3128", f"via http://{MARK}@proxy:3128"),
        ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {MARK}"),
        ("basic dXNlcjpwYXNzdzByZA==", f"basic {MARK}"),
        ("basic authentication", "basic authentication"),
        ("got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", f"got {MARK}"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA", f"{MARK} RSA"),
    ],
)
def test_what_looks_like_a_credential_is_taken_out(text: str, shown: str) -> None:
    assert Scrubber().scrub(text) == shown


def test_secret_is_found_in_base64_and_in_pieces() -> None:
    secret = "s3cret-0f-the-receiver-77"
    scrubber = Scrubber(secrets=(secret,))
    for text in (secret, b64encode(secret.encode()).decode(), secret[3:20], f'"{secret[:9]}\\n'):
        assert secret[4:20] not in scrubber.scrub(f"a {text} b")
    assert MARK in scrubber.scrub(b64encode(f"user:{secret}".encode()).decode())


def test_document_keeps_its_keys_and_all_that_is_no_text() -> None:
    scrubber = Scrubber(("sentinel",))
    document = {"sentinel": ["sentinel", 1, None, {"a": "the sentinel", "b": True}], "c": 1.5}
    assert scrubber.scrub_document(document) == {
        "sentinel": [MARK, 1, None, {"a": f"the {MARK}", "b": True}],
        "c": 1.5,
    }


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://rancher.example.com:8443/a/b", ["rancher.example.com", "a/b", "", "", "", ""]),
        ("http://127.0.0.1:80/x", ["", "x", "", "", "", ""]),
        ("http://us%40er:p%3Aw@h", ["h", "", "us%40er", "p%3Aw", "us@er", "p:w"]),
        ("", ["", "", "", "", "", ""]),
        ("https://[::1", ["https://[::1"]),
    ],
)
def test_words_of_a_url_say_whose_it_is(url: str, words: list[str]) -> None:
    assert words_of_url(url) == words


@given(
    word=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=4, max_size=30),
    before=st.sampled_from(["", " ", "/", '"', "https://", "=", "(", "x/", "\\n "]),
    after=st.sampled_from(["", " ", "/", '"', ":443", ".", ")", ",", "\n"]),
)
def test_word_never_stays_whole(word: str, before: str, after: str) -> None:
    shown = Scrubber((word,), names=(word,)).scrub(f"{before}{word}{after}")
    rest = shown.removeprefix(before)  # "https" has the word "http"
    assert word not in rest or word.lower() in GENERIC or word.lower() in MARK
