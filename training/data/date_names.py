"""How thirteen European languages name months, weekdays and days, and what else they write in a date."""

from collections.abc import Mapping
from dataclasses import dataclass

Names = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Language:
    """months (12) and weekdays (7, from Monday): of each its forms; short_: its abbreviations without their dots.
    ordinals: by day what is written after its number, by 0 that of all other days. first: other forms of the first day.
    patterns, unseen: formats of this language only, to train on and to measure on (training/data/dates.py)."""

    months: Names
    short_months: Names
    weekdays: Names
    short_weekdays: Names
    ordinals: Mapping[int, str]
    patterns: tuple[str, ...]
    unseen: tuple[str, ...]
    first: tuple[str, ...] = ()


def _names(text: str) -> Names:
    """Names separated by spaces, the forms of one by slashes."""
    return tuple(tuple(forms.split("/")) for forms in text.split())


_DOT = {0: "."}

LANGUAGES: Mapping[str, Language] = {
    "en": Language(
        _names("January February March April May June July August September October November December"),
        _names("Jan Feb Mar Apr May Jun Jul Aug Sep/Sept Oct Nov Dec"),
        _names("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
        _names("Mon Tue/Tues Wed Thu/Thur/Thurs Fri Sat Sun"),
        {0: "th", 1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"},
        (
            "the {ordinal} of {month} {year}",
            "{ordinal} of {month} {year}",
            "{ordinal} of {month}, {year}",
            "{ordinal} {month} {year}",
            "{month} {ordinal}, {year}",
            "{month} the {ordinal}, {year}",
            "{month} the {ordinal} {year}",
            "{weekday} the {ordinal} of {month} {year}",
            "{weekday}, the {ordinal} of {month}, {year}",
            "{weekday}, {month} {ordinal}, {year}",
            "on {day} {month} {year}",
            "on {month} {ordinal}, {year}",
            "on {weekday} {month} {ordinal}, {year}",
            "the {words} of {month} {year}",
            "{words} of {month}, {year}",
            "{month} the {words}, {year}",
            "{words} {month} {year}",
            "{weekday}, {words} of {month} {year}",
        ),
        (
            "the {ordinal} of {month}, {year}",
            "{weekday}, {month} the {ordinal}, {year}",
            "on {weekday}, {day} {month} {year}",
            "{month} the {words} {year}",
        ),
    ),
    "de": Language(
        _names("Januar/Jänner Februar März/Maerz April Mai Juni Juli August September Oktober November Dezember"),
        _names("Jan Feb Mär/Mrz Apr Mai Jun Jul Aug Sep/Sept Okt Nov Dez"),
        _names("Montag Dienstag Mittwoch Donnerstag Freitag Samstag/Sonnabend Sonntag"),
        _names("Mo Di Mi Do Fr Sa So"),
        _DOT,
        (
            "am {ordinal} {month} {year}",
            "den {ordinal} {month} {year}",
            "der {ordinal} {month} {year}",
            "vom {ordinal} {month} {year}",
            "{weekday}, den {ordinal} {month} {year}",
            "{weekday}, der {ordinal} {month} {year}",
            "am {weekday}, dem {ordinal} {month} {year}",
            "am {weekday}, {ordinal} {month} {year}",
            "am {d}.{m}.{year}",
            "{weekday}, den {d}.{m}.{year}",
        ),
        ("am {weekday}, den {ordinal} {month} {year}", "{weekday}, am {ordinal} {month} {year}"),
    ),
    "fr": Language(
        _names("janvier février mars avril mai juin juillet août/aout septembre octobre novembre décembre"),
        _names("janv/jan févr/fév mars/mar avr mai juin/jun juil août/aoû sept/sep oct nov déc"),
        _names("lundi mardi mercredi jeudi vendredi samedi dimanche"),
        _names("lun mar mer jeu ven sam dim"),
        {1: "er"},
        (
            "le {ordinal} {month} {year}",
            "{ordinal} {month} {year}",
            "{weekday} le {ordinal} {month} {year}",
            "{weekday}, le {ordinal} {month} {year}",
            "le {d}/{m}/{year}",
            "du {ordinal} {month} {year}",
        ),
        ("le {weekday} {ordinal} {month} {year}",),
        ("premier",),
    ),
    "es": Language(
        _names("enero febrero marzo abril mayo junio julio agosto septiembre/setiembre octubre noviembre diciembre"),
        _names("ene feb mar abr may jun jul ago sep/sept oct nov dic"),
        _names("lunes martes miércoles jueves viernes sábado domingo"),
        _names("lun mar mié jue vie sáb dom"),
        {1: "º"},
        (
            "{ordinal} de {month} de {year}",
            "{ordinal} de {month} del {year}",
            "{ordinal} de {month}, {year}",
            "el {ordinal} de {month} de {year}",
            "el {ordinal} de {month} del {year}",
            "{weekday} {ordinal} de {month} de {year}",
            "{weekday}, {ordinal} de {month} de {year}",
            "el {weekday}, {ordinal} de {month} del {year}",
            "{day}-{month}-{year}",
            "a {ordinal} de {month} de {year}",
        ),
        (
            "el {weekday} {ordinal} de {month} de {year}",
            "{weekday}, {ordinal} de {month} del {year}",
        ),
        ("primero", "1.º", "1°"),
    ),
    "it": Language(
        _names("gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre"),
        _names("gen feb mar apr mag giu lug ago set/sett ott nov dic"),
        _names("lunedì martedì mercoledì giovedì venerdì sabato domenica"),
        _names("lun mar mer gio ven sab dom"),
        {1: "º"},
        (
            "il {ordinal} {month} {year}",
            "{ordinal} {month} {year}",
            "{weekday} {ordinal} {month} {year}",
            "l'{day} {month} {year}",
            "lì {ordinal} {month} {year}",
            "addì {ordinal} {month} {year}",
            "{weekday}, il {ordinal} {month} {year}",
            "il {d}/{m}/{year}",
        ),
        ("il {weekday} {ordinal} {month} {year}",),
        ("primo", "1°"),
    ),
    "pt": Language(
        _names("janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro"),
        _names("jan fev mar abr mai jun jul ago set out nov dez"),
        _names("segunda-feira terça-feira quarta-feira quinta-feira sexta-feira sábado domingo"),
        _names("seg/segunda ter/terça qua/quarta qui/quinta sex/sexta sáb dom"),
        {1: "º"},
        (
            "{ordinal} de {month} de {year}",
            "em {ordinal} de {month} de {year}",
            "a {ordinal} de {month} de {year}",
            "dia {ordinal} de {month} de {year}",
            "no dia {ordinal} de {month} de {year}",
            "{weekday}, {ordinal} de {month} de {year}",
            "{weekday} {ordinal} de {month} de {year}",
            "{ordinal} de {month}, {year}",
        ),
        ("{weekday}, dia {ordinal} de {month} de {year}",),
        ("primeiro", "1.º", "1°"),
    ),
    "nl": Language(
        _names("januari februari maart april mei juni juli augustus september oktober november december"),
        _names("jan feb mrt/maa apr mei jun jul aug sep/sept okt nov dec"),
        _names("maandag dinsdag woensdag donderdag vrijdag zaterdag zondag"),
        _names("ma di wo do vr za zo"),
        {0: "e"},
        (
            "op {day} {month} {year}",
            "de {ordinal} {month} {year}",
            "de {ordinal} van {month} {year}",
            "den {ordinal} {month} {year}",
            "{weekday} de {ordinal} {month} {year}",
            "op {d}-{m}-{year}",
        ),
        ("op {weekday} {day} {month} {year}",),
    ),
    "pl": Language(
        _names(
            "stycznia/styczeń lutego/luty marca/marzec kwietnia/kwiecień maja/maj czerwca/czerwiec lipca/lipiec "
            "sierpnia/sierpień września/wrzesień października/październik listopada/listopad grudnia/grudzień"
        ),
        _names("sty lut mar kwi maj cze lip sie wrz paź lis gru"),
        _names("poniedziałek wtorek środa czwartek piątek sobota niedziela"),
        _names("pon/pn wt śr czw/czw pt sob niedz/nd"),
        _DOT,
        (
            "{day} {month} {year} r.",
            "{day} {month} {year}r.",
            "{day} {month} {year} roku",
            "dnia {day} {month} {year}",
            "dnia {day} {month} {year} r.",
            "w dniu {day} {month} {year} r.",
            "{weekday}, {day} {month} {year} r.",
            "{weekday} {day} {month} {year} roku",
            "{d}.{m}.{year} r.",
            "dnia {d}.{m}.{year} r.",
            "{d} {roman} {year} r.",
        ),
        (
            "dnia {day} {month} {year} roku",
            "{weekday}, {day} {month} {year} roku",
        ),
    ),
    "sv": Language(
        _names("januari februari mars april maj juni juli augusti september oktober november december"),
        _names("jan feb mar apr maj jun jul aug sep/sept okt nov dec"),
        _names("måndag tisdag onsdag torsdag fredag lördag söndag"),
        _names("mån tis ons tors/tor fre lör sön"),
        {0: ":e", 1: ":a", 2: ":a", 21: ":a", 22: ":a", 31: ":a"},
        (
            "den {day} {month} {year}",
            "den {ordinal} {month} {year}",
            "{weekday} den {day} {month} {year}",
            "{weekday_name}en den {day} {month} {year}",
            "den {d}/{m} {year}",
            "{d}/{m} {year}",
        ),
        ("{weekday_name}en, den {day} {month} {year}",),
    ),
    "da": Language(
        _names("januar februar marts april maj juni juli august september oktober november december"),
        _names("jan feb mar apr maj jun jul aug sep/sept okt nov dec"),
        _names("mandag tirsdag onsdag torsdag fredag lørdag søndag"),
        _names("man tir/tirs ons tor/tors fre lør søn"),
        _DOT,
        (
            "den {ordinal} {month} {year}",
            "d. {ordinal} {month} {year}",
            "{weekday} den {ordinal} {month} {year}",
            "den {d}/{m} {year}",
            "d. {d}/{m}-{year}",
            "{d}/{m} {year}",
        ),
        ("{weekday} d. {ordinal} {month} {year}",),
    ),
    "no": Language(
        _names("januar februar mars april mai juni juli august september oktober november desember"),
        _names("jan feb mar apr mai jun jul aug sep/sept okt nov des"),
        _names("mandag/måndag tirsdag/tysdag onsdag torsdag fredag lørdag/laurdag søndag/sundag"),
        _names("man tir/tirs ons tor/tors fre lør søn"),
        _DOT,
        (
            "den {ordinal} {month} {year}",
            "{weekday} den {ordinal} {month} {year}",
            "{weekday} {ordinal} {month} {year}",
            "{d}/{m}-{year}",
            "den {d}.{m}.{year}",
        ),
        ("{weekday} {d}/{m}-{year}",),
    ),
    "fi": Language(
        _names(
            "tammikuuta/tammikuu helmikuuta/helmikuu maaliskuuta/maaliskuu huhtikuuta/huhtikuu toukokuuta/toukokuu "
            "kesäkuuta/kesäkuu heinäkuuta/heinäkuu elokuuta/elokuu syyskuuta/syyskuu lokakuuta/lokakuu "
            "marraskuuta/marraskuu joulukuuta/joulukuu"
        ),
        _names("tammi helmi maalis huhti touko kesä heinä elo syys loka marras joulu"),
        _names(
            "maanantai/maanantaina tiistai/tiistaina keskiviikko/keskiviikkona torstai/torstaina perjantai/perjantaina "
            "lauantai/lauantaina sunnuntai/sunnuntaina"
        ),
        _names("ma ti ke to pe la su"),
        _DOT,
        (
            "{ordinal} {month} {year}",
            "{weekday} {ordinal} {month} {year}",
            "{ordinal} päivänä {month} {year}",
            "{weekday} {d}.{m}.{year}",
        ),
        ("{weekday}, {ordinal} päivänä {month} {year}",),
    ),
    "cs": Language(
        _names(
            "ledna/leden února/únor března/březen dubna/duben května/květen června/červen července/červenec "
            "srpna/srpen září října/říjen listopadu/listopad prosince/prosinec"
        ),
        _names("led úno bře dub kvě čvn čvc srp zář říj lis pro"),
        _names("pondělí úterý středa/středu čtvrtek pátek sobota/sobotu neděle/neděli"),
        _names("po út st čt pá so ne"),
        _DOT,
        (
            "{ordinal} {month} {year}",
            "dne {ordinal} {month} {year}",
            "{weekday} {ordinal} {month} {year}",
            "v {weekday_name} {ordinal} {month} {year}",
            "dne {d}. {m}. {year}",
            "{weekday} {d}. {m}. {year}",
        ),
        ("{weekday} dne {ordinal} {month} {year}",),
    ),
}

DAYS_IN_WORDS = _names(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth "
    "twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first"
)
"""The days of a month in English."""
ROMAN = _names("I II III IV V VI VII VIII IX X XI XII")
"""The months in Roman numerals."""
