r"""Named patterns of what must not be written down: secrets that open something, and data about persons.

Speed: a text is only searched for a pattern if it contains what the pattern cannot do without (`needs`), and a regex
begins with a character class, its look at what stands before after that, so that Python's `re` skips over most of a
text. What a regex finds may still be nothing (a number that is no card number); then the search goes on behind the
beginning of it.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Needs = tuple[str, ...] | re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of text, or one form of it.

    Attributes:
        name: as users select it, and as the record and the placeholder name it; forms of one kind share it.
        regex: the text; groups called `keep…` are left standing in front of the placeholder.
        needs: one of these is in every text with a match, in small letters; or, this is found in it; empty: unknown.
        holds: tells false alarms; `None` if the regex says it all.
    """

    name: str
    regex: re.Pattern[str]
    needs: Needs = ()
    holds: Callable[[str], bool] | None = None

    def sub(self, text: str) -> str:
        """The text with a placeholder for every match; the very same object if there is none."""
        parts: list[str] = []
        at = done = 0
        while (match := self.regex.search(text, at)) is not None:
            if self.holds is not None and not self.holds(match[0]):
                at = match.start() + 1
                continue
            kept = "".join(value for name, value in match.groupdict().items() if value and name.startswith("keep"))
            parts += (text[done : match.start()], kept, f"[{self.name}]")
            at = done = match.end()
        return "".join((*parts, text[done:])) if parts else text


def redact(patterns: Sequence[Pattern], text: str, found: set[str]) -> str:
    """The text with placeholders; the very same object if nothing was found. The names of what was go into `found`."""
    lowered = text.lower()
    met: dict[int, bool] = {}
    for pattern in patterns:
        needs = pattern.needs
        if needs:
            if (yes := met.get(id(needs))) is None:
                if isinstance(needs, tuple):
                    yes = any(need in lowered for need in needs)
                else:
                    yes = needs.search(text) is not None
                met[id(needs)] = yes
            if not yes:
                continue
        changed = pattern.sub(text)
        if changed is not text:
            found.add(pattern.name)
            text = changed
    return text


