"""What a value must be to be one."""

import re
import string

import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from catalog_command.domain.category import category
from catalog_command.domain.currencies import MINOR_UNITS
from catalog_command.domain.errors import InvalidCommand, InvalidValue
from catalog_command.domain.gtin import check_digit, gtin
from catalog_command.domain.money import MAXIMUM_DIGITS, Money, money
from catalog_command.domain.sku import product_id, sku
from catalog_command.domain.text import line, prose
from catalog_command.domain.vin import has_check_digit, vin
from hypothesis import given
from hypothesis import strategies as st


def priced(amount: str, currency: str = "EUR") -> Money:
    return money(events.Money(amount=amount, currency=currency))


class TestMoney:
    @pytest.mark.parametrize(
        ("amount", "currency", "canonical"),
        [
            ("12999.00", "EUR", "12999.00"),
            ("12999", "EUR", "12999.00"),
            ("12999.0", "USD", "12999.00"),
            ("0", "EUR", "0.00"),
            ("000.5", "EUR", "0.50"),
            ("1299", "JPY", "1299"),
            ("1.234", "KWD", "1.234"),
            ("1.5", "CLF", "1.5000"),
            ("9999999999999999.99", "EUR", "9999999999999999.99"),
            ("0009999999999999999.99", "EUR", "9999999999999999.99"),
        ],
    )
    def test_an_exact_amount_takes_the_decimals_of_its_currency(self, amount, currency, canonical):
        """Fewer decimals than the currency has are filled up, and needless zeros in front go."""
        assert priced(amount, currency) == Money(canonical, currency)

    @pytest.mark.parametrize(
        "amount",
        ["", " ", "-1", "-0.00", "+1", "1e3", "1E3", "NaN", "nan", "Infinity", "-Infinity", "inf", "1.", ".5", "1,5",
         "1 000", "1_000", "0x10", "١٢", "\uff11\uff12", "1.2.3", " 1", "1\n", "--1", "1.001", "0.000", "1" + "0" * 16, "9" * 400],
    )  # fmt: skip
    def test_what_is_no_exact_amount_is_refused(self, amount):
        """Nothing is guessed and nothing is rounded: a sign, an exponent, a third decimal of a euro or a nineteenth digit."""
        with pytest.raises(InvalidCommand) as refused:
            priced(amount)
        assert [field for field, _ in refused.value.violations] == ["amount"]

    @pytest.mark.parametrize("currency", ["", "eur", "EURO", "XXX", "XAU", "BGN", "ANG", "ZWL", "BTC", "E\0R"])
    def test_what_is_no_active_currency_is_refused(self, currency):
        """Only ISO 4217 codes of today that have a minor unit."""
        with pytest.raises(InvalidCommand) as refused:
            priced("1", currency)
        assert [field for field, _ in refused.value.violations] == ["currency"]

    @given(st.integers(min_value=0, max_value=10**MAXIMUM_DIGITS - 1), st.sampled_from(sorted(MINOR_UNITS)))
    def test_every_canonical_amount_is_itself(self, units, currency):
        """Canonical form is a fixed point, for all amounts and currencies."""
        decimals = MINOR_UNITS[currency]
        digits = str(units).rjust(decimals + 1, "0")
        amount = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
        assert priced(amount, currency) == Money(amount, currency)

    def test_the_table_has_the_currencies_of_the_world(self):
        """Every code is three letters and stands once; the number of decimals is one that ISO 4217 knows."""
        assert len(MINOR_UNITS) == 165
        assert all(re.fullmatch("[A-Z]{3}", code) for code in MINOR_UNITS)
        assert {code: MINOR_UNITS[code] for code in ("EUR", "USD", "JPY", "KRW", "TND", "CLF", "ISK", "HUF", "MRU")} == {
            "EUR": 2, "USD": 2, "JPY": 0, "KRW": 0, "TND": 3, "CLF": 4, "ISK": 0, "HUF": 2, "MRU": 2,
        }  # fmt: skip


class TestGtin:
    @pytest.mark.parametrize("text", ["", "96385074", "036000291452", "4006381333931", "10614141000415"])
    def test_a_number_with_its_check_digit_is_taken(self, text):
        """GTIN-8, -12, -13 and -14, from GS1's examples; and none at all."""
        assert gtin(text) == text

    @pytest.mark.parametrize(
        "text",
        ["4006381333932", "400638133393", "1", "40063813339310000", "400638133393a", "\uff14006381333931"],
    )
    def test_another_number_is_refused(self, text):
        """A wrong check digit, a wrong length, or no digits."""
        with pytest.raises(InvalidValue):
            gtin(text)

    @given(st.sampled_from([7, 11, 12, 13]).flatmap(lambda n: st.text("0123456789", min_size=n, max_size=n)), st.data())
    def test_any_one_wrong_digit_is_found(self, digits, data):
        """The check digit finds every single mistyped digit: that is what it is for."""
        valid = digits + str(check_digit(digits))
        assert gtin(valid) == valid
        place = data.draw(st.integers(0, len(valid) - 1))
        other = data.draw(st.sampled_from([digit for digit in "0123456789" if digit != valid[place]]))
        with pytest.raises(InvalidValue):
            gtin(valid[:place] + other + valid[place + 1 :])


