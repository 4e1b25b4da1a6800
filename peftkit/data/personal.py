"""What looks like personal data or a secret: of which kind, how often and in which rows, never the value itself.

Patterns find candidates, and a check digit, a range or the shape decides wherever there is one. What is found can still
be harmless: 2% of random numbers with 16 digits pass for a card. National telephone numbers are found in the North
American form, and after a word such as "tel" or "call"; international ones by their country code. Addresses that stand
for nobody (example.com, 127.0.0.1, 192.168.0.0/16 and the like) are left out. Names, postal addresses and dates of
birth are not looked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any

MAX_PLACES = 10
TOKENS = frozenset({"AWS key", "GitHub token", "Slack token", "API key", "JSON web token", "private key"})
"""Kinds that open a door, whoever they belong to."""


def personal_data(texts: Sequence[str], places: Sequence[str]) -> dict[str, Any]:
    """Count what looks like personal data or a secret.

    Args:
        texts: One text per row.
        places: Where each row stands, such as `reviews.csv:17`.

    Returns:
        `rows`: number of rows with anything; `kinds`: for each kind that was found its `count`, its number of `rows`,
        and the `places` of the first `MAX_PLACES` of them.
    """
    kinds: dict[str, dict[str, Any]] = {}
    rows = 0
    for text, place in zip(texts, places, strict=True):
        found = kinds_in(text)
        rows += bool(found)
        for kind in sorted(set(found)):
            entry = kinds.setdefault(kind, {"count": 0, "rows": 0, "places": []})
            entry["count"] += found.count(kind)
            entry["rows"] += 1
            if len(entry["places"]) < MAX_PLACES:
                entry["places"].append(place)
    return {"rows": rows, "kinds": dict(sorted(kinds.items()))}


def kinds_in(text: str) -> list[str]:
    """Name the kind of everything found in a text, with one entry for each occurrence."""
    found = [kind for kind, sign, pattern in _SECRETS if sign in text for _ in pattern.finditer(text)]
    if "@" in text:
        found += ["mail address" for match in _MAIL.finditer(text) if _is_somebodys(match)]
    runs = list(_DIGITS.finditer(text))
    for run in runs:
        # A pattern looks at one character before a number and at two behind it.
        part = max(0, run.start() - 1), run.end() + 2
        found += [
            kind for kind, pattern, is_one in _NUMBERS for match in pattern.finditer(text, *part) if is_one(match)
        ]
    if runs:
        found += ["IBAN" for match in _IBAN.finditer(text) if _is_iban(match)]
    if "::" in text or text.count(":") > 6:
        found += ["IP address" for match in _IPV6.finditer(text) if _is_public(match)]
    return found


def without_tokens(text: str, mask: str) -> str:
    """Put a mask in the place of everything in a text that is of one of the kinds in `TOKENS`."""
    for _, sign, pattern in _SECRETS:
        if sign in text:
            text = pattern.sub(mask, text)
    return text


def _luhn(digits: str) -> bool:
    """Check the last digit by ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return _ISSUER.fullmatch(digits) is not None and _luhn(digits)


def _is_iban(match: re.Match[str]) -> bool:
    """Check length and remainder by ISO 13616; a word in capitals may follow the number."""
    candidate = match[0].replace(" ", "")
    number = candidate[: _IBAN_LENGTHS.get(candidate[:2], 0)]
    if len(number) < 15 or (len(candidate) > len(number) and " " not in match[0]):
        return False
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1


def _is_public(match: re.Match[str]) -> bool:
    try:
        return ipaddress.ip_address(match[0]).is_global and not _VERSION.search(_before(match))
    except ValueError:
        return False


def _is_somebodys(match: re.Match[str]) -> bool:
    return not _NOBODYS.search(match[0].lower())


def _is_phone(match: re.Match[str]) -> bool:
    number = match[0]
    digits = re.sub(r"\D", "", number.replace("(0)", ""))
    if number.startswith("+"):
        return _INTERNATIONAL.fullmatch(digits) is not None and not re.fullmatch(r".\d+\.\d+", number)
    if number.startswith("00") and not number.isdigit():
        return _INTERNATIONAL.fullmatch(digits[2:]) is not None
    if _NORTH_AMERICAN.fullmatch(number):
        return True
    return len(digits) <= 12 and _CALL.search(_before(match)) is not None and not _DATE.match(number)