def _luhn(text: str) -> bool:
    digits = [int(ch) for ch in text if ch.isdigit()]
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _mod_97(text: str) -> bool:
    plain = text.replace(" ", "")
    return int("".join(str(int(ch, 36)) for ch in plain[4:] + plain[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    return 8 <= sum(ch.isdigit() for ch in text) <= 17


def _is_ip(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


_NEW = r"(?<![A-Za-z0-9].)"  # behind the first character: a word begins with it
_FIELD = (
    rf"[pscarb]{_NEW}(?:(?<=p)(?:ass(?:word|wd|phrase)|wd|rivate[_-]?key)|"
    r"(?<=s)ecret(?:[_-]?(?:access[_-]?)?key)?|(?<=s)ession[_-]?token|(?<=c)(?:lient[_-]?secret|redentials?)|"
    r"(?<=a)(?:pi[_-]?(?:key|token)|ccess[_-]?(?:token|key)|uth[_-]?token)|(?<=r)efresh[_-]?token|"
    r"(?<=b)earer[_-]?token)"
)
SECRET_FIELD = re.compile(rf"(?i:(?:.*[^A-Za-z0-9])?{_FIELD}|(?:proxy-)?authorization|(?:set-)?cookie|x-api-key)")
"""A name, the whole of it, whose value is a secret."""

_KEY = (
    rf"[srAgxyhnpSl]{_NEW}(?:(?<=s)k-[\w-]{{16,}}|(?<=[sr])k_(?:live|test)_\w{{10,}}|"
    r"(?<=A)(?:KIA|SIA)[A-Z0-9]{16}(?![A-Za-z0-9])|(?<=g)h[pousr]_\w{20,}|(?<=g)ithub_pat_\w{20,}|"
    r"(?<=g)lpat-[\w-]{16,}|(?<=x)ox[abeoprs]-[\w-]{10,}|(?<=A)Iza[\w-]{30,}|(?<=y)a29\.[\w-]{20,}|(?<=h)f_\w{20,}|"
    r"(?<=n)pm_\w{30,}|(?<=p)ypi-[\w-]{30,}|(?<=S)G\.[\w-]{16,}\.[\w-]{16,}|(?<=n)vapi-[\w-]{20,}|(?<=g)sk_\w{20,}|"
    r"(?<=l)sv2_\w{20,})"
)
_KEY_NEEDS = (
    "sk-", "k_live_", "k_test_", "akia", "asia", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "_pat_", "glpat-", "xox",
    "aiza", "ya29.", "hf_", "npm_", "pypi-", "sg.", "nvapi-", "gsk_", "lsv2_",
)  # fmt: skip
_PRIVATE_KEY = r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)"
_HEADER = (
    rf"(?P<keep>[AaPpXxCcSs]{_NEW}(?i:(?<=a)uthorization|(?<=p)roxy-authorization|(?<=x)-(?:api|auth)-(?:key|token)|"
    r"(?<=c)ookie|(?<=s)et-cookie)[\"']?\s{0,3}[:=]\s{0,3}[\"']?)"
    r"(?!\[)(?:(?i:basic|bearer|digest|token|negotiate)\s{1,3})?[^\s\"',;<>}]+"
)
_SCHEME = rf"(?P<keep>[Bb]{_NEW}(?i:earer|asic)\s{{1,3}})[A-Za-z0-9._~+/-]{{16,}}={{0,2}}"
_ASSIGNED = rf"(?P<keep>(?i:{_FIELD})[\"']?\s{{0,3}}[=:]\s{{0,3}}[\"']?)(?!\[)[^\s\"',;&<>}}\])]{{3,}}"
_URL = rf"(?P<keep>[A-Za-z]{_NEW}[A-Za-z0-9+.-]{{1,30}}://)[^\s/?#@\"'<>]{{1,512}}@"


@functools.cache
def secrets() -> tuple[Pattern, ...]:
    """What opens something: keys, tokens, passwords."""
    return (
        Pattern("private-key", re.compile(_PRIVATE_KEY), ("private key",)),
        Pattern("jwt", re.compile(rf"e{_NEW}yJ[\w-]{{8,}}\.eyJ[\w-]{{5,}}(?:\.[\w-]*)?"), ("eyj",)),
        Pattern("api-key", re.compile(_KEY), _KEY_NEEDS),
        Pattern("url-password", re.compile(_URL), ("://",)),
        Pattern("authorization", re.compile(_HEADER), ("authorization", "x-api-", "x-auth-", "cookie")),
        Pattern("authorization", re.compile(_SCHEME), ("bearer", "basic")),
        Pattern(
            "password",
            re.compile(_ASSIGNED),
            ("passw", "passphrase", "pwd", "secret", "key", "token", "credential"),
        ),
    )


_DIGITS = re.compile(r"\d(?:[ ().+/-]{0,2}\d){6}")  # enough of them close together for any number below
_LOCAL, _LABEL = r"[\w.!#$%&*+/=?^`|~'-]", r"[\w-]{1,63}"
_EMAIL = rf"{_LOCAL}(?<!{_LOCAL}.){_LOCAL}{{0,63}}@(?:{_LABEL}\.){{1,8}}[^\W\d_][\w-]{{1,62}}"
_IBAN = rf"[A-Z]{_NEW}[A-Z]\d\d(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?(?![A-Za-z0-9])"
_CARD = (
    rf"[2-6]{_NEW}(?:(?:(?<=4)\d{{3}}|(?<=5)[1-5]\d\d|(?<=2)[2-7]\d\d|(?<=6)\d{{3}})(?:[ -]?\d{{4}}){{2}}[ -]?\d{{1,7}}"
    r"|(?<=3)(?:[47]\d\d[ -]?\d{6}[ -]?\d{5}|[0689]\d\d[ -]?\d{6}[ -]?\d{4}))(?!\d)"
)
_PHONES = (
    r"[+0](?<![\w+].)(?:(?<=\+)|0)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,6}(?<=[\d)])(?!\d)",  # +49 30 1234567
    r"[1(](?<![\w(].)(?:(?<=1)[ .-]\()?(?<=\()\d{3}\)[ .-]?\d{3}[ .-]\d{4}(?!\d)",  # (212) 555-0123
    r"[1-9](?<![\w.+-].)(?:(?<=1)[ .-][2-9])?(?<=[2-9])\d\d([ .-])[2-9]\d\d\1\d{4}(?![\w.-]?\d)",  # 212-555-0123
    r"0(?<![\w.,+-].)[1-9]\d{0,4}[ /-]\d{2,4}(?:[ -]?\d{2,4}){1,3}(?!\d)",  # 030/1234567
)
_IPV4 = r"[0-9](?<![\w.].)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w]|\.\d)"
_IPV6 = r"[0-9A-Fa-f:](?<![\w:.].)[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:]{1,37}(?<![^:]:)(?![\w:])"


@functools.cache
def personal() -> tuple[Pattern, ...]:
    """Data about persons."""
    v6 = re.compile(_IPV6)
    return (
        Pattern("email", re.compile(_EMAIL), ("@",)),
        Pattern("iban", re.compile(_IBAN), _DIGITS, _mod_97),
        Pattern("credit-card", re.compile(_CARD), _DIGITS, _luhn),
        Pattern("us-ssn", re.compile(rf"[0-8]{_NEW}\d\d(?<!000|666)([- ])(?!00)\d\d\1(?!0000)\d{{4}}(?!\d)"), _DIGITS),
        *(Pattern("phone", re.compile(form), _DIGITS, _is_phone) for form in _PHONES),
        Pattern("ip-address", re.compile(_IPV4), re.compile(r"\d\.\d{1,3}\.\d"), _is_ip),
        Pattern("ip-address", v6, ("::",), _is_ip),
        Pattern("ip-address", v6, re.compile(r":[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:"), _is_ip),
    )


def groups() -> dict[str, tuple[Pattern, ...]]:
    """Every name that can be asked for: each pattern's own, `secrets`, `personal`, and `patterns` for all."""
    every = (*secrets(), *personal())
    alone = {name: tuple(p for p in every if p.name == name) for name in dict.fromkeys(p.name for p in every)}
    return {"patterns": every, "secrets": secrets(), "personal": personal(), **alone}


def named(names: Iterable[str]) -> tuple[Pattern, ...]:
    """Patterns by name, in the order in which they are to be looked for.

    Raises:
        KeyError: there is none of that name.
    """
    known = groups()
    wanted = {pattern for name in names for pattern in known[name]}
    return tuple(pattern for pattern in known["patterns"] if pattern in wanted)
