"""Quantities against an independent oracle, and the tables of what upstream got wrong."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import QuantityError
from telemetryd.quantity import parse_capacity, parse_quantity, whole_cores, whole_mib

LARGEST = (2**63 - 1) * 10**9
FACTORS = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
    "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(1024), "Mi": Fraction(1024**2), "Gi": Fraction(1024**3),
    "Ti": Fraction(1024**4), "Pi": Fraction(1024**5), "Ei": Fraction(1024**6),
}  # fmt: skip


def oracle(sign: str, whole: str, fraction: str, factor: Fraction) -> int:
    number = (Fraction(whole or "0") + Fraction(int(fraction or 0), 10 ** len(fraction))) * factor
    nano = number * 10**9
    up = min(-(-nano.numerator // nano.denominator), LARGEST)
    return -up if sign == "-" else up


signs = st.sampled_from(["", "+", "-"])
numbers = st.tuples(
    st.text("0123456789", max_size=25), st.text("0123456789", max_size=25), st.booleans()
).filter(lambda parts: parts[0] + parts[1])


def spell(whole: str, fraction: str, dotted: bool) -> str:
    return f"{whole}.{fraction}" if fraction or dotted else whole


@given(signs, numbers, st.sampled_from(sorted(FACTORS)))
def test_any_number_with_any_suffix_equals_the_oracle(
    sign: str, number: tuple[str, str, bool], suffix: str
) -> None:
    text = sign + spell(*number) + suffix
    assert parse_quantity(text) == oracle(sign, number[0], number[1], FACTORS[suffix])


@given(signs, numbers, st.sampled_from("eE"), st.sampled_from(["", "+"]), st.integers(-60, 60))
def test_any_number_with_any_exponent_equals_the_oracle(
    sign: str, number: tuple[str, str, bool], letter: str, plus: str, power: int
) -> None:
    text = sign + spell(*number) + letter + (plus if power >= 0 else "") + str(power)
    factor = Fraction(10) ** power
    assert parse_quantity(text) == oracle(sign, number[0], number[1], factor)


@given(st.integers(-(10**30), 10**30))
def test_a_json_integer_equals_its_text(number: int) -> None:
    assert parse_quantity(number) == parse_quantity(str(number))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_json_float_equals_its_shortest_text(number: float) -> None:
    exact = Fraction(repr(number)) * 10**9
    up = min(-(-abs(exact).numerator // exact.denominator), LARGEST)
    assert parse_quantity(number) == (-up if number < 0 else up)


@given(st.text(max_size=300))
def test_any_text_is_a_quantity_or_a_format_error(text: str) -> None:
    try:
        assert abs(parse_quantity(text)) <= LARGEST
    except QuantityError:
        return


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0), ("-0", 0), ("000", 0), (".5", 5 * 10**8), ("5.", 5 * 10**9), ("+5", 5 * 10**9),
        ("5E", 5 * 10**27), ("5E3", 5 * 10**12), ("5e3", 5 * 10**12), ("5E0", 5 * 10**9),
        ("1E-3", 10**6), ("1e+3", 10**12), ("7Ei", 7 * 2**60 * 10**9), ("8Ei", LARGEST),
        ("9E", 9 * 10**27), ("10E", LARGEST), ("1e19", LARGEST), ("-1e19", -LARGEST),
        ("1n", 1), ("0.1n", 1), ("-0.1n", -1), ("1.0000000001", 10**9 + 1), ("1e-30", 1),
        ("0e999999999", 0), ("1e999999999", LARGEST), ("1e-999999999", 1),
        ("0.0Ki", 0), ("1.5Ki", 1536 * 10**9), ("9223372036854775807", LARGEST),
        ("9223372036854775808", LARGEST), ("1k", 10**12), ("1u", 1000), ("1m", 10**6),
    ],
)  # fmt: skip
def test_a_form_of_the_grammar_is_read_exactly(text: str, nano: int) -> None:
    assert parse_quantity(text) == nano


@pytest.mark.parametrize(
    "text", [" 4", "4 ", "\t4\r\n", "\v\f4", "\x85\xa04", "\u1680\u20004\u200a", "\u20284\u3000"]
)
def test_white_space_around_a_quantity_is_trimmed(text: str) -> None:
    assert parse_quantity(text) == 4 * 10**9
    assert parse_quantity(text.replace("4", "4Ki")) == 4096 * 10**9


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "\u3000", "1 000", "1\tKi", "- 1", "1 e3", "1\x1c", "1\u200b",
        ".", "+", "-", "Ki", "m", "e3", "1.1.M",
        "1+1.0M", "0.1mi", "0.1am", "aoeu", ".5i", "1i", "-3.01i", "-3.01e-", "1e", "1K",
        "1KI", "1ki", "1eKi", "1e3Ki", "1Kii", "1kk", "--1", "+-1", "1,5", "0x10", "1_000",
        "\u0661", "1\u0661", "inf",
        "nan", "Infinity", "1e99999999999999999999", "1" * 257,
    ],
)  # fmt: skip
def test_what_is_outside_the_grammar_is_a_format_error(text: str) -> None:
    with pytest.raises(QuantityError):
        parse_quantity(text)


@pytest.mark.parametrize("value", [True, False, float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_none_is_a_format_error(value: float) -> None:
    with pytest.raises(QuantityError):
        parse_quantity(value)


def test_hostile_text_costs_next_to_nothing() -> None:
    """To work out 1e999999999 would never end."""
    hostile = ["9" * 10**6, "1e" + "9" * 200, "0." + "0" * 250 + "1", "1e999999999", "1" * 256]
    hostile += ["9" * 200 + "e-999999999", "9" * 100 + "e" + "1" * 18, "1e-" + "1" * 18]
    for text in hostile:
        try:
            parse_quantity(text)
        except QuantityError:
            continue


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("64G", 61036), ("129M", 124), ("128974848000m", 123), ("1.5Gi", 1536),
        ("100Ti", 104857600), ("1Pi", 1073741824), ("99Ti", 99 * 2**20), ("8Mi", 8),
        ("49152768Ki", 48001), ("8388608", 8), ("8388609", 9), ("16384256Ki", 16001), (8388608, 8),
        (1e3, 1), ("1", 1), ("0", 0),
    ],
)  # fmt: skip
def test_memory_upstream_got_wrong_is_whole_mib_rounded_up(text: str | float, mib: int) -> None:
    assert whole_mib(parse_capacity(text)) == mib


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("3920m", 4), ("1.5", 2), ("4000m", 4), ("2.0", 2), ("500m", 1), ("1e3", 1000), ("4", 4),
        (4, 4), (1.5, 2), (2.0, 2), ("0", 0), ("1n", 1), ("1k", 1000),
    ],
)  # fmt: skip
def test_cpu_upstream_got_wrong_is_whole_cores_rounded_up(text: str | float, cores: int) -> None:
    assert whole_cores(parse_capacity(text)) == cores


@pytest.mark.parametrize("value", [None, ""])
def test_capacity_missing_or_empty_is_not_reported(value: str | None) -> None:
    with pytest.raises(QuantityError, match="no capacity is reported"):
        parse_capacity(value)


@pytest.mark.parametrize("value", ["four", "-1", "-1n", -1, -0.5, True, False, "1e", float("nan")])
def test_capacity_malformed_or_negative_is_an_error(value: str | float) -> None:
    with pytest.raises(QuantityError):
        parse_capacity(value)


def test_negative_zero_is_a_capacity_of_zero() -> None:
    assert parse_capacity("-0") == 0
    assert parse_capacity("-0.000") == 0