class TestVin:
    def test_a_vin_is_kept_in_capitals(self):
        """Letters count the same in both cases, so one of them is kept."""
        assert vin("1m8gdm9axkp042788") == "1M8GDM9AXKP042788"

    def test_the_check_digit_is_told_and_never_enforced(self):
        """49 CFR 565.15's own example has it; a European number need not."""
        assert has_check_digit("1M8GDM9AXKP042788")
        european = vin("WVWZZZ1JZXW000001")
        assert not has_check_digit(european)

    @pytest.mark.parametrize(
        "text",
        [
            "1M8GDM9AXKP04278",
            "1M8GDM9AXKP0427888",
            "1M8GDM9AXKPO42788",
            "IM8GDM9AXKP042788",
            "1M8GDM9AXKQ042788",
            "1M8GDM9AXKP04278\n",
            "\u0131" * 17,
        ],
    )
    def test_what_is_no_vin_is_refused(self, text):
        """Seventeen characters, and none of I, O and Q."""
        with pytest.raises(InvalidValue):
            vin(text)


class TestSku:
    @given(st.text(string.ascii_letters + string.digits + "._-/", min_size=1, max_size=64))
    def test_a_sku_is_itself_and_gives_one_id(self, text):
        """Case counts; the id comes from the SKU alone."""
        assert sku(text) == text
        assert product_id(text) == product_id(text)
        assert product_id(text) != product_id(text + "x")

    @pytest.mark.parametrize("text", ["", "a" * 65, "a b", "ä", "a\n", "a;b", "a\0", "٣"])
    def test_what_is_no_sku_is_refused(self, text):
        """Anything outside the alphabet, empty, or too long."""
        with pytest.raises(InvalidValue):
            sku(text)

    def test_the_namespace_of_ids_never_changes(self):
        """An id that was given once is the stream's name for ever."""
        assert str(product_id("VOLVO-V60-2020")) == "d44bfcd0-4657-5ca4-abca-1dd1a03da477"


class TestCategory:
    @pytest.mark.parametrize("text", ["", "a", "vehicles/suv", "home-and-garden/garden-2/chairs", "a/b/c/d/e/f/g/h"])
    def test_a_path_of_slugs_is_taken(self, text):
        """Up to eight names, or none yet."""
        assert category(text) == text

    @pytest.mark.parametrize(
        "text",
        ["/", "a/", "/a", "a//b", "A", "a b", "a_b", "-a", "a-", "a--b", "é", "a/b/c/d/e/f/g/h/i", "a" * 201, "a\n"],
    )
    def test_another_form_is_refused(self, text):
        """Empty names, capitals, other letters, stray hyphens, too deep or too long."""
        with pytest.raises(InvalidValue):
            category(text)


class TestText:
    def test_text_is_normalised_and_trimmed(self):
        """The same word from two keyboards is the same word."""
        assert line("  Citroe\u0308n C3 ", maximum=20) == "Citroën C3"
        assert prose("a\r\nb\tc", maximum=5) == "a\nb\tc"

    @pytest.mark.parametrize("control", ["\0", "\x1b", "\x7f", "\x85", "\u202e", "\ufffe", "\r"])
    def test_control_characters_are_refused(self, control):
        """They come from a broken export, or mean to deceive."""
        with pytest.raises(InvalidValue):
            line(f"a{control}b", maximum=10)
        with pytest.raises(InvalidValue):
            prose(f"a{control}b", maximum=10)

    @pytest.mark.parametrize("control", ["\n", "\t", "\u2028"])
    def test_a_line_is_one_line(self, control):
        """What breaks a line or jumps in it is for prose."""
        with pytest.raises(InvalidValue):
            line(f"a{control}", maximum=10)
        assert prose(f"a{control}", maximum=10) == f"a{control}"

    def test_length_is_counted_in_characters_after_normalisation(self):
        """What the person sees is what is counted."""
        assert line("e\u0301" * 10, minimum=1, maximum=10) == "é" * 10
        for text in ("", "   ", "é" * 11):
            with pytest.raises(InvalidValue):
                line(text, minimum=1, maximum=10)

    @given(st.text(max_size=50))
    def test_normalising_again_changes_nothing(self, text):
        """What was taken once is taken again as it is."""
        for parse in (line, prose):
            try:
                taken = parse(text, maximum=200)
            except InvalidValue:
                continue
            assert parse(taken, maximum=200) == taken
