"""Given what has happened to a product, when something is asked of it, then this happens, or it is refused by name."""

from typing import Any

import pytest
from almagest.catalog.events.v1.product_events_pb2 import (
    Money as MoneyMessage,
)
from almagest.catalog.events.v1.product_events_pb2 import (
    PriceSet,
    ProductCreated,
    ProductDescribed,
    ProductDiscontinued,
    ProductPublished,
    ProductUnpublished,
)
from catalog_command.domain import errors
from catalog_command.domain.commands import (
    CreateProduct,
    DescribeProduct,
    DiscontinueProduct,
    PublishProduct,
    PutProduct,
    SetPrice,
    UnpublishProduct,
)
from catalog_command.domain.description import Kind, description
from catalog_command.domain.money import Money
from catalog_command.domain.product import Status, decide, evolve, fold, initial
from hypothesis import given
from hypothesis import strategies as st

YEAR = 2026
SKU = "VOLVO-V60"
ID = "c0ffee00-0000-5000-8000-000000000000"


@pytest.fixture
def car(example):
    return description(example.car(), year=YEAR)


@pytest.fixture
def created(car):
    return ProductCreated(product_id=ID, sku=SKU, description=car.message)


def priced(amount: str = "12999.00", currency: str = "EUR") -> PriceSet:
    return PriceSet(price=MoneyMessage(amount=amount, currency=currency))


class TestCreate:
    def test_what_is_not_there_is_created(self, car, created):
        """Given nothing, when created, then it is created."""
        assert decide(initial, CreateProduct(ID, SKU, car)) == [created]

    def test_the_same_again_changes_nothing(self, car, created):
        """Given the product, when created just so, then nothing."""
        assert decide(fold(initial, [created]), CreateProduct(ID, SKU, car)) == []

    def test_another_product_finds_the_sku_taken(self, created, example):
        """Given the product, when created otherwise, then it exists already."""
        other = description(example.car(name="Saab 900"), year=YEAR)
        with pytest.raises(errors.ProductAlreadyExists, match=SKU):
            decide(fold(initial, [created]), CreateProduct(ID, SKU, other))

    def test_a_discontinued_product_is_not_created_anew(self, car, created):
        """Given the end, when created just so, then it is discontinued."""
        state = fold(initial, [created, ProductDiscontinued(reason="x")])
        with pytest.raises(errors.ProductDiscontinued):
            decide(state, CreateProduct(ID, SKU, car))


class TestDescribe:
    def test_a_new_description_replaces_the_old_one(self, created, example):
        """Given a product, when described otherwise, then it is described so."""
        other = description(example.car(doors=3), year=YEAR)
        assert decide(fold(initial, [created]), DescribeProduct(other)) == [ProductDescribed(description=other.message)]

    def test_the_kind_never_changes(self, created, example):
        """Given a car, when described as a truck, then it is refused, even by a put."""
        truck = description(example.truck(), year=YEAR)
        for command in (DescribeProduct(truck), PutProduct(ID, SKU, truck)):
            with pytest.raises(errors.KindChanged, match="kind car"):
                decide(fold(initial, [created]), command)

    def test_properties_are_compared_without_their_order(self, example):
        """Given properties, when described with the same in another order, then nothing."""
        one = description(example.general(properties={"a": "1", "b": "2", "c": "3"}), year=YEAR)
        other = description(example.general(properties={"c": "3", "b": "2", "a": "1"}), year=YEAR)
        state = fold(initial, [ProductCreated(product_id=ID, sku=SKU, description=one.message)])
        assert decide(state, DescribeProduct(other)) == []


class TestPut:
    def test_it_creates_what_is_not_there(self, car, created):
        """Given nothing, when put, then it is created."""
        assert decide(initial, PutProduct(ID, SKU, car)) == [created]

    def test_it_describes_what_is_there(self, created, example):
        """Given a product, when put otherwise, then it is described so; when put as it is, then nothing."""
        other = description(example.car(seats=7), year=YEAR)
        state = fold(initial, [created])
        happened = decide(state, PutProduct(ID, SKU, other))
        assert happened == [ProductDescribed(description=other.message)]
        assert decide(fold(state, happened), PutProduct(ID, SKU, other)) == []


