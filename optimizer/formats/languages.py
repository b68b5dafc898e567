"""The same said in several languages, to see what a language costs in tokens of a tokenizer.

Sentences of the kind that agents are sent; the translations say the same, in as many words as the language wants.
"""

from __future__ import annotations

from dataclasses import dataclass

from redecode.optimizer.formats.tokens import Counts

SENTENCES: dict[str, tuple[str, ...]] = {
    "English": (
        "Please send the invoice to our new address before the end of the month.",
        "The meeting has been moved to Tuesday because two people are ill.",
        "Who is responsible for the repair of the bridge?",
        "I ordered three books, but only one of them has arrived.",
    ),
    "German": (
        "Bitte schicken Sie die Rechnung vor Ende des Monats an unsere neue Adresse.",
        "Die Besprechung wurde auf Dienstag verlegt, weil zwei Personen krank sind.",
        "Wer ist für die Reparatur der Brücke verantwortlich?",
        "Ich habe drei Bücher bestellt, aber nur eines davon ist angekommen.",
    ),
    "French": (
        "Veuillez envoyer la facture à notre nouvelle adresse avant la fin du mois.",
        "La réunion a été reportée à mardi parce que deux personnes sont malades.",
        "Qui est responsable de la réparation du pont ?",
        "J'ai commandé trois livres, mais un seul est arrivé.",
    ),
    "Spanish": (
        "Por favor, envíe la factura a nuestra nueva dirección antes de fin de mes.",
        "La reunión se ha trasladado al martes porque dos personas están enfermas.",
        "¿Quién es responsable de la reparación del puente?",
        "Pedí tres libros, pero solo ha llegado uno de ellos.",
    ),
    "Turkish": (
        "Lütfen faturayı ay sonundan önce yeni adresimize gönderin.",
        "İki kişi hasta olduğu için toplantı salı gününe alındı.",
        "Köprünün onarımından kim sorumlu?",
        "Üç kitap sipariş ettim ama yalnızca biri geldi.",
    ),
    "Russian": (
        "Пожалуйста, отправьте счёт на наш новый адрес до конца месяца.",
        "Встречу перенесли на вторник, потому что два человека болеют.",
        "Кто отвечает за ремонт моста?",
        "Я заказал три книги, но пришла только одна из них.",
    ),
    "Arabic": (
        "يرجى إرسال الفاتورة إلى عنواننا الجديد قبل نهاية الشهر.",
        "تم تأجيل الاجتماع إلى يوم الثلاثاء لأن شخصين مريضان.",
        "من المسؤول عن إصلاح الجسر؟",
        "طلبت ثلاثة كتب، لكن وصل واحد منها فقط.",
    ),
    "Hindi": (
        "कृपया महीने के अंत से पहले बिल हमारे नए पते पर भेज दें।",
        "बैठक मंगलवार के लिए टाल दी गई है क्योंकि दो लोग बीमार हैं।",
        "पुल की मरम्मत के लिए कौन ज़िम्मेदार है?",
        "मैंने तीन किताबें मँगवाई थीं, लेकिन उनमें से केवल एक आई है।",
    ),
    "Chinese": (
        "请在月底之前把发票寄到我们的新地址。",
        "因为有两个人生病，会议改到了星期二。",
        "谁负责修理这座桥？",
        "我订了三本书，但只到了一本。",
    ),
    "Japanese": (
        "月末までに請求書を新しい住所へお送りください。",
        "二人が病気のため、会議は火曜日に変更されました。",
        "橋の修理の責任者は誰ですか。",
        "本を三冊注文しましたが、一冊しか届いていません。",
    ),
}


@dataclass(frozen=True, slots=True)
class LanguageCost:
    """Tokens of all sentences in a language.

    Attributes:
        ratio: to English; `least` and `most`: of single sentences.
        per_character: tokens per character (Unicode code point).
    """

    language: str
    tokens: int
    ratio: float
    least: float
    most: float
    per_character: float


def costs(counts: Counts, base: str = "English") -> list[LanguageCost]:
    """What each language costs, by this tokenizer."""
    by_language = {name: [counts.count(s) for s in sentences] for name, sentences in SENTENCES.items()}
    out = []
    for name, tokens in by_language.items():
        ratios = [n / b for n, b in zip(tokens, by_language[base], strict=True)]
        total = sum(tokens)
        characters = sum(map(len, SENTENCES[name]))
        out.append(
            LanguageCost(name, total, total / sum(by_language[base]), min(ratios), max(ratios), total / characters)
        )
    return out
