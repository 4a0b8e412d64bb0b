# What the scripts for libnbd's Python module share. `uri` and `size` are set before; run by body.rs.
import errno
import nbd
import random

BLOCK = 4096
REGION = 8 << 20  # the part of the volume that random operations stay in


def connect(structured=True, contexts=()):
    handle = nbd.NBD()
    handle.set_request_structured_replies(structured)
    for context in contexts:
        handle.add_meta_context(context)
    handle.connect_uri(uri)
    return handle


def fails_with(number, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errnum == number, (error, errno.errorcode.get(error.errnum), errno.errorcode[number])
        return
    raise AssertionError(f"{call} {args} did not fail")


def whole_blocks(offset, length):
    first = -(-offset // BLOCK) * BLOCK
    return first, max(first, (offset + length) // BLOCK * BLOCK)


def random_operations(handle, chance, count):
    """Random commands beside a copy in memory; both must stay equal."""
    shadow = bytearray(handle.pread(REGION, 0))
    for step in range(count):
        length = chance.choice([1, 511, 512, 4095, 4096, 4097, 12288, 65536, 100000, 1 << 20])
        length = chance.randrange(1, length + 1) if chance.random() < 0.5 else length
        offset = chance.randrange(0, REGION - length)
        offset = offset // BLOCK * BLOCK if chance.random() < 0.3 else offset
        durable = chance.choice([0, nbd.CMD_FLAG_FUA])
        what = chance.choice(["write", "write", "read", "zero", "zero", "trim", "cache", "flush"])
        if what == "write":
            data = chance.randbytes(length)
            handle.pwrite(data, offset, durable)
            shadow[offset:offset + length] = data
        elif what == "read":
            assert handle.pread(length, offset) == shadow[offset:offset + length], (step, offset, length)
        elif what == "zero":
            handle.zero(length, offset, durable | chance.choice([0, nbd.CMD_FLAG_NO_HOLE]))
            shadow[offset:offset + length] = bytes(length)
        elif what == "trim":
            handle.trim(length, offset, durable)
            first, end = whole_blocks(offset, length)
            shadow[first:end] = bytes(end - first)
        elif what == "cache":
            handle.cache(length, offset)
        else:
            handle.flush()
    found = handle.pread(REGION, 0)
    assert found == shadow, next(at for at in range(REGION) if found[at] != shadow[at])