class TestPrice:
    def test_a_price_is_set_once(self, created):
        """Given a product, when priced, then it has the price; when priced so again, then nothing."""
        command = SetPrice(Money("12999.00", "EUR"))
        assert decide(fold(initial, [created]), command) == [priced()]
        assert decide(fold(initial, [created, priced()]), command) == []

    def test_the_currency_is_part_of_the_price(self, created):
        """Given a price in euros, when priced as much in dollars, then it has that price."""
        state = fold(initial, [created, priced()])
        assert decide(state, SetPrice(Money("12999.00", "USD"))) == [priced(currency="USD")]


class TestPublish:
    def test_a_product_without_a_price_stays_a_draft(self, created):
        """Given no price, when published, then it is refused."""
        with pytest.raises(errors.PriceMissing):
            decide(fold(initial, [created]), PublishProduct())

    def test_publishing_and_hiding_take_turns(self, created):
        """Given a priced product, then it can be published and hidden, each once."""
        draft = fold(initial, [created, priced()])
        assert decide(draft, UnpublishProduct()) == []
        assert decide(draft, PublishProduct()) == [ProductPublished()]
        public = evolve(draft, ProductPublished())
        assert public.status is Status.PUBLISHED
        assert decide(public, PublishProduct()) == []
        assert decide(public, UnpublishProduct()) == [ProductUnpublished()]
        assert evolve(public, ProductUnpublished()) == draft


class TestDiscontinue:
    def test_it_is_the_end(self, car, created):
        """Given the end, then everything is refused but the same end."""
        state = fold(initial, [created, priced(), ProductPublished()])
        end = DiscontinueProduct("No longer made")
        assert decide(state, end) == [ProductDiscontinued(reason="No longer made")]
        ended = evolve(state, ProductDiscontinued(reason="No longer made"))
        assert decide(ended, end) == []
        for command in (
            CreateProduct(ID, SKU, car),
            DescribeProduct(car),
            PutProduct(ID, SKU, car),
            SetPrice(Money("12999.00", "EUR")),
            PublishProduct(),
            UnpublishProduct(),
            DiscontinueProduct("Another reason"),
        ):
            with pytest.raises(errors.ProductDiscontinued):
                decide(ended, command)


def test_what_does_not_exist_cannot_be_changed(car):
    """Given nothing, when anything but a creation is asked, then there is no such product."""
    for command in (
        DescribeProduct(car),
        SetPrice(Money("1.00", "EUR")),
        PublishProduct(),
        UnpublishProduct(),
        DiscontinueProduct("x"),
    ):
        with pytest.raises(errors.ProductNotFound):
            decide(initial, command)


class TestLaws:
    """What holds in every state, for every command."""

    @staticmethod
    def commands(example) -> st.SearchStrategy[Any]:
        descriptions = [
            description(message, year=YEAR)
            for message in (example.car(), example.car(name="Other"), example.truck(), example.general())
        ]
        return st.one_of(
            st.builds(CreateProduct, st.just(ID), st.just(SKU), st.sampled_from(descriptions)),
            st.builds(PutProduct, st.just(ID), st.just(SKU), st.sampled_from(descriptions)),
            st.builds(DescribeProduct, st.sampled_from(descriptions)),
            st.builds(SetPrice, st.builds(Money, st.sampled_from(["1.00", "2.00"]), st.sampled_from(["EUR", "USD"]))),
            st.builds(PublishProduct),
            st.builds(UnpublishProduct),
            st.builds(DiscontinueProduct, st.sampled_from(["a", "b"])),
        )

    @given(data=st.data())
    def test_every_command_is_idempotent(self, example, data):
        """Decide, evolve, decide again gives nothing; a refusal leaves nothing to evolve."""
        state = initial
        for command in data.draw(st.lists(self.commands(example), max_size=12)):
            try:
                happened = decide(state, command)
            except errors.DomainError:
                continue
            state = fold(state, happened)
            assert decide(state, command) == []

    @given(data=st.data())
    def test_invariants_hold_in_every_state_that_can_be_reached(self, example, data):
        """What is published has a price; kind and SKU never change; the end is the end; and events survive the wire."""
        state = initial
        for command in data.draw(st.lists(self.commands(example), max_size=12)):
            before = state
            try:
                happened = decide(state, command)
            except errors.DomainError:
                continue
            state = fold(state, [type(event).FromString(event.SerializeToString()) for event in happened])
            assert state == fold(before, happened)
            if state.status is Status.PUBLISHED:
                assert state.price is not None
            if before.status is not Status.ABSENT:
                assert (state.kind, state.sku) == (before.kind, before.sku)
            if before.status is Status.DISCONTINUED:
                assert state == before


