"""The built-in patterns: what they find, what they leave, and that no text keeps them busy for ever."""

from __future__ import annotations

import pytest

from redecode.tracer.privacy.patterns import groups, named, redact
from redecode.tracer.privacy.rules import Rules
from tests.tracer.privacy.support import MAIL

POSITIVE = {
    "email": ["ada@example.org", "a.b+c@sub.example.co.uk", "müller@exämple.de"],
    "phone": ["+49 30 1234567", "+1 (212) 555-0123", "(212) 555-0123", "212-555-0123", "030/1234567", "06 12 34 56 78"],
    "credit-card": ["4111 1111 1111 1111", "5555555555554444", "3782-822463-10005"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "us-ssn": ["078-05-1120"],
    "ip-address": ["192.168.1.20", "2001:db8:85a3:0:0:8a2e:370:7334", "fe80::1ff:fe23:4567:890a"],
    "api-key": ["sk-proj-abcdefghijklmnop1234", "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1" * 18, "hf_" + "Ab3" * 11],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.dozjgNryP4J3jVmNHl0w5N"],
    "private-key": ["-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----"],
    "authorization": ["Authorization: Bearer abc.def-123456", "x-api-key: 0123abcd", "bearer abcdefghijklmnop1234"],
    "url-password": ["https://user:p4ss@host.example/x"],
    "password": ["password=hunter2", '{"api_key": "0123abcd"}', "DB_PASSWORD: hunter2"],
}


def test_every_pattern_is_tested_here() -> None:
    assert set(POSITIVE) == set(groups()) - {"patterns", "secrets", "personal"}


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in POSITIVE.items() for t in texts])
@pytest.mark.parametrize("around", ["{}", "see {} for more", "a\n{}\nb", '("{}")'])
def test_patterns_find(name: str, text: str, around: str) -> None:
    found: set[str] = set()
    out = redact(named([name]), around.format(text), found)
    assert found == {name}
    secret = {"authorization": text.split()[-1], "url-password": "p4ss", "password": "hunter2"}.get(name, text)
    assert secret not in out
    assert f"[{name}]" in out


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112", "DE89370400440532013001", "000-12-3456", "2026-11-21T15:03:11.123456Z", "15:03:11",
        "1763737361000000000", "1.2.3.4.5", "std::vector", "run/ask@1[push:3]/chat#1", "pi is 3.14159265358979",
        "gpt-4-0613", "1,234,567,890", "primary key: id", "bearer of good news", "https://example.com/@me", "user@host",
        "order 88213, 129.90 EUR", "f(x) = 12 + 34 - 56", "0.1 0.2 0.3", "sk-learn", "the password is weak",
    ],
)  # fmt: skip
def test_patterns_leave(text: str) -> None:
    found: set[str] = set()
    assert redact(named(["patterns"]), text, found) is text
    assert not found


def test_a_false_alarm_does_not_hide_what_is_behind_it() -> None:
    found: set[str] = set()
    assert redact(named(["patterns"]), "4111 1111 1111 1112 4111 1111 1111 1111", found).endswith("[credit-card]")
    assert redact(named(["iban"]), "AB12 CDEF 0123 DE89 3704 0044 0532 0130 00", found).endswith("[iban]")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["a", "a.", "a@", "1", "1 ", "-", "ey", "eyJ.", "A1", "x:", "0-", "(", "sk-", "://", "["]
)
def test_no_text_takes_for_ever(piece: str) -> None:
    redact(named(["patterns"]), piece * (100_000 // len(piece)), set())


def test_a_long_text_is_looked_at_once_and_a_changed_one_again() -> None:
    rules, clean = Rules(["email"]), "nothing to see here " * 100
    found: set[str] = set()
    assert rules.text("x", clean, found) == rules.text("x", clean, found) == clean
    assert rules.text("x", clean + MAIL, found) == clean + "[email]"
    assert rules.text("x", clean + MAIL, found) == clean + "[email]"
