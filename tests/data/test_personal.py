import json

import pytest

from peftkit.data.personal import MAX_PLACES, kinds_in, personal_data

# Put together here, so that nobody's scanner takes this file for a leak.
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "a1B2c3D4e5" * 3 + "a1B2c3"
SLACK = "xoxb-" + "123456789012-" * 2 + "abcDEF123456"
TOKEN = ".".join(("eyJ" + "hbGciOiJIUzI1NiJ9", "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0", "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jane.doe+films@mail.co.uk.", "mail address"),
        ("<a_b-c@sub.domain.museum>", "mail address"),
        ("+44 20 7946 0958", "phone number"),
        ("(+49 (0)30 901820)", "phone number"),
        ("+33.6.12.34.56.78", "phone number"),
        ("+390612345678", "phone number"),
        ("0049 30 1234567", "phone number"),
        ("+1 (212) 555-0199", "phone number"),
        ("(212) 555-0199", "phone number"),
        ("212.555.0199", "phone number"),
        ("Tel.: 030/1234567", "phone number"),
        ("call me on 07700 900123!", "phone number"),
        ("4111 1111 1111 1111", "card number"),
        ("5555-5555-5555-4444", "card number"),
        ("378282246310005", "card number"),
        ("3782 822463 10005", "card number"),
        ("2223003122003222", "card number"),
        ("DE89 3704 0044 0532 0130 00", "IBAN"),
        ("GB29NWBK60161331926819,", "IBAN"),
        ("MT84 MALT 0110 0001 2345 MTLC AST0 01S", "IBAN"),
        ("NL91 ABNA 0417 1643 00 AND MORE", "IBAN"),
        ("from 8.8.8.8:53", "IP address"),
        ("2001:4860:4860::8888", "IP address"),
        (AWS, "AWS key"),
        (f"token={GITHUB}", "GitHub token"),
        ("github_pat_" + "A1" * 11 + "_" + "b2" * 29 + "c", "GitHub token"),
        (SLACK, "Slack token"),
        ("sk-" + "a1B2c3D4" * 6, "API key"),
        ("sk-ant-" + "api03-" + "x_Y-1" * 8, "API key"),
        ("sk-proj-" + "x_Y-1" * 8, "API key"),
        ("hf_" + "abCD" * 8 + "ef", "API key"),
        ("AIza" + "abcDE" * 7, "API key"),
        ("sk_" + "live_" + "abcDEF12" * 3, "API key"),
        (TOKEN, "JSON web token"),
        ("-----BEGIN " + "RSA PRIVATE KEY-----", "private key"),
        ("-----BEGIN " + "PRIVATE KEY-----", "private key"),
    ],
)
def test_what_is_found(text, kind):
    assert kinds_in(text) == [kind]
    assert kinds_in(f"Well, {text} it is\nand {text}") == [kind, kind]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1999-2005, 2021-03-04 12:30:45, 04/03/2021, 10:00-18:30",
        "$1,234,567.89 or 1.234.567,89 or 12 345 678",
        "version 12.4.5.6, v8.8.8.8, numpy==1.2.3.4, section 3.2.1.4, cudnn=8.9.2.26=pypi_0",
        "+1.23456789 +20000000 -4912345678 2+49123456789",
        "3.14159265358979 1e10 0x1234567890abcdef",
        "1234567890 1234567890123 0049301234567",
        "ISBN 978-3-16-148410-0",
        "mobile 2021-03-04, tel 2019-2020, call 911, text 12345",
        "4111 1111 1111 1112",  # check digit
        "1111 1111 1111 1117",  # no issuer
        "DE88 3704 0044 0532 0130 00",  # check digits
        "DE893704004405320130001",  # length
        "ZZ89 3704 0044 0532 0130 00",  # no country
        "127.0.0.1 192.168.1.1 10.0.0.1 0.0.0.0 256.1.1.1 1.2.3",
        "std::string::npos, a::b, fe80::1, 12:30:45:12:30:45:12",
        "jane@example.com, x@test.invalid, git@github.com:a/b, icon@2x.png, noreply@shop.de",
        "@jane, a @ b.de, x@W, x @ w.T, f(x)@g.h(y)",
        "sk-learn-estimator-doc-link-with-a-long-name sk-toggleable__content",
        "task-" + "a1b2c3d4" * 5,
        "night_shift, hf_hub_download, ghp_short",
        "-----BEGIN " + "PUBLIC KEY-----",
        "AKIA and ASIA",
    ],
)
def test_what_is_left_alone(text):
    assert kinds_in(text) == []


def test_rows_and_places_are_counted_and_no_value_is_kept():
    texts = ["a@mail.de and b@mail.de, 8.8.8.8", "nothing", "c@mail.de"] + ["+44 20 7946 0958"] * 20
    found = personal_data(texts, [f"x.csv:{row}" for row in range(2, 25)])
    assert found == {
        "rows": 22,
        "kinds": {
            "IP address": {"count": 1, "rows": 1, "places": ["x.csv:2"]},
            "mail address": {"count": 3, "rows": 2, "places": ["x.csv:2", "x.csv:4"]},
            "phone number": {"count": 20, "rows": 20, "places": [f"x.csv:{row}" for row in range(5, 5 + MAX_PLACES)]},
        },
    }
    assert not any(value in json.dumps(found) for value in ("mail.de", "8.8.8.8", "7946"))
    assert personal_data([], []) == {"rows": 0, "kinds": {}}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000 + "@",
        "a.b" * 100_000 + "@x",
        "@" + "a." * 100_000,
        "1 " * 100_000,
        "+1" * 100_000,
        "AB12" * 50_000 + " 1234567",
        "xoxb-" + "a-" * 100_000,
        "eyJ" * 100_000,
        "2001:" * 50_000 + "::",
        "-----BEGIN " + "A " * 100_000 + "PRIVATE KEY",
    ],
)
def test_hostile_texts_take_no_quadratic_time(text):
    assert kinds_in(text) == []
