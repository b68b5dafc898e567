"""The sentences articles are made of, in two disjoint sets: TRAIN and HELD_OUT.

The bundled models are trained on TRAIN only and graded on HELD_OUT, so the model card speaks about
phrasings never seen. Held-out sentences use everyday words that training uses too, in sentences that it
does not contain; a model of a few hundred thousand weights can learn what "reach" means, not a dictionary.

Notation: `{n}` name, `{e}` email, `{a}` address, `{ev}` event, `{org}` organisation, `{p}` her/him,
`{s}` she/he, `{P}` She/He, `{Q}` Her/His, `{t}` telephone, `{d}` day, `{m}` month, `{k}` a number;
`[a|b]` is a choice made anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "heldout"]


@dataclass(frozen=True, slots=True)
class Phrases:
    """One set of sentences: what names the contact, and what distracts from them."""

    name: tuple[str, ...]
    email: tuple[str, ...]
    address: tuple[str, ...]
    name_email: tuple[str, ...]
    email_address: tuple[str, ...]
    name_address: tuple[str, ...]
    decoy_name: tuple[str, ...]
    decoy_email: tuple[str, ...]
    decoy_address: tuple[str, ...]
    filler: tuple[str, ...]


TRAIN = Phrases(
    name=(
        "The [contact|contact person|organiser|coordinator] for the {ev} is {n}.",
        "{n} is [in charge of|responsible for|the person behind] the {ev} this year.",
        "[Questions|All questions|Requests] about the {ev} go to {n}.",
        "{n} [runs|leads|manages] the {ev} at the {org}.",
        "Please [get in touch with|turn to|ask|contact] {n} about the {ev}.",
        "The {org} has [chosen|asked|named] {n} to [lead|run|organise] the {ev}.",
        "{n} [looks after|takes care of|handles] the {ev}.",
        "This year the {ev} is [led|run|organised|managed] by {n}.",
        "[Anyone|Everyone] who wants to [help|join|take part] should [speak to|contact|turn to] {n}.",
        "As [organiser|coordinator|head] of the {ev}, {n} answers [all|your|many] questions.",
        "{n} of the {org} [takes care of|is in charge of|plans] the {ev}.",
        "The person to [ask|contact|talk to|write to] is {n}.",
        "{n} will [coordinate|organise|lead|manage|run] the {ev}.",
        "For the {ev}, the {org} relies on {n}.",
        "Behind the {ev} stands {n}, who [plans|handles|organises] everything.",
        "The {ev} has a new [coordinator|organiser|head], {n}.",
        "Contact: {n}.",
        "The {ev} of the {org} is in the hands of {n}.",
        "[Helpers|Visitors|Members] with questions can [ask|contact] {n}.",
        "Since {m} {n} has been [in charge of|head of|responsible for] the {ev}.",
    ),
    email=(
        "Write to {p} at {e}.",
        "The [best|easiest|quickest] way to reach {p} is {e}.",
        "{P} [answers|reads] [mail|messages|questions] sent to {e}.",
        "[Send|Drop] {p} a [message|line|mail] at {e}.",
        "{Q} [email|mail] address is {e}.",
        "{Q} address for mail is {e}.",
        "Use {e} to [reach|contact|write to] {p}.",
        "{P} can be reached [at|under|through] {e}.",
        "[Mail|Email|A message] for {p} should go to {e}.",
        "{P} [replies|answers] [quickly|daily|within a day] from {e}.",
        "Email: {e}.",
        "To [reach|contact] {p}, [write to|use|mail] {e}.",
        "{P} [checks|reads|uses] {e} [daily|every day|every morning].",
        "You can [mail|email|write to|contact] {p} at {e}.",
        "{Q} [inbox|mailbox] is {e}.",
        "{P} prefers mail to {e}.",
        "Please send [questions|requests|ideas] for {p} to {e}.",
    ),
    address=(
        "[Parcels|Packages] reach {p} at {a}.",
        "{Q} [office|desk|room] is at {a}.",
        "{P} can be [visited|found|met] at {a}.",
        "[Letters|Post] for {p} [should go|can be sent] to {a}.",
        "{P} works at {a}.",
        "Find {p} at {a}.",
        "{Q} postal address is {a}.",
        "Visit {p} at {a}.",
        "{P} has [an office|a desk|a room] at {a}.",
        "Send {p} [letters|parcels|post] at {a}.",
        "Address: {a}.",
        "By post {s} can be reached at {a}.",
        "{P} [receives|meets] visitors at {a}.",
        "Bring [letters|papers|forms] for {p} to {a}.",
        "You will find {p} at {a}.",
        "{P} moved to an office at {a} in {m}.",
    ),
    name_email=(
        "The contact for the {ev} is {n} ({e}).",
        "[Questions|Requests] about the {ev} go to {n}, {e}.",
        "{n} [runs|leads] the {ev} and [reads|answers] {e} daily.",
        "Contact {n} at {e} about the {ev}.",
        "The {ev} is [organised|led] by {n}, email {e}.",
        "{n} is in charge of the {ev} and can be reached at {e}.",
    ),
    email_address=(
        "Write to {p} at {e} or visit {a}.",
        "{P} is at {a} and answers {e}.",
        "Reach {p} by mail, {e}, or by post, {a}.",
        "{Q} email is {e} and {Q2} office is at {a}.",
        "Letters go to {a}, mail to {e}.",
        "{P} reads {e} and works at {a}.",
    ),
    name_address=(
        "{n}, based at {a}, is in charge of the {ev}.",
        "The {ev} is led by {n} from {a}.",
        "{n} organises the {ev} from an office at {a}.",
        "The contact for the {ev} is {n}, {a}.",
        "Ask {n} at {a} about the {ev}.",
    ),
    decoy_name=(
        "{n} gave the opening speech last year.",
        "{n} left the {org} in {m}.",
        "{n} will [sing|dance|play|read] on {d}.",
        "A [photo|painting|poem] by {n} hangs in the {org}.",
        "{n} led the {ev} until {m} but has retired.",
        "[Visitors|Guests] thanked {n} for the music.",
        "{n} won the first prize in {m}.",
        "The former [head|organiser] was {n}.",
        "{n} no longer works for the {org}.",
        "A talk by {n} opens the evening.",
        "{n} has donated {k} books.",
    ),
    decoy_email=(
        "[Invoices|Bills] go to {e}.",
        "The ticket desk uses {e}.",
        "The old [mailbox|address] {e} is no longer [read|used].",
        "[Press|Media] requests go to {e}.",
        "To rent a stall, write to {e}.",
        "{n} only reads {e}.",
        "Do not write to {e}.",
        "Lost [items|keys|bags] are reported to {e}.",
        "The newsletter comes from {e}.",
        "Cooks sign up at {e}.",
        "For [tickets|seats|rooms], mail {e}.",
    ),
    decoy_address=(
        "The {ev} takes place at {a}.",
        "The former office at {a} is closed.",
        "{n} lives at {a}.",
        "Tickets are sold at {a}.",
        "Parking is free at {a}.",
        "The {org} is at {a}.",
        "[Guests|Visitors] sleep at {a}.",
        "The bus leaves from {a}.",
        "Lost items wait at {a}.",
        "Doors are at {a}.",
    ),
    filler=(
        "Call {t} for tickets.",
        "Doors open on {d}.",
        "Lunch is served at noon.",
        "The {org} expects {k} guests.",
        "Rain moves it to {d}.",
        "The hotline is {t}.",
        "Last year {k} people came.",
        "The {org} was founded in {m}.",
        "Entry costs {k} coins.",
        "The phone number of the {org} is {t}.",
    ),
)

HELD_OUT = Phrases(
    name=(
        "{n} has been named head of the {ev} by the {org}.",
        "If you have questions about the {ev}, {n} is the person to ask.",
        "The organiser of the {ev} this year is {n} of the {org}.",
        "{n}, coordinator of the {ev}, handles all requests.",
        "Everyone with ideas for the {ev} should write to {n}.",
        "Helpers of the {ev} can turn to {n}.",
    ),
    email=(
        "Messages to {e} reach {p} within a day.",
        "For a quick answer, send {p} a mail at {e}.",
        "{P} asks for questions by mail to {e}.",
        "At {e} {s} answers every message.",
        "Helpers and guests write to {p} at {e}.",
        "{P} can be contacted by email: {e}.",
    ),
    address=(
        "Letters and parcels reach {p} at {a}.",
        "{Q} room can be found at {a}.",
        "Visitors meet {p} at {a}.",
        "{P} has worked at {a} since {m}.",
        "By post, write to {p} at {a}.",
        "For a visit, {s} is at {a}.",
    ),
    name_email=(
        "The person in charge of the {ev} is {n}, who answers {e}.",
        "Ask {n} ({e}) about the {ev}.",
        "For the {ev}, contact {n} by mail at {e}.",
    ),
    email_address=(
        "Mail reaches {p} at {e}, parcels at {a}.",
        "{P} can be found at {a} or under {e}.",
        "Visit {p} at {a} or mail {e}.",
    ),
    name_address=(
        "From {a}, {n} runs the {ev}.",
        "{n}, who works at {a}, leads the {ev}.",
        "Questions about the {ev} go to {n} at {a}.",
    ),
    decoy_name=(
        "The music on {d} is by {n}.",
        "{n} was head of the {org} until {m}.",
        "Last year the speech was given by {n}.",
        "{n} has retired from the {org}.",
    ),
    decoy_email=(
        "Tickets come from {e}.",
        "Nobody reads {e} any more.",
        "Bills for a stall go to {e}.",
        "The press can write to {e}.",
    ),
    decoy_address=(
        "The music plays at {a}.",
        "Cars can park at {a}.",
        "The old office was at {a}.",
        "The {ev} will be held at {a}.",
    ),
    filler=(
        "Guests can call {t}.",
        "The {ev} opens on {d}.",
        "There is lunch for {k} guests.",
        "The {org} has {k} members.",
    ),
)


def phrases(split: Split) -> Phrases:
    """Return the sentences of one split."""
    return TRAIN if split == "train" else HELD_OUT
