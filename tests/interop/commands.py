# Every command and flag with structured replies.
h = connect(contexts=["base:allocation"])
assert h.get_size() == size
assert h.get_structured_replies_negotiated()
assert [h.get_block_size(kind) for kind in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)] == [1, 4096, 32 << 20]
assert h.can_meta_context("base:allocation")

random_operations(h, random.Random(1), 300)

# FAST_ZERO is never refused here: zeroes are a record of the journal, which is faster than writing them.
h.pwrite(b"x" * 16384, 1 << 20)
h.zero(8192, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(16384, 1 << 20) == bytes(8192) + b"x" * 8192

# NO_HOLE reads as zero too. Whether it keeps the space is seen on the data files: tests/process/disks.rs.
h.zero(65536, 2 << 20, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(65536, 2 << 20) == bytes(65536)

# Allocation: covers what was asked for, and what it calls zero reads as zero.
extents = []
h.block_status(REGION, 0, lambda context, offset, entries, error: extents.extend(entries))
lengths, flags = extents[0::2], extents[1::2]
assert all(length > 0 for length in lengths) and sum(lengths) >= 1
at = 0
for length, flag in zip(lengths, flags):
    if flag & nbd.STATE_ZERO:
        length = min(length, REGION - at)
        assert h.pread(length, at) == bytes(length), at
    at += length
one = []
h.block_status(REGION, 4096, lambda context, offset, entries, error: one.extend(entries), nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 2 and one[0] <= REGION, one

# DF: one piece.
pieces = []
h.pread_structured(65536, 12345, lambda data, offset, status, error: pieces.append((offset, len(data))), nbd.CMD_FLAG_DF)
assert pieces == [(12345, 65536)], pieces

# Many requests at a time, answered in any order.
cookies = []
for index in range(64):
    buffer = nbd.Buffer.from_bytearray(bytearray([index + 1]) * 5000)
    cookies.append((h.aio_pwrite(buffer, (4 << 20) + index * 5000), buffer))
while h.aio_in_flight() > 0:
    h.poll(-1)
for cookie, _ in cookies:
    assert h.aio_command_completed(cookie)
h.flush()
for index in range(64):
    assert h.pread(5000, (4 << 20) + index * 5000) == bytes([index + 1]) * 5000

# The largest request, and the ends of the volume.
h.pwrite(b"\x77" * (32 << 20), size - (32 << 20))
assert h.pread(32 << 20, size - (32 << 20)) == b"\x77" * (32 << 20)
h.pwrite(b"e", size - 1, nbd.CMD_FLAG_FUA)
assert h.pread(2, size - 2) == b"\x77e"
h.shutdown()
print("done")