def _before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - 24) : match.start()]


# Each with a piece of text that is always in it: finding that is many times as fast as a pattern.
_SECRETS: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (kind, sign, re.compile(rf"(?<![A-Za-z0-9]){pattern}"))
    for kind, sign, pattern in (
        ("AWS key", "AKIA", r"AKIA[A-Z2-7]{16}(?![A-Za-z0-9])"),
        ("AWS key", "ASIA", r"ASIA[A-Z2-7]{16}(?![A-Za-z0-9])"),
        ("GitHub token", "_", r"gh[opsur]_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
        ("Slack token", "xox", r"xox[abeoprs]-(?:[A-Za-z0-9]+-)+[A-Za-z0-9]{10,}"),
        ("API key", "sk-", r"sk-(?:(?:ant|proj|svcacct|admin|or-v1)-[\w-]{20,}|(?=[A-Za-z]*[0-9])[A-Za-z0-9]{32,})"),
        ("API key", "hf_", r"hf_[A-Za-z0-9]{34}(?![A-Za-z0-9])"),
        ("API key", "AIza", r"AIza[\w-]{35}(?![\w-])"),
        ("API key", "_live_", r"[rs]k_live_[A-Za-z0-9]{24,}"),
        ("JSON web token", "eyJ", r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}"),
        ("private key", "PRIVATE KEY", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    )
)
_MAIL = re.compile(
    r"(?<![\w.+/-])[\w+-](?:[\w.+-]{0,62}[\w+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w@(\[])"
)
# Reserved by RFC 2606 and RFC 6761; senders that nobody reads; names of images in two sizes.
_NOBODYS = re.compile(
    r"@(?:.*\.)?example\.(?:com|net|org)$|\.(?:example|invalid|test|local|localhost|internal)$"
    r"|^(?:git|no-?reply)@|@\dx\.\w+$"
)
# Seven digits nearly in a row, or four numbers with dots. It starts with a plain set of characters, which is searched
# for many times as fast as a pattern that starts by looking behind.
_DIGITS = re.compile(r"[0-9](?:(?:[ ()./+-]{0,3}[0-9]){6,}|[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})")
_CARD = re.compile(
    r"(?<![\w.-])(?:[0-9]{14,16}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?![\w-]|\.[0-9])"
)
# Visa, Mastercard (two ranges), Discover, JCB, UnionPay; American Express; Diners Club.
_ISSUER = re.compile(
    r"(?:4\d{3}|5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720|6011|64[4-9]\d|65\d\d|35[2-8]\d|62\d\d)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}"
)
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}(?<![A-Za-z0-9].{4})(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
# Characters of each country's IBAN: SWIFT's IBAN registry, release 101.
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"(..)(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
        "YE30",
    )
}
_IPV4 = re.compile(r"(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w=-]|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{3,34}(?![\w:])")
_VERSION = re.compile(r"(?:version\w*|release|build|section|§|\bv|[=<>~!]=)[ .:=\"']*$", re.IGNORECASE)
_PHONE = re.compile(r"(?<![\w.+/-])[+(]?[0-9](?:[ ./()-]{0,2}[0-9]){6,14}(?![\w-]|[./][0-9])")
_NORTH_AMERICAN = re.compile(r"(?:1[-. ])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-.])[2-9]\d\d[-. ]\d{4}")
# Country codes of ITU-T E.164, and a national number; in a few countries only it may start with a zero.
_INTERNATIONAL = re.compile(
    r"1[2-9]\d\d[2-9]\d{6}|7[3-9]\d{9}|(?:39|22[59]|24[12]|378)0\d{5,10}"
    r"|(?:2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|(?:2[1-69]|3[578]|42|5[09]|6[7-9]|8[058]|9[679])\d)[1-9]\d{5,11}"
)
_CALL = re.compile(
    r"\b(?:t[eé]l\w*|(?:smart)?phone|fon|mobile?|handy|cell|fax|call|dial|text|sms|whatsapp|hotline)"
    r"(?:[ .:#(-]|\b(?:us|me|him|her|them|at|now|on|is|no|nr|number|line)\b)*$",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)\d\d\D(?:0?[1-9]|1[0-2]|(?:19|20)\d\d)\b")
_NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("card number", _CARD, _is_card),
    ("IP address", _IPV4, _is_public),
    ("phone number", _PHONE, _is_phone),
)
