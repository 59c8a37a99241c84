"""Which of several records of a slot counts."""

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.history.replicas import Records, SlotRecord
from telemetryd.history.slots import SIZES, Slot, grown
from tests.history.test_postgresql import slots


@given(st.lists(st.tuples(slots(), st.sampled_from("ab"), st.integers(0, 2)), max_size=8))
def test_peak_of_a_slot_is_that_of_every_record_whichever_counts(
    written: list[tuple[Slot, str, int]],
) -> None:
    kept: dict[tuple[int, int], SlotRecord] = {}
    highest: dict[tuple[int, int, str], int] = {}
    for slot, writer, epoch in written:
        records = Records(kept, writer, epoch)
        for made in grown([slot], records.stored, records.add):
            records.put(made)
        for name, cell in slot.cells.items():
            for size_s in (each for each in SIZES if each >= slot.size_s):
                key = size_s, slot.start // size_s * size_s, name
                highest[key] = max(highest.get(key, 0), cell.high)
    found = {
        (*key, name): cell.high
        for key, record in kept.items()
        for name, cell in record.slot.cells.items()
    }
    assert found == highest
