"""Legal groups of countries by name; data only, nothing computes here.

Generated from hack/law by hack/generate.py; do not edit. Sources and notes stand in those files and in
docs/residency.md.
"""

from __future__ import annotations

from typing import Final

LAW_DATE: Final = "2026-11-29"
"""The day on which the tables were last held against their sources: the name of this state of the law."""

MEMBERS: Final[dict[str, str]] = {
    # European Union, as of 2026-06-15
    "EU": "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK",
    # European Economic Area, as of 2026-06-15
    "EEA": "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IS IT LI LT LU LV MT NL NO PL PT RO SE SI SK",
    # European Free Trade Association, as of 2026-02-01
    "EFTA": "CH IS LI NO",
    # Schengen area, as of 2026-01-25
    "SCHENGEN": "AT BE BG CH CZ DE DK EE ES FI FR GR HR HU IS IT LI LT LU LV MT NL NO PL PT RO SE SI SK",
    # Group of Seven, as of 2026-02-01
    "G7": "CA DE FR GB IT JP US",
    # Third countries with an adequacy decision under Art. 45 GDPR that covers the whole country, as of 2026-05-06
    "GDPR_ADEQUATE": "AD AR BR CH FO GB GG IL IM JE JP KR NZ UY",
    # Countries to which the UK GDPR lets personal data go without further safeguards, as of 2026-02-05
    "UK_ADEQUATE": (
        "AD AR AT BE BG CH CY CZ DE DK EE ES FI FO FR GG GI GR HR HU IE IL IM IS IT JE KR LI LT LU LV MT "
        "NL NO NZ PL PT RO SE SI SK UY"
    ),
    # States that the Swiss Federal Council lists as adequate, as of 2024-09-15
    "SWISS_ADEQUATE": (
        "AD AR AT BE BG CY CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IL IM IS IT JE LI LT LU LV MC MT "
        "NL NO NZ PL PT RO SE SI SK UY"
    ),
}
"""Group -> ISO 3166-1 alpha-2 codes, with spaces between."""
