"""Names of encodings: as a client may spell them in its startup packet, and as PostgreSQL says them.

A table (encnames.c of PostgreSQL), and no I/O. The rule: what is not here stays as it was written; the server says what
is wrong with it.
"""

from __future__ import annotations

import re

_NAMES = """
    BIG5 big5 win950 windows950
    EUC_CN euccn
    EUC_JIS_2004 eucjis2004
    EUC_JP eucjp
    EUC_KR euckr
    EUC_TW euctw
    GB18030 gb18030
    GBK gbk win936 windows936
    ISO_8859_5 iso88595
    ISO_8859_6 iso88596
    ISO_8859_7 iso88597
    ISO_8859_8 iso88598
    JOHAB johab
    KOI8R koi8 koi8r
    KOI8U koi8u
    LATIN1 latin1 iso88591
    LATIN2 latin2 iso88592
    LATIN3 latin3 iso88593
    LATIN4 latin4 iso88594
    LATIN5 latin5 iso88599
    LATIN6 latin6 iso885910
    LATIN7 latin7 iso885913
    LATIN8 latin8 iso885914
    LATIN9 latin9 iso885915
    LATIN10 latin10 iso885916
    SHIFT_JIS_2004 shiftjis2004
    SJIS sjis mskanji shiftjis win932 windows932
    SQL_ASCII sqlascii
    UHC uhc win949 windows949
    UTF8 utf8 unicode
    WIN866 win866 alt windows866
    WIN874 win874 windows874
    WIN1250 win1250 windows1250
    WIN1251 win1251 win windows1251
    WIN1252 win1252 windows1252
    WIN1253 win1253 windows1253
    WIN1254 win1254 windows1254
    WIN1255 win1255 windows1255
    WIN1256 win1256 windows1256
    WIN1257 win1257 windows1257
    WIN1258 win1258 abc tcvn tcvn5712 vscii windows1258
"""
ENCODINGS = {alias: name for name, *aliases in map(str.split, _NAMES.strip().splitlines()) for alias in aliases}
"""By the letters and figures of a spelling, in lower case."""
_OTHERS = re.compile(r"[^A-Za-z0-9]+")


def encoding_name(spelled: str) -> str:
    """As PostgreSQL says it: `utf-8` is UTF8."""
    return ENCODINGS.get(_OTHERS.sub("", spelled).lower(), spelled)
