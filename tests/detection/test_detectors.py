"""What each detector takes for what it looks for, and what it does not."""

import base64

import pytest

from openmcp.config.detectors import DETECTORS
from openmcp.sidecar.detection.detectors import PROBES
from tests.detection.planted import (
    ACCOUNT,
    AWS_ID,
    AWS_SECRET,
    BODY,
    CARD,
    PLANTED,
    PRIVATE_KEY,
    TOKEN,
    armoured,
    drawn,
    encoded,
    looking_for,
    redacted,
)

FOUND = {
    "credit_card": [
        *("4012888888881881", "4222222222222", "4111111111111111110"),
        *("5555555555554444", "2223003122003222", "378282246310005", "6011111111111117", "3530111333300000"),
        *("30569309025904", "6200000000000005", "2200000000000004", "6304000000000000"),
        *("4111 1111 1111 1111", "4111-1111-1111-1111", "4111.1111.1111.1111", "4111 - 1111 - 1111 - 1111"),
        *("3782 822463 10005", "3056 930902 5904", "4111  1111  1111  1111", "4111\t1111\t1111\t1111"),
        *("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "41 11 11 11 11 11 11 11", "41111111 11111111"),
        *("4111 1111\n1111 1111", "4111\n1111\n1111\n1111", "4111\u20131111\u20131111\u20131111"),
        *("4111\u00a01111\u00a01111\u00a01111", "4111\u20091111\u20091111\u20091111"),
    ],
    "us_ssn": ["078-05-1120", "078 05 1120", "899-99-9999", "078\u201105\u20111120"],
    "email": [
        *("jane@customer.example", "jane.o'neil+tag@mail.customer.co.uk", "j_d%x@a-b.example", "12345@qq.example"),
        *(
            "JANE@CUSTOMER.EXAMPLE",
            "jane@xn--bcher-kva.example",
            "иван@почта.рф",
            "jane@bücher.example",
            "a@b.photography",
        ),
    ],
    "phone": [
        *(
            "+49 30 901820",
            "+1 415 555 2671",
            "+14155552671",
            "+1 (415) 555-2671",
            "+44 (0)20 7946 0958",
            "+44 7700 900123",
        ),
        *("+33 1 23 45 67 89", "+86 138 1234 5678", "+91 98765 43210", "+55 11 91234-5678", "+41-44-668-18-00"),
        *("(415) 555-2671", "415-555-2671", "415.555.2671", "1-415-555-2671", "01 23 45 67 89", "01.23.45.67.89"),
        *(
            "020 7946 0958",
            "07700 900123",
            "030/901820",
            "0171 1234567",
            "(030) 9018200",
            "090-1234-5678",
            "138 1234 5678",
        ),
        *("(11) 91234-5678", "0412 345 678"),
    ],
    "iban": [
        *(
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "DE89-3704-0044-0532-0130-00",
            "de89370400440532013000",
        ),
        *("GB82WEST12345698765432", "FR1420041010050500013M02606", "NL91ABNA0417164300", "NO9386011117947"),
        *("MT84MALT011000012345MTLCAST001S", "BE68539007547034", "CH9300762011623852957"),
    ],
    "aws_key": [AWS_ID, "ASIA" + "IOSFODNN7EXAMPLE"],
    "private_key": [
        PRIVATE_KEY,
        PRIVATE_KEY.replace("\n", "\\n"),
        PRIVATE_KEY.replace("\n", "\\\\n"),
        PRIVATE_KEY.replace("\n", ""),
        PRIVATE_KEY.replace("\n", " "),
        PRIVATE_KEY.replace("\n", "\r\n"),
        PRIVATE_KEY.replace("\n", "\n> "),
        armoured("PRIVATE KEY", BODY),
        armoured("ENCRYPTED PRIVATE KEY", BODY),
        armoured("EC PRIVATE KEY", "MHcCAQEEI" + drawn(120)),
        armoured("OPENSSH PRIVATE KEY", "b3BlbnNzaC1rZXktdjEA" + drawn(300)),
        armoured("PGP PRIVATE KEY BLOCK", "Version: GnuPG v2\n\n" + drawn(300)),
        armoured("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC," + drawn(32, "0123456789ABCDEF")),
        BODY,
        "MC4CAQAwBQYDK2VwBCIEI" + drawn(43),
        "b3BlbnNzaC1rZXktdjEA" + drawn(300),
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPrivate-Lines: 1\n" + drawn(44) + "\nPrivate-MAC: 0a1b",
        "AGE-SECRET-KEY-1" + drawn(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"),
    ],
    "jwt": [
        TOKEN,
        TOKEN.rpartition(".")[0] + ".",
        base64.urlsafe_b64encode(b'{ "typ": "JWT",\n "alg": "none" }').decode().rstrip("=") + ".e30.",
        ".".join((encoded({"alg": "RSA-OAEP", "enc": "A256GCM"}), drawn(40), drawn(16), drawn(30), drawn(22))),
    ],
    "github_token": [
        *(f"gh{kind}_{drawn(36)}" for kind in "pousr"),
        "github" + "_pat_" + drawn(22) + "_" + drawn(59),
    ],
    "slack_token": [
        *(f"xox{kind}-123456789012-{drawn(24)}" for kind in "abprs"),
        "xapp-1-A012345678-" + "1234567890123-" + drawn(32),
        "hooks.slack.com/services/T01234567/B01234567/" + drawn(24),
    ],
    "ipv4_private": ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.1", "192.168.1.1"],
    "hidden_text": [
        *("\U000e0049\U000e0067", "\u202e", "\u2066", "\u200b\u200c\u200b\u200c", "\ufeff\u2060\u200b\u180e"),
        *(
            "\x1b[8m",
            "\x1b]0;title\x07",
            "\x9b2J",
            "\x1bc",
            "\ufe00\ufe01\ufe0e",
            "\U000e0101\U000e0102",
            "\u3164\u3164\u3164\u3164",
        ),
    ],
}

MISSED = {
    "credit_card": [
        *("4111111111111112", "411111111111111", "1111111111111117", "9999999999999995", "0000000000000000"),
        *("41111111111111114111111111111111222", "0x4111111111111111", "a4111111111111111f0", "0.4111111111111111"),
        *("4111111111111111.25", "1712345678901", "2024-01-01 12:30:45.123456", "411 1111 1111 1111 11", "41,11"),
        "4111:1111:1111:1111",
    ],
    "us_ssn": [
        *("000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "1123-45-6789", "123-45-67890"),
        *("078051120", "12-078-05-1120", "078-05-1120-9", "1.078-05-1120", "2024-01-0123"),
    ],
    "email": [
        *(
            "@decorator",
            "pkg@1.2.3",
            "icon@2x.png",
            "getty@tty1.service",
            "git@github.com:org/repo.git",
            "a @ b.example",
        ),
        *("react@18.2.0-rc.1", "x@localhost", "a@b", "@scope/package@v1.0", "a@b.shape", "https://host/@user/post"),
    ],
    "phone": [
        *(
            "+1",
            "+12345678901234567",
            "+0123456789",
            "x+14155552671",
            "2024-01-01T00:00:00+02:00",
            "h + 907133923",
            "+352361.5",
        ),
        *(
            "415-555-26711",
            "2.415-555-2671",
            "01-23-45-67-89-ab",
            "00 01 23 45 67 89 ab",
            "+6404-13925",
            "115-555-2671",
        ),
        *("4155552671", "192.168.100.200", "1234-5678", "@@ -1,5 +12,7 @@", "+1 115 555 2671", "2024-10-12 10:20:30"),
    ],
    "iban": [
        *("DE88370400440532013000", "DE8937040044053201300", "XX89370400440532013000", "DE893704004405320130001"),
        *("DE00000000000000000066", "xDE89370400440532013000", "De89370400440532013000"),
    ],
    "aws_key": [
        *(
            "AKIA",
            AWS_ID + "A",
            "XAKIA" + AWS_ID[4:],
            AWS_SECRET,
            "secret_key = " + "0123456789abcdef" * 2 + "01234567",
        ),
        "the secret key of the house is kept under the mat",
    ],
    "private_key": [
        *("-----BEGIN PRIVATE KEY-----", armoured("PRIVATE KEY", "..."), armoured("CERTIFICATE", BODY[8:])),
        *(
            armoured("PUBLIC KEY", drawn(200)),
            'indexOf("-----BEGIN PRIVATE KEY-----") !== 0) throw notAPrivateKeyAtAll',
        ),
    ],
    "jwt": [
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
        f"{encoded({'kid': 'there is no algorithm'})}.e30.x",
        "eyes.and.ears",
    ],
    "github_token": ["ghp_short", "ghx_" + drawn(36), "gh_" + drawn(36)],
    "slack_token": ["xoxb-your-token-goes-here", "xox", "xoxb-1"],
    "ipv4_private": [
        *("10.1.2.3.4", "v10.1.2.3", "1.10.1.2.3", "11.0.0.1", "172.15.0.1", "172.32.0.1", "10.256.0.1", "10.01.2.3"),
        *(
            "192.169.1.1",
            "version 10.0.0.1",
            '"version": "10.1.2.3"',
            "Version=10.0.0.0",
            "10.0.0",
            "x10.0.0.1",
            "10.0.0.1a",
        ),
    ],
    "hidden_text": [
        *("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "👩\u200d👩\u200d👧", "❤\ufe0f"),
        *(
            "می\u200cخواهم",
            "co\u00adop\u00aderate",
            "\u05d0\u200f!",
            "葛\U000e0100",
            "ordinary",
            "\\u202e",
            "&#8238;",
            "tab\tand\r\nline",
        ),
    ],
}


def cases(of: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Pairs of detector and text."""
    return [(what, text) for what, texts in of.items() for text in texts]


def test_every_detector_is_named_built_and_tested():
    assert set(PROBES) == set(DETECTORS) == set(FOUND) == set(MISSED)
    assert {*PLANTED, "hidden_text"} == set(DETECTORS)


@pytest.mark.parametrize(("what", "text"), cases(FOUND))
def test_is_found_from_its_first_to_its_last_character(what, text):
    assert redacted(looking_for(what), f"is {text}, so") == f"is [redacted:{what}], so"
    assert redacted(looking_for(what), text) == f"[redacted:{what}]"
    assert redacted(looking_for(what), f'{{"a":"{text}"}}') == f'{{"a":"[redacted:{what}]"}}'


@pytest.mark.parametrize(("what", "text"), cases(MISSED))
def test_is_not_taken_for_it(what, text):
    assert redacted(looking_for(what), f"is {text}, so") == f"is {text}, so"
    assert redacted(looking_for(what), text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"1 22 {CARD} 333", "1 22 [redacted:credit_card] 333"),
        (f"{CARD} {CARD}", "[redacted:credit_card] [redacted:credit_card]"),
        (f"{CARD},{CARD};{CARD}", "[redacted:credit_card],[redacted:credit_card];[redacted:credit_card]"),
        ("1234 4111 1111 1111 1111 5678", "1234 [redacted:credit_card] 5678"),
        ("4111 1111 1111 1111 12/29 737", "[redacted:credit_card] 12/29 737"),
        (" ".join(["7777"] * 60) + f" {CARD}", " ".join(["7777"] * 60) + " [redacted:credit_card]"),
        (f"PAN{CARD}CVC123", "PAN[redacted:credit_card]CVC123"),
        (f"card_{CARD}_x", "card_[redacted:credit_card]_x"),
        (f"{CARD}.00", "[redacted:credit_card].00"),
        ("FR12 " + ACCOUNT, "FR12 [redacted:iban]"),
        ("DE12 3456 " + ACCOUNT + " and " + ACCOUNT, "DE12 3456 [redacted:iban] and [redacted:iban]"),
        ("SSN: 078051120", "SSN: [redacted:us_ssn]"),
        ("Social Security Number is:078051120.", "Social Security Number is:[redacted:us_ssn]."),
        (
            "10.0.0.1-10.0.0.9, 10.1.0.0/16",
            "[redacted:ipv4_private]-[redacted:ipv4_private], [redacted:ipv4_private]/16",
        ),
        ("<jane@a.example>,joe@b.example.", "<[redacted:email]>,[redacted:email]."),
        ("mailto:jane@a.example?cc=joe@b.example", "mailto:[redacted:email]?cc=[redacted:email]"),
        ("联系我：jane@a.example。谢谢", "联系我：[redacted:email]。谢谢"),
        ('{"phone": "5550132000", "fax":5550132001}', '{"phone": "[redacted:phone]", "fax":[redacted:phone]}'),
        ("Tel.: 0 30 / 90 18 20", "Tel.: [redacted:phone]"),
        (f"{AWS_ID},{AWS_SECRET}", "[redacted:aws_key],[redacted:aws_key]"),
        (f"aws_secret_access_key={AWS_SECRET}\nx", "aws_secret_access_key=[redacted:aws_key]\nx"),
        (f'"SecretAccessKey": "{AWS_SECRET}"', '"SecretAccessKey": "[redacted:aws_key]"'),
        (f"<SecretAccessKey>{AWS_SECRET}</S>", "<SecretAccessKey>[redacted:aws_key]</S>"),
        (f"AWS_SECRET_KEY: '{AWS_SECRET.replace('/', chr(92) + '/')}'", "AWS_SECRET_KEY: '[redacted:aws_key]'"),
        (f"a {PRIVATE_KEY}\n{PRIVATE_KEY} b", "a [redacted:private_key]\n[redacted:private_key] b"),
        (f"cut: {PRIVATE_KEY[:150]}", "cut: [redacted:private_key]"),
        (f"Bearer {TOKEN}, next", "Bearer [redacted:jwt], next"),
        (f"they-{TOKEN}", "they-[redacted:jwt]"),
    ],
)
def test_in_its_surroundings(text, expected):
    assert redacted(looking_for(), text) == expected


@pytest.mark.parametrize("count", range(30, 45))
def test_a_card_in_a_long_row_of_groups(count):
    row = "2000 " * count
    assert (
        redacted(looking_for("credit_card"), f"{row}4111 1111 1111 1111 {row}") == f"{row}[redacted:credit_card] {row}"
    )
