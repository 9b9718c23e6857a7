"""Heroku Postgres plans: names, prices, sizes and what may be done on them.

Not a promise about anybody's bill: prices and sizes serve `addons` and `pg:info`. A database's connection
limit comes from configuration or from the server itself; `connections` here is only what is assumed while the
server has never answered. Source: the public plan lists of 2026; limits of sizes on which they disagree are
the Dev Center's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from admin.platform.errors import PlatformError, not_found
from pooler.hints import did_you_mean

SERVICE = "heroku-postgresql"
"""The add-on service whose plans these are: the part before the colon in `heroku-postgresql:standard-0`."""

GB = 1 << 30
TB = 1 << 40

SIZES: dict[str, tuple[int | None, int, int, int]] = {
    "0": (64 * GB, 400, 5_000, 20_000),
    "2": (256 * GB, 400, 20_000, 35_000),
    "3": (512 * GB, 500, 40_000, 75_000),
    "4": (768 * GB, 500, 75_000, 120_000),
    "5": (1 * TB, 500, 140_000, 250_000),
    "6": (3 * TB // 2, 500, 200_000, 350_000),
    "7": (2 * TB, 500, 350_000, 600_000),
    "8": (3 * TB, 500, 600_000, 900_000),
    "9": (4 * TB, 500, 900_000, 1_100_000),
    "10": (None, 500, 1_200_000, 1_400_000),
    "l-6": (2 * TB, 500, 250_000, 400_000),
    "xl-6": (3 * TB, 500, 300_000, 450_000),
    "l-9": (None, 500, 1_000_000, 1_200_000),
    "xl-9": (None, 500, 1_100_000, 1_300_000),
}
"""Size -> storage in bytes (None: not published), connections, cents a month as standard, and as premium and
above."""

ESSENTIAL: dict[str, tuple[int, int, int]] = {
    "essential-0": (1 * GB, 20, 500),
    "essential-1": (10 * GB, 20, 900),
    "essential-2": (32 * GB, 40, 2_000),
    "mini": (1 * GB, 20, 500),
    "basic": (10 * GB, 20, 900),
    "dev": (1 * GB, 20, 0),
}
"""Shared plans, today's and older ones -> storage, connections, cents a month."""

TIERS = ("standard", "premium", "private", "shield")
"""The tiers that have connection pooling."""

ADVANCED = re.compile(r"(advanced|performance)[a-z0-9-]{0,40}\Z")
ADVANCED_CONNECTIONS = 380


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan. `cents` a month; `storage` in bytes or None when no size is published."""

    name: str
    tier: str
    storage: int | None
    connections: int
    cents: int

    @property
    def full_name(self) -> str:
        return f"{SERVICE}:{self.name}"

    @property
    def title(self) -> str:
        """The plan as pg:info writes it: `Standard 0`."""
        return " ".join(part.upper() if part in ("l", "xl") else part.capitalize() for part in self.name.split("-"))

    @property
    def pooling(self) -> bool:
        return self.tier in TIERS


def _sized() -> list[Plan]:
    plans = []
    for tier in TIERS:
        for size, (storage, connections, standard, premium) in SIZES.items():
            if tier == "standard" and "l-" in size:
                continue
            cents = standard if tier == "standard" else premium
            plans.append(Plan(f"{tier}-{size}", tier, storage, connections, cents))
    return plans


PLANS: dict[str, Plan] = {plan.name: plan for plan in _sized()} | {
    name: Plan(name, "essential", *facts) for name, facts in ESSENTIAL.items()
}


def plan_named(name: str) -> Plan:
    """The plan `standard-0` or `heroku-postgresql:standard-0`; not_found for anything else."""
    short = name.removeprefix(f"{SERVICE}:")
    plan = PLANS.get(short)
    if plan is not None:
        return plan
    if ADVANCED.match(short):
        return Plan(short, "advanced", None, ADVANCED_CONNECTIONS, 0)
    raise PlatformError("not_found", f"{not_found('plan').message} {_choice(short)}", 404, resource="plan")


def _choice(name: str) -> str:
    """What it may have been meant for, and what there is."""
    hint = did_you_mean(name, PLANS).capitalize()
    tiers = dict.fromkeys(plan.tier for plan in PLANS.values())
    lines = [", ".join(plan.name for plan in PLANS.values() if plan.tier == tier) for tier in tiers]
    return "\n".join([f"{hint} There are:".strip(), *lines])


def pooling_refusal(plan: Plan) -> PlatformError | None:
    """Why a database of this plan gets no pool, in Heroku's words; None when it may."""
    if plan.pooling:
        return None
    tier = "Essential" if plan.tier == "essential" else "Advanced"
    return PlatformError("invalid_params", f"You can't perform this operation on {tier}-tier databases.", 422)
