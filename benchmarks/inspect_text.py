"""What looking through a text costs: `python -m benchmarks.inspect_text [--hostile]`.

Ten detectors and five patterns, in microseconds of CPU time for one text (the best of several rounds); then memory.
`--hostile` times texts of 16 MiB that were made to be expensive, in seconds.
"""

import argparse
import base64
import json
import resource
import time
import timeit
from collections.abc import Callable

from openmcp.config.detectors import DETECTORS
from openmcp.sidecar.detection.finder import Finder, FinderSet

KIB = 1024
MIB = 1024 * KIB

PATTERNS = [r"\bCUST-[0-9]{8}\b", "(?i)strictly confidential", r"\bproject-[a-z]+-internal\b", "X-Api-Key: *[0-9a-f]+"]
PATTERNS.append(r"\b[A-Z]{3}-[0-9]{5}-[A-Z]\b")

ENGLISH = (
    "The ticket was opened on 2026-03-14 at 09:26 by the support team; order 48213 has two items (total: 129.95 EUR), "
    "and the parcel left the warehouse yesterday. Nobody has answered the second question yet.\n"
)
GERMAN = (
    "Die Prüfung der Anträge ist für die Größe der Fläche nicht ausschlaggebend; später erklärt die Behörde, "
    "weshalb Rückfragen möglich bleiben. Übrige Unterlagen müssen nachgereicht werden.\n"
)
FRENCH = "L’été dernier, près de la gare : « où êtes-vous ? » – c’est la même question qu’hier, à peu près.\n"
RUSSIAN = "Проверка заявлений не зависит от размера площади, она будет объяснена позже. Вопросов пока нет.\n"
CHINESE = "申请审核与面积大小无关，稍后将解释。目前没有其他问题（请参阅附件）。\n"
HINDI = "आवेदनों की जाँच क्षेत्र के आकार पर निर्भर नहीं करती, इसे बाद में समझाया जाएगा।\n"
LINKS = "see https://docs.example/search?q=a%20b%2Fc&amp;x=&#39;1&#39; and C:\\\\Users\\\\u0061dmin for more, please.\n"


def cut(text: str, size: int) -> str:
    """The text, repeated and cut to `size` bytes."""
    data = text.encode()
    return (data * (size // len(data) + 1))[:size].decode(errors="ignore")


def measured(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    timer = timeit.Timer(call, timer=time.process_time)
    number, _ = timer.autorange()
    return min(timer.repeat(5, max(1, number // 4))) / max(1, number // 4)


def resident() -> int:
    """KiB in memory at most, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def texts() -> dict[str, str]:
    """Texts by what they are."""
    data = json.dumps([{"id": n, "name": f"item {n}", "at": "2026-03-14T09:26:53Z"} for n in range(12)], indent=1)
    return {
        "English, 1 KiB": cut(ENGLISH, KIB),
        "JSON, 1 KiB": cut(data, KIB),
        "English, 100 KiB": cut(ENGLISH, 100 * KIB),
        "German, 1 KiB": cut(GERMAN, KIB),
        "Russian, 1 KiB": cut(RUSSIAN, KIB),
        "Hindi, 1 KiB": cut(HINDI, KIB),
        "French with its spaces and dashes, 1 KiB": cut(FRENCH, KIB),
        "Chinese with its punctuation, 1 KiB": cut(CHINESE, KIB),
        "links and escapes, 1 KiB": cut(LINKS, KIB),
        "base64 of text, 1 KiB": base64.b64encode(cut(ENGLISH, 768).encode()).decode(),
        "one find in English, 1 KiB": cut(ENGLISH, 960) + " write to jane@customer.example please",
        "one find in Chinese, 1 KiB": cut(CHINESE, 960) + " write to jane@customer.example please",
    }


def hostile() -> dict[str, str]:
    """Texts of 16 MiB that were made to be expensive."""
    size = 16 * MIB
    return {
        "digits": "4" * size,
        "card numbers that fail": cut("4111111111111112 ", size),
        "card numbers": cut("4111111111111111 ", size),
        "groups of four": cut("4111 ", size),
        "account numbers that fail": cut("DE89 3704 0044 0532 0130 01 ", size),
        "beginnings of JSON web tokens": cut("eyJhbGciOiJIUzI1NiJ9.ey", size),
        "ey": "ey" * (size // 2),
        "addresses": cut("a@b.example ", size),
        "@": cut("a@b", size),
        "headers of keys": cut("-----BEGIN PRIVATE KEY-----", size),
        "headers in headers of keys": cut("-----BEGIN PRIVATE KEY\nComment:", size),
        "beginnings of keys": cut("MHcCAQEEI", size),
        "escapes": cut("%41a", size),
        "JSON escapes": cut("\\u0041a", size),
        "backslashes": "\\" * size,
        "percent signs escaped": cut("%25", size),
        "ampersands escaped": "&" + cut("amp;", size - 1),
        "entities": cut("&#65;", size),
        "base64 of base64": base64.b64encode(base64.b64encode(cut(ENGLISH, size * 9 // 16).encode())).decode(),
        "short runs of base64": cut("NDExMTExMTExMTExMTExMQ ", size),
        "hexadecimal": cut("3431", size),
        "invisible characters": cut("a\u200b", size),
        "full-width digits": cut("４１", size),
        "circled digits": cut("①b", size),
        "ligatures that grow": cut("\ufdfa", size),
        "marks": "a" + cut("\u0336", size - 1),
        "Chinese and one find": cut(CHINESE, size) + "jane@customer.example",
        "terminal escapes": cut("\x1b[0m", size),
        "telephone numbers that fail": cut("+999 1234 567 ", size),
        "names of telephones": cut("tel:1", size),
        "Unicode tags": cut("\U000e0041", size),
    }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description="what looking through a text costs")
    options.add_argument("--hostile", action="store_true", help="16 MiB that were made to be expensive")
    asked = options.parse_args()
    before = resident()
    ten = [name for name in DETECTORS if name not in ("hidden_text", "ipv4_private")]
    finders = FinderSet([Finder(ten, PATTERNS)])
    every = FinderSet([Finder(DETECTORS, PATTERNS)])
    built = resident()
    for name, text in texts().items():
        some, most = len(finders.scan(text)), len(every.scan(text))
        once, with_all = measured(lambda text=text: finders.scan(text)), measured(lambda text=text: every.scan(text))
        print(f"{name:44}{once * 1e6:9.1f} µs {with_all * 1e6:9.1f} µs with all detectors   {some}/{most} found")
    print(f"memory: two sets built {built - before} KiB, after these texts {resident() - before} KiB")
    for name, text in hostile().items() if asked.hostile else ():
        begun = time.process_time()
        found = every.scan(text)
        print(f"{name:44}{time.process_time() - begun:9.2f} s   {len(found)} found", flush=True)


if __name__ == "__main__":
    main()