class TestDescription:
    @staticmethod
    def refused(message, *fields: str) -> None:
        with pytest.raises(errors.InvalidCommand) as refusal:
            description(message, year=YEAR)
        assert [field for field, _ in refusal.value.violations] == list(fields)

    def test_each_kind_is_taken_and_normalised_once(self, example):
        """A description that holds the rules is itself, and is recognised by its digest."""
        for message, kind in (
            (example.car(), Kind.CAR),
            (example.truck(), Kind.TRUCK),
            (example.general(), Kind.GENERAL),
        ):
            taken = description(message, year=YEAR)
            assert taken.kind is kind
            assert taken.message == message
            assert description(taken.message, year=YEAR) == taken

    def test_what_is_unknown_may_be_left_out(self, example):
        """Zero and the empty string say that it is not known."""
        description(example.car(doors=0, seats=0, text="", category=""), year=YEAR)
        description(example.truck(payload_kg=0, gross_weight_kg=0), year=YEAR)
        description(example.general(brand="", gtin="", properties={}), year=YEAR)

    def test_the_rules_of_a_car(self, example):
        """Doors, seats, years, makes and models."""
        self.refused(example.car(doors=8), "car.doors")
        self.refused(example.car(seats=10), "car.seats")
        self.refused(example.car(model_year=1885), "car.vehicle.model_year")
        self.refused(example.car(model_year=0), "car.vehicle.model_year")
        self.refused(example.car(model_year=YEAR + 3), "car.vehicle.model_year")
        self.refused(example.car(make=""), "car.vehicle.make")
        self.refused(example.car(model="x" * 101), "car.vehicle.model")
        self.refused(example.car(vin="1"), "car.vehicle.vin")
        self.refused(example.car(body_styles=["SUV", ""]), "car.vehicle.body_styles[1]")
        self.refused(example.car(body_styles=[str(n) for n in range(17)]), "car.vehicle.body_styles")
        description(example.car(model_year=YEAR + 2, doors=7, seats=9), year=YEAR)
        description(example.car(model_year=1886), year=YEAR)

    def test_a_truck_weighs_more_than_it_carries(self, example):
        """The gross weight includes the payload."""
        self.refused(example.truck(payload_kg=18_000), "truck.payload_kg")
        self.refused(example.truck(payload_kg=4_000_000_000), "truck.payload_kg")
        description(example.truck(payload_kg=17_999), year=YEAR)
        description(example.truck(payload_kg=99_999, gross_weight_kg=0), year=YEAR)

    def test_the_rules_of_a_general_product(self, example):
        """A number with its check digit; few, short properties with distinct names."""
        self.refused(example.general(gtin="4006381333932"), "general.gtin")
        self.refused(example.general(properties={"": "x"}), "general.properties")
        self.refused(example.general(properties={"x" * 65: "x"}), "general.properties")
        self.refused(example.general(properties={"x": "x" * 1001}), "general.properties[x]")
        self.refused(example.general(properties={str(n): "x" for n in range(101)}), "general.properties")
        self.refused(example.general(properties={str(n): "x" * 1000 for n in range(21)}), "general.properties")
        self.refused(example.general(properties={"é": "1", "e\u0301": "2"}), "general.properties[é]")

    def test_a_description_has_a_name_and_a_kind(self, example):
        """Neither can be left out; texts have their limits."""
        self.refused(example.car(name=" "), "name")
        self.refused(example.car(name="x" * 201), "name")
        self.refused(example.car(text="x" * 10_001), "text")
        self.refused(example.car(category="Vehicles"), "category")
        bare = example.car()
        bare.ClearField("car")
        self.refused(bare, "attributes")

    def test_everything_wrong_is_named_at_once(self, example):
        """Nobody has to find out field by field."""
        self.refused(
            example.car(name="", category="A", doors=9, make="", model_year=1),
            "name", "category", "car.vehicle.model_year", "car.vehicle.make", "car.doors",
        )  # fmt: skip

    def test_a_style_named_twice_is_one_style(self, example):
        """The styles are a set, in the order in which they came."""
        taken = description(example.car(body_styles=["SUV", "Wagon", " SUV"]), year=YEAR)
        assert list(taken.message.car.vehicle.body_styles) == ["SUV", "Wagon"]
