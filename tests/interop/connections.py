# One volume over several connections: what one has flushed, all see.
handles = [connect() for _ in range(4)]
assert all(handle.can_multi_conn() for handle in handles)
chance = random.Random(3)
for step in range(200):
    writer, flusher, reader = (chance.choice(handles) for _ in range(3))
    offset, length = chance.randrange(0, REGION), chance.choice([1, 100, 4096, 10000, 65536])
    data = chance.randbytes(length)
    writer.pwrite(data, offset)
    flusher.flush()
    assert reader.pread(length, offset) == data, step
for handle in handles:
    handle.shutdown()
print("done")
