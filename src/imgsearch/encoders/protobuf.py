"""Read messages in protobuf's wire format, of files that may be hostile, without copying what they hold."""

import mmap
from dataclasses import dataclass

_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5  # wire types; 3 and 4, groups, are in no format read here
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_LONGEST_TEXT = 4096


@dataclass(slots=True)
class Budget:
    """How many fields may still be read, of all messages of a file together."""

    left: int

    def spend(self) -> None:
        """Count one."""
        self.left -= 1
        if self.left < 0:
            raise ValueError("it has too many fields")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file: a message, a text, or other bytes; its fields say which."""

    buffer: bytes | mmap.mmap
    start: int
    end: int
    budget: Budget

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.end - self.start

    def fields(self) -> "Fields":
        """Read it as a message.

        Raises:
            ValueError: It is none, it ends before it should, or the file has too many fields.
        """
        found: dict[int, list[int | Part]] = {}
        place = self.start
        while place < self.end:
            self.budget.spend()
            tag, place = self._varint(place)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise ValueError(f"it has a field of number {number}")
            value: int | Part
            if wire == _VARINT:
                value, place = self._varint(place)
            else:
                if wire == _DELIMITED:
                    size, place = self._varint(place)
                elif wire in _FIXED:
                    size = _FIXED[wire]
                else:
                    raise ValueError(f"it has a field of wire type {wire}")
                if size > self.end - place:
                    raise ValueError(f"{size - (self.end - place):,} bytes are missing")
                value = Part(self.buffer, place, place + size, self.budget)
                place += size
            found.setdefault(number, []).append(value)
        return Fields(found)

    def text(self) -> str:
        """Read it as text."""
        if self.size > _LONGEST_TEXT:
            raise ValueError(f"it has a name of {self.size:,} bytes")
        return bytes(self.buffer[self.start : self.end]).decode()

    def varints(self) -> list[int]:
        """Read it as packed whole numbers of 64 bits, without a sign."""
        numbers, place = [], self.start
        while place < self.end:
            self.budget.spend()
            number, place = self._varint(place)
            numbers.append(number)
        return numbers

    def _varint(self, place: int) -> tuple[int, int]:
        """Read a whole number of up to 64 bits, seven in a byte; return it, and the place after it."""
        number = 0
        for shift in range(0, 70, 7):
            if place >= self.end:
                raise ValueError("bytes are missing")
            byte = self.buffer[place]
            place += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number & (1 << 64) - 1, place
        raise ValueError("it has a number of more than ten bytes")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a message by their numbers. ValueError where one is of another kind than asked for."""

    values: dict[int, list[int | Part]]

    def __contains__(self, number: int) -> bool:
        return number in self.values

    def parts(self, number: int) -> list[Part]:
        """Return all messages, texts or bytes of a number."""
        found = [value for value in self.values.get(number, ()) if isinstance(value, Part)]
        if len(found) < len(self.values.get(number, ())):
            raise ValueError(f"field {number} is a number")
        return found

    def part(self, number: int) -> Part | None:
        """Return the only one of a number, or None; protobuf would merge several."""
        found = self.parts(number)
        if len(found) > 1:
            raise ValueError(f"field {number} is there {len(found)} times")
        return found[0] if found else None

    def text(self, number: int) -> str:
        """Return the only text of a number, or an empty one."""
        part = self.part(number)
        return part.text() if part else ""

    def texts(self, number: int) -> list[str]:
        """Return all texts of a number."""
        return [part.text() for part in self.parts(number)]

    def numbers(self, number: int) -> list[int]:
        """Return all whole numbers of a number, packed or not."""
        found: list[int] = []
        for value in self.values.get(number, ()):
            found += value.varints() if isinstance(value, Part) else [value]
        return found

    def number(self, number: int) -> int:
        """Return the whole number that counts, the last, or 0."""
        return (self.numbers(number) or [0])[-1]
