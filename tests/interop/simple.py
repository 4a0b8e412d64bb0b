# Simple replies only, as old clients speak.
h = connect(structured=False)
assert not h.get_structured_replies_negotiated()
assert not h.can_df()
random_operations(h, random.Random(2), 200)
h.set_strict_mode(0)
fails_with(errno.EINVAL, h.pread, 512, size)
assert h.pread(512, 0) is not None
h.shutdown()
print("done")
