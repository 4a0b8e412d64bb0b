# What is wrong is refused by its number, and the connection goes on.
h = connect()
h.set_strict_mode(0)
h.pwrite(b"k" * 8192, 0)
fails_with(errno.EINVAL, h.pread, 512, size - 511)
fails_with(errno.EINVAL, h.pread, 512, (1 << 64) - 4096)
fails_with(errno.ENOSPC, h.pwrite, b"w" * 8192, size - 4096)
fails_with(errno.ENOSPC, h.zero, 8192, size - 4096)
fails_with(errno.EINVAL, h.trim, 8192, size - 4096)
fails_with(errno.EINVAL, h.cache, 8192, size - 4096)
fails_with(errno.EINVAL, h.pread, 4096, 0, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(8192, 0) == b"k" * 8192
h.shutdown()

# Options: another name is refused, the session goes on; the list has this export only.
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["demo"], names
h.set_export_name("another")
fails_with(errno.ENOENT, h.opt_go)
h.set_export_name("demo")
h.opt_info()
assert h.get_size() == size
h.opt_go()
assert h.pread(4, 0) == b"kkkk"
h.shutdown()

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
h.opt_abort()
print("done")
